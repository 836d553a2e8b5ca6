// What both kernels of the first block share: the walk over tiles, the way of a tile's patch to shared memory, and the
// end of a window.
#pragma once

#include <cstdint>

#include "cuda/conv/conv_first.h"
#include "cuda/conv/epilogue.h"
#include "cuda/device/device.h"
#include "cuda/device/prefetch.h"
#include "cuda/frontend/clip_values.h"

namespace fcntag {
namespace cuda {

static_assert(kFirstThreads == kFinishThreads, "a block of the first block finds a clip's values");

// A tile's place: image, and row and column of tiles.
struct FirstTile {
  int image, row, column;

  FCNTAG_DEVICE FirstTile(const FirstParams& p, int index) {
    image = divide(index, p.by_tiles);
    const int inside = index - image * (p.tiles_h * p.tiles_w);
    row = divide(inside, p.by_tiles_w);
    column = inside - row * p.tiles_w;
  }
  FCNTAG_DEVICE void advance(const FirstParams& p) {
    if (++column < p.tiles_w) return;
    column = 0;
    if (++row < p.tiles_h) return;
    row = 0;
    ++image;
  }
};

// The tiles of this CTA, [begin, end).
struct FirstRun {
  int begin, end;

  FCNTAG_DEVICE explicit FirstRun(const FirstParams& p) {
    const int tiles = p.io->count * (p.tiles_h * p.tiles_w);
    const int each = divide(tiles + static_cast<int>(gridDim.x) - 1, p.by_ctas);
    begin = static_cast<int>(blockIdx.x) * each;
    end = begin + each < tiles ? begin + each : tiles;
  }
};

// A thread's share of a patch: pixels kFirstThreads apart, in registers from load() to store(). Pixels beyond
// kHeld * kFirstThreads (of a large window) go to shared memory without a stay in registers. An input that is not
// finished is finished in `Real`, or in float if that is what its ClipFinish says.
template <typename Real, int kHeld>
class FirstPatch {
 public:
  // `slots`: kFinishWarps floats of shared memory.
  FCNTAG_DEVICE FirstPatch(const FirstParams& p, float* slots) : slots_(slots) {
    const int thread = static_cast<int>(threadIdx.x), first_row = divide(thread, p.by_patch_w);
    int row = first_row, column = thread - first_row * p.patch_w;
    FCNTAG_UNROLL for (int i = 0; i < kHeld; ++i) {
      places_[i] = static_cast<uint32_t>(row) << 16 | static_cast<uint32_t>(column);
      step(p, &row, &column);
    }
  }

  // Starts the loads of a tile, the first one of its image or another. All threads call it together, at most once
  // between two barriers.
  FCNTAG_DEVICE void load(const FirstParams& p, const FirstTile& tile, bool new_image) {
    if (p.finish.needed && new_image) take_clip(p.finish, tile.image);
    const Corner corner(p, tile);
    const float* const x = dev::kept(corner.x + corner.row * p.row_stride + corner.column);
    inside_ = 0;
    FCNTAG_UNROLL for (int i = 0; i < kHeld; ++i) {
      const float* const at = x + (row_of(i) * p.row_stride + column_of(i));
      held_[i] = 0.0f;
      if (exists(p, i) && inside(p, corner.row + row_of(i), corner.column + column_of(i))) {
        held_[i] = *at;
        inside_ |= 1u << i;
      }
    }
  }
  // Of the same tile: calls write(index, value) for each pixel; index is row * pitch + column.
  template <typename Write>
  FCNTAG_DEVICE void store(const FirstParams& p, const FirstTile& tile, const Write& write) {
    if (p.finish.needed) finish_held(p, tile);
    FCNTAG_UNROLL for (int i = 0; i < kHeld; ++i) {
      if (exists(p, i)) write(row_of(i) * p.pitch + column_of(i), held_[i]);
    }
    if (kHeld * kFirstThreads < p.patch_h * p.patch_w) store_others(p, tile, write);
  }

 private:
  struct Corner {  // of the patch, in the map
    const float* x;
    int row, column;

