// The inner products of conv_block: how a warp multiplies staged pixels by staged weights, and where it holds the sums.
//
// A warp has one or two groups of 32 output channels. Its sums of one half and one group are a fragment of 8 rows by 4
// columns of lanes:
//
//             column 0   column 1   column 2   column 3
//    slot 0   lane 0     lane 1     lane 2     lane 3
//    slot 1   lane 4     lane 5     lane 6     lane 7
//    ...
//    slot 7   lane 28    lane 29    lane 30    lane 31
//
// A lane has kGroupLaneChannels = 8 values of it, all in the row lane / 4, its slot, and in the channels of its column
// q = lane % 4. On the tensor cores these are 8 j + 2 q and 8 j + 2 q + 1 for each of the n8 tiles j = 0 to 3; on the
// float32 units they are 4 q to 4 q + 3 and 16 + 4 q to 16 + 4 q + 3.
#pragma once

#include "cuda/conv/conv_params.h"
#include "cuda/conv/conv_tile.h"
#include "cuda/device/copy.h"
#include "cuda/device/device.h"
#include "cuda/device/mma.h"

namespace fcntag {
namespace cuda {

constexpr int kGroupLaneChannels = 8;  // values of a lane in one half of a group of channels
constexpr int kFullChunks = kBlockBytes / 16, kFullPairs = kFullChunks / 2;
constexpr int kGroupBytes = kGroupChannels * kBlockBytes;  // weights of one tap for one warp

// ---- tensor cores: m16n8k16 (16-bit types) and m16n8k8 (tf32); both take two 16-byte chunks of a row at a time ----

template <int kHalves, int kGroups>
struct MmaSums {
  static constexpr int kTiles = kHalves / 2, kLaneChannels = kGroups * kGroupLaneChannels;
  static constexpr int kCount = kHalves * kLaneChannels;
  static constexpr int kPixels = kTiles;  // rows that a lane addresses
  float c[kTiles][kGroups][4][4];         // [m16 tile][group of channels][n8 tile][fragment]

  FCNTAG_DEVICE void clear() { FCNTAG_UNROLL for (int i = 0; i < kCount; ++i) at(i) = 0.0f; }
  FCNTAG_DEVICE void add(MmaSums& other) { FCNTAG_UNROLL for (int i = 0; i < kCount; ++i) at(i) += other.at(i); }
  FCNTAG_DEVICE float& at(int i) { return c[i / (16 * kGroups)][i / 16 % kGroups][i / 4 % 4][i % 4]; }
  FCNTAG_DEVICE void store(float* p, int stride) {
    FCNTAG_UNROLL for (int i = 0; i < kCount; ++i) p[static_cast<int64_t>(i) * stride] = at(i);
  }
  FCNTAG_DEVICE void load(const float* p, int stride) {
    FCNTAG_UNROLL for (int i = 0; i < kCount; ++i) at(i) = dev::load_fresh(p + static_cast<int64_t>(i) * stride);
  }
  // Value i of a half, and its channel among the warp's.
  FCNTAG_DEVICE float value(int half, int i) const { return c[half / 2][i / 8][i / 2 % 4][half % 2 * 2 + i % 2]; }
  FCNTAG_DEVICE static int channel(int i, int lane) { return i / 2 * 8 + (lane & 3) * 2 + i % 2; }
};

template <typename Multiply>
struct MmaMath {
  // Stages of a kernel row, and whole stages unrolled, so that loads and products overlap. The products of tf32x3 take
  // so long that a loop is as good.
  static constexpr bool kRowStages = Multiply::kRowStages, kUnrolled = kRowStages;
  static constexpr int kMinimumCapability = Multiply::kMinimumCapability;
  static constexpr int kOtherRegisters = Multiply::kOtherRegisters;  // that a thread needs beside its sums
  template <int kHalves, int kGroups>
  using Sums = MmaSums<kHalves, kGroups>;

  // Addresses of the rows that a lane names to load_matrix, at the first tap. Lanes 0-7 and 16-23 name those of the
  // first half of a tile, lanes 8-15 and 24-31 those of the second; from lane 16 on the second of two chunks.
  template <int kHalves>
  FCNTAG_DEVICE static void map_rows(const uint16_t* rows, dev::SharedAddress halo, int lane,
                                     dev::SharedAddress (&pixels)[kHalves / 2]) {
    FCNTAG_UNROLL for (int m = 0; m < kHalves / 2; ++m) {
      pixels[m] = halo + rows[m * 16 + (lane & 15)] * 16 + (lane >> 4) * 16;
    }
  }

  // Where a lane's weights of a tap lie, for the warp's first group.
  FCNTAG_DEVICE static int weights_of(int group, int lane) { return group * kGroupBytes + lane * 16; }

