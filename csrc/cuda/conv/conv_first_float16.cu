#include "check.h"
#include "cuda/conv/conv_first.h"
#include "cuda/conv/epilogue.h"
#include "cuda/device/device.h"
#include "cuda/device/mma.h"

namespace fcntag {
namespace cuda {

namespace {

// The nine taps are the inner dimension of the products. Rows 0 to 7 of an m16 tile are one element of each of 8 pool
// windows, rows 8 to 15 the element after it. A warp keeps the weights and maxima of kTiles n8 tiles of channels in
// registers; 16 tiles would spill with two CTAs a multiprocessor.
template <int kTiles>
FCNTAG_KERNEL(kFirstThreads, 2)
conv_first_float16(const FCNTAG_GRID_CONSTANT FirstParams p) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int slot = lane >> 2, t = lane & 3;
  const int image = static_cast<int>(blockIdx.z);
  const int tile_y = static_cast<int>(blockIdx.x) / p.tiles_w * p.tile_h;
  const int tile_x = static_cast<int>(blockIdx.x) % p.tiles_w * p.tile_w;
  const int channel = static_cast<int>(blockIdx.y) * kTiles * 8;
  // Fragment b: taps 2t, 2t + 1, and 8 + 2t, 9 + 2t of channel j * 8 + slot.
  uint32_t b[kTiles][2];
  FCNTAG_UNROLL for (int j = 0; j < kTiles; ++j) {
    const int n = channel + j * 8 + slot;
    const uint32_t* row = static_cast<const uint32_t*>(p.weight) + static_cast<int64_t>(n) * 8;
    b[j][0] = n < p.n_padded ? row[t] : 0;
    b[j][1] = n < p.n_padded ? row[4 + t] : 0;
  }
  dev::release_successors();
  dev::wait_for_predecessors();
  if (image >= p.io->count) return;

  uint16_t* patch = reinterpret_cast<uint16_t*>(dev::shared_memory());
  const float* x = p.x + image * p.image_stride;
  const int y0 = tile_y * p.stride_h - 1, x0 = tile_x * p.stride_w - 1;
  for (int i = thread; i < p.patch_h * p.patch_w; i += kFirstThreads) {
    const int row = y0 + i / p.patch_w, column = x0 + i % p.patch_w;
    const bool inside = row >= 0 && row < p.height && column >= 0 && column < p.width;
    const float v = inside ? x[row * p.row_stride + column] : 0.0f;
    patch[i] = dev::to_float16(fminf(fmaxf(v, -65504.0f), 65504.0f));
  }
  dev::sync();

  const int tap0 = 2 * t / 3 * p.patch_w + 2 * t % 3, tap1 = (2 * t + 1) / 3 * p.patch_w + (2 * t + 1) % 3;
  const int tap8 = 2 * p.patch_w + 2;
  const int windows = p.tile_h * p.tile_w, elements = p.pool_h * p.pool_w;
  for (int first = warp * 8; first < windows; first += kFirstThreads / 32 * 8) {
    const int window = first + slot < windows ? first + slot : windows - 1;
    const int wy = window / p.tile_w, wx = window % p.tile_w;
    const int origin = wy * p.stride_h * p.patch_w + wx * p.stride_w;
    float best[kTiles][2];
    int element = 0, row = 0, column = 0;  // of the pool window
    FCNTAG_NO_UNROLL while (element < elements) {
      int at[2];
      FCNTAG_UNROLL for (int half = 0; half < 2; ++half) {
        at[half] = origin + row * p.patch_w + column;
        if (element + half + 1 < elements && ++column == p.pool_w) {  // the last one may come twice: a maximum
          column = 0;
          ++row;
        }
      }
      uint32_t a[4];
      FCNTAG_UNROLL for (int half = 0; half < 2; ++half) {
        a[half] = patch[at[half] + tap0] | static_cast<uint32_t>(patch[at[half] + tap1]) << 16;
        a[2 + half] = t == 0 ? patch[at[half] + tap8] : 0u;
      }
      FCNTAG_UNROLL for (int j = 0; j < kTiles; ++j) {
        float c[4];
        dev::product_float16(c, a, b[j][0], b[j][1]);
        FCNTAG_UNROLL for (int i = 0; i < 2; ++i) {
          const float v = fmaxf(c[i], c[2 + i]);
          best[j][i] = element == 0 ? v : fmaxf(best[j][i], v);
        }
      }
      element += 2;
    }
    if (first + slot >= windows || tile_y + wy >= p.out_h || tile_x + wx >= p.out_w) continue;
    const int64_t pixel = (static_cast<int64_t>(image) * p.out_h + tile_y + wy) * p.out_w + tile_x + wx;
    FCNTAG_UNROLL for (int j = 0; j < kTiles; ++j) {
      const int n = channel + j * 8 + t * 2;
      if (n >= p.out_stride) continue;
      const float v0 = n < p.out_channels ? finish(best[j][0], p.epilogue, p.n_padded, n, p.activation) : 0.0f;
      const float v1 = n + 1 < p.out_channels ? finish(best[j][1], p.epilogue, p.n_padded, n + 1, p.activation) : 0.0f;
      store_pair(p.y, pixel * p.out_stride + n, v0, v1, p.storage);
    }
  }
}

}  // namespace

FirstKernel first_kernel_float16(int channels) {
  if (channels == 64) return &conv_first_float16<8>;
  FCNTAG_CHECK(channels == 32, "conv_first: no float16 kernel of ", channels, " channels; built: 32, 64");
  return &conv_first_float16<4>;
}

}  // namespace cuda
}  // namespace fcntag