    FCNTAG_DEVICE Corner(const FirstParams& p, const FirstTile& tile)
        : x(p.x + tile.image * p.image_stride),
          row(tile.row * (p.tile_h * p.stride_h) - 1),
          column(tile.column * (p.tile_w * p.stride_w) - 1) {}
  };
  FCNTAG_DEVICE int row_of(int i) const { return static_cast<int>(places_[i] >> 16); }
  FCNTAG_DEVICE int column_of(int i) const { return static_cast<int>(places_[i] & 0xffff); }
  FCNTAG_DEVICE static bool exists(const FirstParams& p, int i) {
    return i * kFirstThreads + static_cast<int>(threadIdx.x) < p.patch_h * p.patch_w;
  }
  FCNTAG_DEVICE static void step(const FirstParams& p, int* row, int* column) {
    *row += p.step_h;
    *column += p.step_w;
    const bool wraps = *column >= p.patch_w;
    *row += wraps ? 1 : 0;
    *column -= wraps ? p.patch_w : 0;
  }
  FCNTAG_DEVICE static bool inside(const FirstParams& p, int row, int column) {
    return static_cast<unsigned>(row) < static_cast<unsigned>(p.height) &&
           static_cast<unsigned>(column) < static_cast<unsigned>(p.width);
  }
  FCNTAG_DEVICE float final_value(const FirstParams& p, float raw, int row, int column) const {
    if constexpr (sizeof(Real) == sizeof(double)) {
      if (p.finish.in_double) return finished(p.finish, clip_, raw, row, column);
    }
    const ClipValues<float> clip = {clip_.floor, clip_.scale, clip_.shift, static_cast<float>(clip_.offset),
                                    static_cast<float>(clip_.factor)};
    return finished(p.finish, clip, raw, row, column);
  }
  // What is outside of the map stays zero.
  FCNTAG_DEVICE void finish_held(const FirstParams& p, const FirstTile& tile) {
    const Corner corner(p, tile);
    FCNTAG_UNROLL for (int i = 0; i < kHeld; ++i) {
      if ((inside_ >> i & 1) == 0) continue;
      held_[i] = final_value(p, held_[i], corner.row + row_of(i), corner.column + column_of(i));
    }
  }
  template <typename Write>
  FCNTAG_DEVICE void store_others(const FirstParams& p, const FirstTile& tile, const Write& write) {
    const Corner corner(p, tile);
    int at_row = row_of(kHeld - 1), at_column = column_of(kHeld - 1);
    const int size = p.patch_h * p.patch_w;
    FCNTAG_NO_UNROLL for (int i = kHeld * kFirstThreads + static_cast<int>(threadIdx.x); i < size; i += kFirstThreads) {
      step(p, &at_row, &at_column);
      const int row = corner.row + at_row, column = corner.column + at_column;
      float value = 0.0f;
      if (inside(p, row, column)) {
        value = corner.x[row * p.row_stride + column];
        if (p.finish.needed) value = final_value(p, value, row, column);
      }
      write(at_row * p.pitch + at_column, value);
    }
  }
  FCNTAG_DEVICE void take_clip(const ClipFinish& finish, int image) {
    if constexpr (sizeof(Real) == sizeof(double)) {
      clip_ = clip_values<double>(finish, image, slots_);
      if (!finish.in_double) {
        clip_.offset = static_cast<float>(clip_.offset);
        clip_.factor = static_cast<float>(clip_.factor);
      }
    } else {
      clip_ = clip_values<float>(finish, image, slots_);
    }
  }

  float* slots_;
  uint32_t places_[kHeld];  // row and column in the patch, in 16 bits each
  uint32_t inside_ = 0;     // bits of the held pixels that lie in the map
  float held_[kHeld];
  ClipValues<Real> clip_ = {-INFINITY, 1, 0, 0, 1};
};

// Brings the patches of a CTA's tiles to shared memory, each while the one before is used, and calls
// compute(tile, memory of its patch, load) for each; store(tile, memory) puts what `patch` holds there. compute() calls
// load(), which starts the next tile's loads, where it reads nothing from shared memory for a while: a warp counts
// loads of both kinds together, and would wait for all of them. All threads call all of these.
template <typename Patch, typename Store, typename Compute>
FCNTAG_DEVICE void run_tiles(const FirstParams& p, uint8_t* memory, Patch& patch, const Store& store,
                             const Compute& compute) {
  const FirstRun run(p);
  FirstTile tile(p, run.begin), next = tile;
  int buffer = 0;
  const int tiles = run.end > run.begin ? run.end - run.begin : 0;
  FCNTAG_NO_UNROLL for (int left = tiles; left >= 0; --left) {
    const bool begins = left == tiles;
    dev::sync();
    const auto load = [&] {
      if (left > 0) patch.load(p, next, begins || next.image != tile.image);
    };
    if (begins) {
      load();
      dev::prefetch_slice(p.next_weight, p.next_bytes, static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x),
                          static_cast<int>(gridDim.x * gridDim.y), static_cast<int>(threadIdx.x), kFirstThreads);
    } else {
      compute(tile, memory + buffer * p.buffer_bytes, load);
      if (p.buffers == 1) {
        dev::sync();
      } else {
        buffer ^= 1;
      }
    }
    if (left > 0) store(next, memory + buffer * p.buffer_bytes);
    tile = next;
    next.advance(p);
  }
}

// Copies the epilogues of a CTA's channels to shared memory, [4][channels], with zeros for channels from n_padded on.
// They would take a quarter of a thread's registers.
FCNTAG_DEVICE void keep_epilogues(const FirstParams& p, int first, int channels, float* epilogues) {
  for (int i = static_cast<int>(threadIdx.x); i < channels; i += kFirstThreads) {
    FCNTAG_UNROLL for (int part = 0; part < 4; ++part) {
      epilogues[part * channels + i] = first + i < p.n_padded ? p.epilogue[part * p.n_padded + first + i] : 0.0f;
    }
  }
}

// The epilogue of kCount neighbouring channels of one lane.
template <int kCount>
struct LaneEpilogue {
  float values[4][kCount];  // sign, bias, scale, shift