  // One tap of one channel block, `offset` bytes behind the pixels. `fragments` are the lane's weights
  // (conv_pack.cpp). kPairs pairs of chunks; 0: the number is `pairs`, in a loop. `between` is called
  // kCopyTurns times, while products run.
  template <int kPairs, int kHalves, int kGroups, typename Between>
  FCNTAG_DEVICE static void multiply(MmaSums<kHalves, kGroups>& sums, const dev::SharedAddress (&pixels)[kHalves / 2],
                                     int offset, const uint8_t* fragments, int pairs, const Between& between) {
    if constexpr (kPairs > 0) {
      constexpr int kEach = kCopyTurns / (kPairs > 0 ? kPairs : 1);  // turns in a pair
      FCNTAG_UNROLL for (int pair = 0; pair < kPairs; ++pair) {
        multiply_pair<kEach>(sums, pixels, offset + pair * 32, fragments + pair * 1024,
                             [&](int turn) { between(pair * kEach + turn); });
      }
    } else {
      FCNTAG_UNROLL for (int turn = 0; turn < kCopyTurns; ++turn) between(turn);
      FCNTAG_NO_UNROLL for (int pair = 0; pair < pairs; ++pair) {
        multiply_pair<0>(sums, pixels, offset + pair * 32, fragments + pair * 1024, [](int) {});
      }
    }
  }

