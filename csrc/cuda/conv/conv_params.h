// conv_block on the GPU: y = maxpool(scale * act(conv(x, w) + b) + shift) as an implicit GEMM. Host and kernels share
// this header.
//
// A block of threads (CTA) computes a tile: tile_n images x tile_h x tile_w pool windows, for kTileN output channels.
// The rows of its GEMM are elements of pool windows, so that pooling is a maximum over accumulators of one thread:
//
//   rows come in halves of 8 (an m16 matrix tile is two halves); row r of a half is slot r;
//   a group of `elements` halves holds 8 / window_slots windows; slot s works for window s % windows_per_group,
//   and half i of the group is the window's element i * window_slots + s / windows_per_group.
//
// A window larger than the accumulators is cut into sub-windows (passes), whose maxima meet in shared memory. Deep maps
// have few windows and spread the elements of one over several slots. The input pixels that a tile needs are staged
// once per 128 bytes of channels and serve all nine taps. Sums run over channel blocks, taps and channels, in this
// order in every tile shape, so that the bits of an output do not depend on the shape that computes it.
#pragma once

#include <cstdint>

#include "cuda/divisor.h"
#include "cuda/io.h"
#include "model/network_spec.h"

namespace fcntag {
namespace cuda {

// How maps and weights are stored: kTf32's are float32, rounded to tf32.
constexpr int element_bytes(Precision p) { return p == Precision::kFloat16 || p == Precision::kBfloat16 ? 2 : 4; }

enum class Storage { kFloat32, kTf32, kFloat16, kBfloat16 };  // the format in which an epilogue writes a map

// How the sums over the channel blocks of a layer are shared. kWhole: a CTA has all of them. A deep layer with few
// outputs splits them instead: in kPartial, blockIdx.y says which chunk of the channel blocks a CTA sums, and the sums
// go to ConvParams::partial. The last CTA of a tile to come adds those of all chunks in order, and pools and stores
// them.
enum class Split { kWhole, kPartial };

constexpr int kBlockBytes = 128;    // channels of one pixel staged at a time: 64 of 2 bytes, 32 of 4
constexpr int kBarrierBytes = 128;  // of shared memory, at its beginning
constexpr int kGroupChannels = 32;  // output channels of a warp; weights are packed in groups of so many
// A staged pixel. Its rows of a matrix load are 9 times 16 bytes apart, so that 8 neighbours lie in different banks,
// and the address of another tap or chunk is a sum.
constexpr int kPixelBytes = kBlockBytes + 16;

constexpr int kCopyTurns = 4;  // of the next halo's copies, at most, beside the products of a tap

// Taps whose weights have room in shared memory, if those of `stage_taps` arrive between two barriers. Two CTAs of a
// wide shape share the memory, and each has twice the time for a copy.
constexpr int ring_taps(int stage_taps, int groups) { return stage_taps == 1 && groups == 1 ? 3 : 2 * stage_taps; }

// A pixel of the halo, relative to the first one of the tile; or a pooled pixel, relative to the tile's first.
struct alignas(8) TablePixel {
  int32_t offset;  // in the map; 16-byte chunks in the input, pixels in the output
  int16_t y, x;
};

struct ConvParams {
  const void* x;          // [images][height][width][pixel_chunks * 16 bytes], channels beyond Cin are zero
  const void* weight;     // packed by pack_conv_weights
  const float* epilogue;  // [4][n_padded]: sign, bias, scale, shift
  void* y;                // [images][out_h][out_w][out_stride]
  float* partial;         // split sums: [chunks][ctas][accumulators of a CTA]
  int* arrivals;          // split sums: [ctas], 0 before and after a launch
  const Io* io;           // io->count images exist
  // Tables that the host has made, so that no thread divides (conv_tables.h).
  const uint16_t* rows;       // [passes][warps_m][halves][8 slots]: where the row's pixel lies in the halo, in 16 bytes
  const TablePixel* halo;     // [halo_pixels]: of the first pass; those that only fill up a turn are far outside
  const TablePixel* windows;  // [windows of the tile], in the order of the rows
  int height, width, pixel_chunks;
  int channel_blocks, last_chunks;  // blocks of 128 bytes; 16-byte chunks in the last one, a multiple of 2
  int out_h, out_w, out_channels, out_stride, n_padded;
  int kernel, taps, radius;  // 3, 9 and 1, or 1, 1 and 0
  int stride_h, stride_w;
  // the tile
  int n_tiles, tiles_h, tiles_w;  // n_tiles of channels; tiles in all = n_tiles * image tiles * tiles_h * tiles_w
  int pixel_tiles;                // image tiles * tiles_h * tiles_w
  bool channels_first;            // consecutive CTAs differ in their channels (share pixels), else share weights
  Divisor by_first, by_tiles_w, by_tiles_h;  // first: n_tiles if channels_first, else pixel_tiles
  int tile_n, tile_h, tile_w;
  int window_slots, windows_per_group, elements, groups;
  int sub_h, sub_w, passes_h, passes_w, pool_h, pool_w;
  int pitch_h, pitch_w, halo_h, halo_w;  // a window's first pixel is at (wy * pitch_h, wx * pitch_w)
  int halo_pixels, halo_turns;           // rounded up to whole turns, in each of which eight threads copy a pixel
  int halo_buffers;                      // 2: the next channel block is loaded under the last one
  int halo_copies;                       // turns of that block in one stage
  int chunk_blocks, chunks;              // sums restart after so many channel blocks
  Split split;
  Activation activation;
  Storage storage;  // of y
  // The next layer's weights, which small batches bring to the second-level cache under this layer (see prefetch.h);
  // or null and 0.
  const void* next_weight;
  int64_t next_bytes;
};

constexpr int kStagePad = 8;  // floats between rows of pooled maxima: 8 slots x 4 lanes write without bank conflicts

}  // namespace cuda
}  // namespace fcntag
