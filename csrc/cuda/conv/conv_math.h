// The inner products of conv_block: how a warp multiplies staged pixels by staged weights, and where it holds the sums.
//
// Every warp has kWarpChannels = 32 output channels. Its sums of one half are a fragment of 8 rows by 4 columns of
// lanes:
//
//             column 0   column 1   column 2   column 3
//    slot 0   lane 0     lane 1     lane 2     lane 3
//    slot 1   lane 4     lane 5     lane 6     lane 7
//    ...
//    slot 7   lane 28    lane 29    lane 30    lane 31
//
// A lane has kLaneChannels = 8 values of it, all in the row lane / 4, its slot, and in the channels of its column
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

constexpr int kWarpChannels = 32;
constexpr int kLaneChannels = 8;  // values of a lane in one half

// The 16-byte chunk 0 of a pixel, with the swizzle's key in it: xor with (chunk << 4) gives any other. The staged halo
// is aligned to kBlockBytes, so the key's bits are free.
FCNTAG_DEVICE dev::SharedAddress pixel_address(dev::SharedAddress halo, int pixel, int key_shift) {
  return (halo + pixel * kBlockBytes) | (pixel >> key_shift & 7) << 4;
}

// ---- tensor cores: m16n8k16 (16-bit types) and m16n8k8 (tf32); both take two 16-byte chunks of a row at a time ----

template <int kHalves>
struct MmaSums {
  static constexpr int kTiles = kHalves / 2, kCount = kHalves * kLaneChannels;
  static constexpr int kPixels = kTiles;  // rows that a lane addresses
  float c[kTiles][4][4];                  // [m16 tile][n8 tile][fragment]

  FCNTAG_DEVICE void clear() {
    FCNTAG_UNROLL for (int m = 0; m < kTiles; ++m) {
      FCNTAG_UNROLL for (int j = 0; j < 4; ++j) { FCNTAG_UNROLL for (int i = 0; i < 4; ++i) c[m][j][i] = 0.0f; }
    }
  }
  FCNTAG_DEVICE void add(const MmaSums& other) {
    FCNTAG_UNROLL for (int m = 0; m < kTiles; ++m) {
      FCNTAG_UNROLL for (int j = 0; j < 4; ++j) {
        FCNTAG_UNROLL for (int i = 0; i < 4; ++i) c[m][j][i] += other.c[m][j][i];
      }
    }
  }
  FCNTAG_DEVICE float& at(int i) { return c[i / 16][i / 4 % 4][i % 4]; }
  FCNTAG_DEVICE void store(float* p, int stride) {
    FCNTAG_UNROLL for (int i = 0; i < kCount; ++i) p[static_cast<int64_t>(i) * stride] = at(i);
  }
  FCNTAG_DEVICE void load(const float* p, int stride) {
    FCNTAG_UNROLL for (int i = 0; i < kCount; ++i) at(i) = p[static_cast<int64_t>(i) * stride];
  }
  // Value i of a half, and its channel among the warp's 32.
  FCNTAG_DEVICE float value(int half, int i) const { return c[half / 2][i / 2][half % 2 * 2 + i % 2]; }
  FCNTAG_DEVICE static int channel(int i, int lane) { return i / 2 * 8 + (lane & 3) * 2 + i % 2; }
};

template <typename Multiply>
struct MmaMath {
  static constexpr int kMinimumCapability = Multiply::kMinimumCapability;
  template <int kHalves>
  using Sums = MmaSums<kHalves>;

  // The pixels of the rows that a lane names to load_matrix. Lanes 0-7 and 16-23 name those of the first half of a
  // tile, lanes 8-15 and 24-31 those of the second.
  template <int kHalves>
  FCNTAG_DEVICE static void map_rows(const ConvParams& p, int pass, int first_group, int lane,
                                     int (&pixels)[kHalves / 2]) {
    FCNTAG_UNROLL for (int m = 0; m < kHalves / 2; ++m) {
      pixels[m] = halo_pixel(p, pass, first_group, 2 * m + (lane >> 3 & 1), lane & 7);
    }
  }