  template <int kEach, int kHalves, int kGroups, typename Between>
  FCNTAG_DEVICE static void multiply_pair(MmaSums<kHalves, kGroups>& sums,
                                          const dev::SharedAddress (&pixels)[kHalves / 2], int offset,
                                          const uint8_t* fragments, const Between& between) {
    uint32_t b[kGroups][2][4];
    FCNTAG_UNROLL for (int g = 0; g < kGroups; ++g) {
      FCNTAG_UNROLL for (int h = 0; h < 2; ++h) {
        const uint4 words = *reinterpret_cast<const uint4*>(fragments + g * kGroupBytes + h * 512);
        b[g][h][0] = words.x;
        b[g][h][1] = words.y;
        b[g][h][2] = words.z;
        b[g][h][3] = words.w;
      }
    }
    FCNTAG_UNROLL for (int m = 0; m < kHalves / 2; ++m) {
      uint32_t a[4];
      dev::load_matrix(a, pixels[m] + offset);
      FCNTAG_UNROLL for (int g = 0; g < kGroups; ++g) Multiply::run(sums.c[m][g], a, b[g]);
      FCNTAG_UNROLL for (int turn = 0; turn < kEach; ++turn) {
        if (m == turn * (kHalves / 2) / (kEach > 0 ? kEach : 1)) between(turn);
      }
    }
  }
};

struct Bfloat16 {
  static constexpr int kMinimumCapability = 80;
  static constexpr bool kRowStages = true;
  static constexpr int kOtherRegisters = 64;
  FCNTAG_DEVICE static void run(float (&c)[4][4], const uint32_t (&a)[4], const uint32_t (&b)[2][4]) {
    FCNTAG_UNROLL for (int j = 0; j < 4; ++j) dev::mma_bfloat16(c[j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
  }
};
struct Float16 {
  static constexpr int kMinimumCapability = 75;
  static constexpr bool kRowStages = true;
  static constexpr int kOtherRegisters = 64;
  FCNTAG_DEVICE static void run(float (&c)[4][4], const uint32_t (&a)[4], const uint32_t (&b)[2][4]) {
    FCNTAG_UNROLL for (int j = 0; j < 4; ++j) dev::mma_float16(c[j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
  }
};
struct Tf32 {
  static constexpr int kMinimumCapability = 80;
  static constexpr bool kRowStages = true;
  static constexpr int kOtherRegisters = 64;
  FCNTAG_DEVICE static void run(float (&c)[4][4], const uint32_t (&a)[4], const uint32_t (&b)[2][4]) {
    FCNTAG_UNROLL for (int j = 0; j < 4; ++j) dev::mma_tf32(c[j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
  }
};
// float32 as two tf32: x = high + low exactly, and of the four products only low * low (2^-22) is left out. A tensor
// core does not round a sum but cuts it off, always towards zero, which over hundreds of steps would be the largest
// error. So the products of one step are a sum of their own, and an ordinary addition puts it to the rest.
struct Tf32x3 {
  static constexpr int kMinimumCapability = 80;
  static constexpr bool kRowStages = false;
  static constexpr int kOtherRegisters = 104;

  FCNTAG_DEVICE static uint32_t high(uint32_t x) { return x & 0xffffe000u; }
  // What is left has up to 13 bits, of which a tensor core takes 11. Operands that are no tf32 are undefined in PTX.
  FCNTAG_DEVICE static uint32_t low(uint32_t x) {
    return high(dev::as_word(dev::as_float(x) - dev::as_float(high(x))));
  }

  FCNTAG_DEVICE static void run(float (&c)[4][4], const uint32_t (&a)[4], const uint32_t (&b)[2][4]) {
    uint32_t a_high[4], a_low[4];
    FCNTAG_UNROLL for (int i = 0; i < 4; ++i) {
      a_high[i] = high(a[i]);
      a_low[i] = low(a[i]);
    }
    FCNTAG_UNROLL for (int j = 0; j < 4; ++j) {
      const uint32_t b0 = b[j / 2][j % 2 * 2], b1 = b[j / 2][j % 2 * 2 + 1];
      float step[4];
      dev::product_tf32(step, a_low, high(b0), high(b1));
      dev::mma_tf32(step, a_high, low(b0), low(b1));
      dev::mma_tf32(step, a_high, high(b0), high(b1));
      FCNTAG_UNROLL for (int i = 0; i < 4; ++i) c[j][i] += step[i];
    }
  }
};

// ---- float32 on the ordinary units: a thread has 8 rows x 8 channels ----

template <int kHalves>
struct SimtSums {
  static constexpr int kLaneChannels = kGroupLaneChannels, kCount = kHalves * kLaneChannels;
  static constexpr int kPixels = kHalves;
  float c[kHalves][kLaneChannels];

  FCNTAG_DEVICE void clear() {
    FCNTAG_UNROLL for (int h = 0; h < kHalves; ++h) {
      FCNTAG_UNROLL for (int i = 0; i < kLaneChannels; ++i) c[h][i] = 0.0f;
    }
  }
  FCNTAG_DEVICE void add(const SimtSums& other) {
    FCNTAG_UNROLL for (int h = 0; h < kHalves; ++h) {
      FCNTAG_UNROLL for (int i = 0; i < kLaneChannels; ++i) c[h][i] += other.c[h][i];
    }
  }
  FCNTAG_DEVICE void store(float* p, int stride) {
    FCNTAG_UNROLL for (int i = 0; i < kCount; ++i) p[static_cast<int64_t>(i) * stride] = c[i / 8][i % 8];
  }
  FCNTAG_DEVICE void load(const float* p, int stride) {
    FCNTAG_UNROLL for (int i = 0; i < kCount; ++i) c[i / 8][i % 8] =
        dev::load_fresh(p + static_cast<int64_t>(i) * stride);
  }
  FCNTAG_DEVICE float value(int half, int i) const { return c[half][i]; }
  // Two runs of four: the lanes of a row read 64 contiguous bytes of weights at a time.
  FCNTAG_DEVICE static int channel(int i, int lane) { return i / 4 * 16 + (lane & 3) * 4 + i % 4; }
};

struct SimtMath {
  static constexpr bool kUnrolled = false, kRowStages = false;
  static constexpr int kMinimumCapability = 75;
  static constexpr int kOtherRegisters = 100;

  template <int kHalves, int kGroups>
  using Sums = SimtSums<kHalves>;

  template <int kHalves>
  FCNTAG_DEVICE static void map_rows(const uint16_t* rows, dev::SharedAddress halo, int lane,
                                     dev::SharedAddress (&pixels)[kHalves]) {
    FCNTAG_UNROLL for (int h = 0; h < kHalves; ++h) pixels[h] = halo + rows[h * 8 + (lane >> 2)] * 16;
  }

  FCNTAG_DEVICE static int weights_of(int group, int lane) { return group * kGroupBytes + (lane & 3) * 16; }

  // `weights` of the warp: [32 input channels][32 output channels].
  template <int kPairs, int kHalves, typename Between>
  FCNTAG_DEVICE static void multiply(SimtSums<kHalves>& sums, const dev::SharedAddress (&pixels)[kHalves], int offset,
                                     const uint8_t* weights, int pairs, const Between& between) {
    const uint8_t* shared = dev::shared_memory();
    const dev::SharedAddress base = dev::shared_address(shared);
    const float* w = reinterpret_cast<const float*>(weights);
    FCNTAG_UNROLL for (int turn = 0; turn < kCopyTurns; ++turn) between(turn);
    FCNTAG_NO_UNROLL for (int chunk = 0; chunk < 2 * pairs; ++chunk) {
      float4 x[kHalves];
      FCNTAG_UNROLL for (int h = 0; h < kHalves; ++h) {
        x[h] = *reinterpret_cast<const float4*>(shared + (pixels[h] - base) + offset + chunk * 16);
      }
      FCNTAG_UNROLL for (int k = 0; k < 4; ++k) {
        const float* row = w + (chunk * 4 + k) * kGroupChannels;
        const float4 w0 = *reinterpret_cast<const float4*>(row), w1 = *reinterpret_cast<const float4*>(row + 16);
        FCNTAG_UNROLL for (int h = 0; h < kHalves; ++h) {
          const float v = k == 0 ? x[h].x : k == 1 ? x[h].y : k == 2 ? x[h].z : x[h].w;
          sums.c[h][0] = fmaf(v, w0.x, sums.c[h][0]);
          sums.c[h][1] = fmaf(v, w0.y, sums.c[h][1]);
          sums.c[h][2] = fmaf(v, w0.z, sums.c[h][2]);
          sums.c[h][3] = fmaf(v, w0.w, sums.c[h][3]);
          sums.c[h][4] = fmaf(v, w1.x, sums.c[h][4]);
          sums.c[h][5] = fmaf(v, w1.y, sums.c[h][5]);
          sums.c[h][6] = fmaf(v, w1.z, sums.c[h][6]);
          sums.c[h][7] = fmaf(v, w1.w, sums.c[h][7]);
        }
      }
    }
  }
};

}  // namespace cuda
}  // namespace fcntag
