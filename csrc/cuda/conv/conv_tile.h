// Where a CTA of conv_block works, and where in the staged halo the rows of its GEMM lie.
#pragma once

#include "cuda/conv/conv_params.h"
#include "cuda/device/device.h"

namespace fcntag {
namespace cuda {

// Where a CTA works.
struct ConvTile {
  int image, y, x;  // first image and pooled position
  int channel;      // first output channel
};

FCNTAG_DEVICE ConvTile conv_tile(const ConvParams& p, int tile_channels) {
  const int cta = static_cast<int>(blockIdx.x);
  const int pixel_tiles = static_cast<int>(gridDim.x) / p.n_tiles;
  const int n_tile = p.channels_first ? cta % p.n_tiles : cta / pixel_tiles;
  const int pixel_tile = p.channels_first ? cta / p.n_tiles : cta % pixel_tiles;
  const int per_image = p.tiles_h * p.tiles_w;
  return {pixel_tile / per_image * p.tile_n, pixel_tile / p.tiles_w % p.tiles_h * p.tile_h,
          pixel_tile % p.tiles_w * p.tile_w, n_tile * tile_channels};
}

// Index in the halo of the pixel that the kernel's top-left tap reads for row `slot` of `half`, in a warp whose windows
// start at `first_group`. Rows that stand for no window read the first pixel, and their sums are never used.
FCNTAG_DEVICE int halo_pixel(const ConvParams& p, int pass, int first_group, int half, int slot) {
  const int windows_per_group = 8 / p.window_slots;
  const int group = half / p.elements;
  const int window = (first_group + group) * windows_per_group + slot % windows_per_group;
  if (group >= p.groups || window >= p.tile_n * p.tile_h * p.tile_w) return 0;
  const int element = half % p.elements * p.window_slots + slot / windows_per_group;
  // Beyond the sub-window, or beyond the window where the last sub-window is smaller: the last row or column once more,
  // which a maximum does not mind.
  const int rows_left = p.pool_h - pass / p.passes_w * p.sub_h, columns_left = p.pool_w - pass % p.passes_w * p.sub_w;
  const int last_y = (p.sub_h < rows_left ? p.sub_h : rows_left) - 1;
  const int last_x = (p.sub_w < columns_left ? p.sub_w : columns_left) - 1;
  const int y = element / p.sub_w < last_y ? element / p.sub_w : last_y;
  const int x = element % p.sub_w < last_x ? element % p.sub_w : last_x;
  const int n = window / (p.tile_h * p.tile_w), wy = window / p.tile_w % p.tile_h, wx = window % p.tile_w;
  return (n * p.halo_h + wy * p.pitch_h + y) * p.halo_w + wx * p.pitch_w + x;
}

// Offsets of the halo's pixels in the input, in 16-byte chunks. -1 stands for a pixel outside of the map, which is
// zero.
FCNTAG_DEVICE void map_halo(const ConvParams& p, const ConvTile& tile, int pass, int images, int* offsets, int thread,
                            int threads) {
  const int first_y = pass / p.passes_w * p.sub_h - p.radius, first_x = pass % p.passes_w * p.sub_w - p.radius;
  for (int i = thread; i < p.halo_pixels; i += threads) {
    const int image = tile.image + i / (p.halo_h * p.halo_w);
    const int row = i / p.halo_w % p.halo_h, column = i % p.halo_w;
    // Windows that lie further apart than they reach have a stretch of the halo each; else they share one.
    int wy = row / p.pitch_h, wx = column / p.pitch_w;
    wy = wy < p.tile_h ? wy : p.tile_h - 1;
    wx = wx < p.tile_w ? wx : p.tile_w - 1;
    const int y = (tile.y + wy) * p.stride_h + row - wy * p.pitch_h + first_y;
    const int x = (tile.x + wx) * p.stride_w + column - wx * p.pitch_w + first_x;
    const bool inside = image < images && y >= 0 && y < p.height && x >= 0 && x < p.width;
    offsets[i] = inside ? ((image * p.height + y) * p.width + x) * p.pixel_chunks : -1;
  }
}

}  // namespace cuda
}  // namespace fcntag
