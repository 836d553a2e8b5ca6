// Where a CTA of conv_block works, and where in the map the pixels of its halo lie.
#pragma once

#include "cuda/conv/conv_params.h"
#include "cuda/device/device.h"

namespace fcntag {
namespace cuda {

// Which of a CTA's threads this is. Made anew wherever it is needed: registers are what the sums want.
template <typename Shape>
struct ThreadPlace {
  int thread, lane, warp, warp_m, warp_n;
  FCNTAG_DEVICE ThreadPlace() {
    thread = dev::thread_index();
    lane = thread & 31;
    warp = thread >> 5;
    warp_m = warp / Shape::kWarpsN;
    warp_n = warp % Shape::kWarpsN;
  }
};

// Where a CTA works.
struct ConvTile {
  int image, y, x;  // first image and pooled position
  int channel;      // first output channel
};

FCNTAG_DEVICE ConvTile conv_tile(const ConvParams& p, int tile_channels) {
  const int cta = dev::block_index();
  const int quotient = divide(cta, p.by_first);
  const int n_tile = p.channels_first ? cta - quotient * p.n_tiles : quotient;
  const int pixel_tile = p.channels_first ? quotient : cta - quotient * p.pixel_tiles;
  const int row = divide(pixel_tile, p.by_tiles_w), image = divide(row, p.by_tiles_h);
  return {image * p.tile_n, (row - image * p.tiles_h) * p.tile_h, (pixel_tile - row * p.tiles_w) * p.tile_w,
          n_tile * tile_channels};
}

// Stands for a pixel outside of the map, which is zero.
constexpr uint32_t kOutside = 0xffffffffu;

// Offsets of the halo's pixels in the input, in bytes from the first of the tile's images. Eight threads copy one
// pixel, so a warp copies four at a time; it maps the pixels that it will copy and no other.
template <typename Shape>
FCNTAG_DEVICE void map_halo(const ConvParams& p, int pass_y, int pass_x) {
  const int thread = dev::thread_index(), warp = thread >> 5, lane = thread & 31;
  const ConvTile tile = conv_tile(p, Shape::kTileN);
  const int images = p.io->count;
  uint32_t* offsets = reinterpret_cast<uint32_t*>(dev::shared_memory() + kBarrierBytes);
  const int first_y = tile.y * p.stride_h + pass_y * p.sub_h - p.radius;
  const int first_x = tile.x * p.stride_w + pass_x * p.sub_w - p.radius;
  const int first = (first_y * p.width + first_x) * p.pixel_chunks;
  const uint32_t end = static_cast<uint32_t>((images - tile.image) * p.height * p.width * p.pixel_chunks);
  for (int i = warp * 4 + (lane & 3) + (lane >> 2) * Shape::kHaloTurn; i < p.halo_pixels; i += Shape::kThreads) {
    const TablePixel pixel = p.halo[i];
    const uint32_t offset = static_cast<uint32_t>(first + pixel.offset);
    const bool inside = static_cast<unsigned>(first_y + pixel.y) < static_cast<unsigned>(p.height) &&
                        static_cast<unsigned>(first_x + pixel.x) < static_cast<unsigned>(p.width) && offset < end;
    offsets[i] = inside ? offset * 16 : kOutside;
  }
}

}  // namespace cuda
}  // namespace fcntag