  // From [4][stride] in shared memory.
  FCNTAG_DEVICE LaneEpilogue(const float* epilogues, int stride) {
    FCNTAG_UNROLL for (int part = 0; part < 4; ++part) {
      FCNTAG_UNROLL for (int i = 0; i < kCount; i += 4) {
        const float4 v = *reinterpret_cast<const float4*>(epilogues + part * stride + i);
        values[part][i] = v.x;
        values[part][i + 1] = v.y;
        values[part][i + 2] = v.z;
        values[part][i + 3] = v.w;
      }
    }
  }
  // y of the largest raw sums of a window, as finish() in epilogue.h.
  FCNTAG_DEVICE void apply(float (&v)[kCount], Activation activation) const {
    FCNTAG_UNROLL for (int i = 0; i < kCount; ++i) v[i] = fmaf(v[i], values[0][i], values[1][i]);
    if (activation == Activation::kRelu) {
      FCNTAG_UNROLL for (int i = 0; i < kCount; ++i) v[i] = fmaxf(v[i], 0.0f);
    } else if (activation == Activation::kElu) {
      // Of all values, also those above zero: branches would let one value after the other through.
      FCNTAG_UNROLL for (int i = 0; i < kCount; ++i) {
        const bool above = v[i] > 0.0f;
        const float below = expm1f(above ? 0.0f : v[i]);
        v[i] = above ? v[i] : below;
      }
    }
    FCNTAG_UNROLL for (int i = 0; i < kCount; ++i) v[i] = fmaf(v[i], values[2][i], values[3][i]);
  }
};

// kCount (4 or 8) neighbouring channels to y[index], ...; index is a multiple of kCount.
template <int kCount>
FCNTAG_DEVICE void store_channels(void* y, int64_t index, const float (&v)[kCount], Storage storage) {
  constexpr float kLargestFloat16 = 65504.0f;
  if (storage == Storage::kFloat32 || storage == Storage::kTf32) {
    const bool round = storage == Storage::kTf32;
    float4* out = reinterpret_cast<float4*>(static_cast<float*>(y) + index);
    FCNTAG_UNROLL for (int i = 0; i < kCount; i += 4) {
      float4 four;
      four.x = round ? dev::round_tf32(v[i]) : v[i];
      four.y = round ? dev::round_tf32(v[i + 1]) : v[i + 1];
      four.z = round ? dev::round_tf32(v[i + 2]) : v[i + 2];
      four.w = round ? dev::round_tf32(v[i + 3]) : v[i + 3];
      out[i / 4] = four;
    }
    return;
  }
  uint32_t words[kCount / 2];
  if (storage == Storage::kBfloat16) {
    FCNTAG_UNROLL for (int i = 0; i < kCount; i += 2) words[i / 2] = dev::pack_bfloat16(v[i], v[i + 1]);
  } else {  // saturates: infinity times 0 would be no number
    FCNTAG_UNROLL for (int i = 0; i < kCount; i += 2) {
      words[i / 2] = dev::pack_float16(fminf(fmaxf(v[i], -kLargestFloat16), kLargestFloat16),
                                       fminf(fmaxf(v[i + 1], -kLargestFloat16), kLargestFloat16));
    }
  }
  uint16_t* out = static_cast<uint16_t*>(y) + index;
  if constexpr (kCount == 8) {
    *reinterpret_cast<uint4*>(out) = {words[0], words[1], words[2], words[3]};
  } else {
    *reinterpret_cast<uint2*>(out) = {words[0], words[1]};
  }
}

}  // namespace cuda
}  // namespace fcntag