  // Weights [channel block][tap][n_padded][128 bytes] -> [kTileN][128 bytes], swizzled.
  template <int kTileN, int kThreads>
  FCNTAG_DEVICE static void load_weights(const ConvParams& p, dev::SharedAddress target, int slab, int channel,
                                         int thread) {
    const uint8_t* source =
        static_cast<const uint8_t*>(p.weight) + static_cast<int64_t>(slab) * p.n_padded * kBlockBytes;
    static_assert(kTileN * 8 % kThreads == 0, "every thread copies the same number of chunks");
    FCNTAG_UNROLL for (int k = 0; k < kTileN * 8 / kThreads; ++k) {
      const int i = thread + k * kThreads, n = i >> 3, c = i & 7;
      const bool valid = channel + n < p.n_padded;
      dev::copy_async(target + n * kBlockBytes + ((c ^ (n & 7)) << 4),
                      source + (valid ? static_cast<int64_t>(channel + n) * kBlockBytes + c * 16 : 0), valid);
    }
  }

  template <int kHalves, int kTileN>
  FCNTAG_DEVICE static void multiply(MmaSums<kHalves>& sums, dev::SharedAddress halo, dev::SharedAddress weights,
                                     const int (&pixels)[kHalves / 2], int offset, int key_shift, int chunks,
                                     int warp_n, int lane) {
    const int row = warp_n * kWarpChannels + (lane & 7) + (lane >> 4) * 8;  // of weights: two n8 tiles at a time
    const dev::SharedAddress b_row = weights + row * kBlockBytes;
    FCNTAG_NO_UNROLL for (int chunk = 0; chunk < chunks; chunk += 2) {
      uint32_t b[2][4];
      FCNTAG_UNROLL for (int h = 0; h < 2; ++h) {
        dev::load_matrix(b[h], b_row + h * 16 * kBlockBytes + (((chunk + (lane >> 3 & 1)) ^ (row & 7)) << 4));
      }
      FCNTAG_UNROLL for (int m = 0; m < kHalves / 2; ++m) {
        uint32_t a[4];
        dev::load_matrix(a, pixel_address(halo, pixels[m] + offset, key_shift) ^ (chunk + (lane >> 4)) << 4);
        Multiply::run(sums.c[m], a, b);
      }
    }
  }
};

struct Bfloat16 {
  static constexpr int kMinimumCapability = 80;
  FCNTAG_DEVICE static void run(float (&c)[4][4], const uint32_t (&a)[4], const uint32_t (&b)[2][4]) {
    FCNTAG_UNROLL for (int j = 0; j < 4; ++j) dev::mma_bfloat16(c[j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
  }
};
struct Float16 {
  static constexpr int kMinimumCapability = 75;
  FCNTAG_DEVICE static void run(float (&c)[4][4], const uint32_t (&a)[4], const uint32_t (&b)[2][4]) {
    FCNTAG_UNROLL for (int j = 0; j < 4; ++j) dev::mma_float16(c[j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
  }
};
struct Tf32 {
  static constexpr int kMinimumCapability = 80;
  FCNTAG_DEVICE static void run(float (&c)[4][4], const uint32_t (&a)[4], const uint32_t (&b)[2][4]) {
    FCNTAG_UNROLL for (int j = 0; j < 4; ++j) dev::mma_tf32(c[j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
  }
};
// float32 as two tf32: x = high + low exactly, and of the four products only low * low (2^-22) is left out. A tensor
// core does not round a sum but cuts it off, always towards zero, which over hundreds of steps would be the largest
// error. So the products of one step are a sum of their own, and an ordinary addition puts it to the rest.
struct Tf32x3 {
  static constexpr int kMinimumCapability = 80;

  FCNTAG_DEVICE static uint32_t high(uint32_t x) { return x & 0xffffe000u; }
  FCNTAG_DEVICE static uint32_t low(uint32_t x) { return dev::as_word(dev::as_float(x) - dev::as_float(high(x))); }

  FCNTAG_DEVICE static void run(float (&c)[4][4], const uint32_t (&a)[4], const uint32_t (&b)[2][4]) {
    uint32_t a_low[4];
    FCNTAG_UNROLL for (int i = 0; i < 4; ++i) a_low[i] = low(a[i]);
    FCNTAG_UNROLL for (int j = 0; j < 4; ++j) {
      const uint32_t b0 = b[j / 2][j % 2 * 2], b1 = b[j / 2][j % 2 * 2 + 1];
      float step[4];
      dev::product_tf32(step, a_low, b0, b1);
      dev::mma_tf32(step, a, low(b0), low(b1));
      dev::mma_tf32(step, a, b0, b1);
      FCNTAG_UNROLL for (int i = 0; i < 4; ++i) c[j][i] += step[i];
    }
  }
};

// ---- float32 on the ordinary units: a thread has 8 rows x 8 channels ----

template <int kHalves>
struct SimtSums {
  static constexpr int kCount = kHalves * kLaneChannels;
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
    FCNTAG_UNROLL for (int i = 0; i < kCount; ++i) c[i / 8][i % 8] = p[static_cast<int64_t>(i) * stride];
  }
  FCNTAG_DEVICE float value(int half, int i) const { return c[half][i]; }
  // Two runs of four: the lanes of a row read 64 contiguous bytes of weights at a time.
  FCNTAG_DEVICE static int channel(int i, int lane) { return i / 4 * 16 + (lane & 3) * 4 + i % 4; }
};

struct SimtMath {
  static constexpr int kMinimumCapability = 75;

  template <int kHalves>
  using Sums = SimtSums<kHalves>;

  template <int kHalves>
  FCNTAG_DEVICE static void map_rows(const ConvParams& p, int pass, int first_group, int lane, int (&pixels)[kHalves]) {
    FCNTAG_UNROLL for (int h = 0; h < kHalves; ++h) pixels[h] = halo_pixel(p, pass, first_group, h, lane >> 2);
  }

  // Weights [channel block][tap][32 input channels][n_padded] -> [32][kTileN].
  template <int kTileN, int kThreads>
  FCNTAG_DEVICE static void load_weights(const ConvParams& p, dev::SharedAddress target, int slab, int channel,
                                         int thread) {
    constexpr int kRow = kTileN / 4;
    const float* source = static_cast<const float*>(p.weight) + static_cast<int64_t>(slab) * 32 * p.n_padded;
    static_assert(32 * kRow % kThreads == 0, "every thread copies the same number of chunks");
    FCNTAG_UNROLL for (int j = 0; j < 32 * kRow / kThreads; ++j) {
      const int i = thread + j * kThreads, k = i / kRow, n = i % kRow * 4;
      const bool valid = channel + n < p.n_padded;
      dev::copy_async(target + i * 16, source + (valid ? static_cast<int64_t>(k) * p.n_padded + channel + n : 0),
                      valid);
    }
  }

  template <int kHalves, int kTileN>
  FCNTAG_DEVICE static void multiply(SimtSums<kHalves>& sums, dev::SharedAddress halo, dev::SharedAddress weights,
                                     const int (&pixels)[kHalves], int offset, int key_shift, int chunks, int warp_n,
                                     int lane) {
    uint8_t* shared = dev::shared_memory();
    dev::SharedAddress rows[kHalves];
    FCNTAG_UNROLL for (int h = 0; h < kHalves; ++h) rows[h] = pixel_address(halo, pixels[h] + offset, key_shift);
    const float* w = reinterpret_cast<const float*>(shared + (weights - dev::shared_address(shared))) +
                     warp_n * kWarpChannels + (lane & 3) * 4;
    const dev::SharedAddress base = dev::shared_address(shared);
    FCNTAG_NO_UNROLL for (int chunk = 0; chunk < chunks; ++chunk) {
      float4 x[kHalves];
      FCNTAG_UNROLL for (int h = 0; h < kHalves; ++h) {
        x[h] = *reinterpret_cast<const float4*>(shared + ((rows[h] ^ chunk << 4) - base));
      }
      FCNTAG_UNROLL for (int k = 0; k < 4; ++k) {
        const float* row = w + (chunk * 4 + k) * kTileN;
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
