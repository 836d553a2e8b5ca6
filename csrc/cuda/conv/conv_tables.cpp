#include "cuda/conv/conv_tables.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "check.h"

namespace fcntag {
namespace cuda {

namespace {

constexpr int kBanks = 8;  // of 16 bytes: as many rows can be read at once

// Windows of a tile are counted by image, then row, then column.
struct Window {
  int n, y, x;
};
Window window_at(const ConvParams& p, int index) {
  return {index / (p.tile_h * p.tile_w), index / p.tile_w % p.tile_h, index % p.tile_w};
}
// Index in the halo of the window's first pixel.
int first_pixel(const ConvParams& p, int index) {
  const Window w = window_at(p, index);
  return (w.n * p.halo_h + w.y * p.pitch_h) * p.halo_w + w.x * p.pitch_w;
}

// Index in the halo, relative to the window's first pixel, of element `element` of a pass. Beyond the sub-window, or
// beyond the window where the last sub-window is smaller, the last row or column comes once more, which a maximum does
// not mind.
int element_pixel(const ConvParams& p, int pass, int element) {
  const int rows_left = p.pool_h - pass / p.passes_w * p.sub_h, columns_left = p.pool_w - pass % p.passes_w * p.sub_w;
  const int y = std::min(element / p.sub_w, std::min(p.sub_h, rows_left) - 1);
  const int x = std::min(element % p.sub_w, std::min(p.sub_w, columns_left) - 1);
  return y * p.halo_w + x;
}

// For every half of a group and each of its 8 slots: the pixel of the slot's element in a pass, relative to the first
// one of the slot's window.
std::vector<int> slot_pixels(const ConvParams& p, int pass) {
  std::vector<int> pixels;
  for (int i = 0; i < p.elements; ++i) {
    for (int slot = 0; slot < 8; ++slot) {
      pixels.push_back(element_pixel(p, pass, i * p.window_slots + slot / p.windows_per_group));
    }
  }
  return pixels;
}

// How many turns the loads of a group take whose windows start at these pixels, summed over its halves. `slots`:
// slot_pixels() of a pass.
int group_turns(const ConvParams& p, const std::vector<int>& slots, const std::vector<int>& starts) {
  int turns = 0;
  for (int i = 0; i < p.elements; ++i) {
    std::array<std::array<int, kBanks>, kBanks> pixels;
    std::array<int, kBanks> counts{};
    int most = 1;
    for (int slot = 0; slot < 8; ++slot) {
      const std::size_t window = slot & (p.windows_per_group - 1);  // a power of two
      if (window >= starts.size()) continue;
      const int pixel = starts[window] + slots[i * 8 + slot];
      const int bank = pixel & (kBanks - 1);
      const auto end = pixels[bank].begin() + counts[bank];
      if (std::find(pixels[bank].begin(), end, pixel) == end) pixels[bank][counts[bank]++] = pixel;
      most = std::max(most, counts[bank]);
    }
    turns += most;
  }
  return turns;
}

// The order in which a tile's windows come in the rows: the windows of a group shall lie in different banks. Only a
// window's first pixel counts, and of that only its bank, so that every group takes its windows from the fullest bank
// that costs no turn.
std::vector<int> window_order(const ConvParams& p) {
  const std::vector<int> slots = slot_pixels(p, 0);
  const int windows = p.tile_n * p.tile_h * p.tile_w;
  std::array<std::vector<int>, kBanks> waiting;
  for (int i = windows - 1; i >= 0; --i) waiting[first_pixel(p, i) % kBanks].push_back(i);
  std::vector<int> order;
  std::vector<int> starts;
  while (static_cast<int>(order.size()) < windows) {
    if (static_cast<int>(order.size()) % p.windows_per_group == 0) starts.clear();
    int best_bank = -1, best_turns = 0;
    for (int bank = 0; bank < kBanks; ++bank) {
      if (waiting[bank].empty()) continue;
      starts.push_back(first_pixel(p, waiting[bank].back()));
      const int turns = group_turns(p, slots, starts);
      starts.pop_back();
      if (best_bank < 0 || turns < best_turns ||
          (turns == best_turns && waiting[bank].size() > waiting[best_bank].size())) {
        best_bank = bank;
        best_turns = turns;
      }
    }
    order.push_back(waiting[best_bank].back());
    starts.push_back(first_pixel(p, order.back()));
    waiting[best_bank].pop_back();
  }
  return order;
}

template <typename T>
void append(std::vector<uint8_t>& bytes, const std::vector<T>& values) {
  const std::size_t at = bytes.size();
  bytes.resize(at + values.size() * sizeof(T));
  std::memcpy(bytes.data() + at, values.data(), values.size() * sizeof(T));
}

int16_t narrow(int value) {
  FCNTAG_CHECK(value >= 0 && value <= INT16_MAX, "conv_block: a tile of more than ", INT16_MAX, " pixels in a row");
  return static_cast<int16_t>(value);
}

}  // namespace

double bank_turns(const ConvParams& p) {
  const std::vector<int> order = window_order(p), slots = slot_pixels(p, 0);
  int turns = 0, groups = 0;
  for (std::size_t i = 0; i < order.size(); i += p.windows_per_group, ++groups) {
    std::vector<int> starts;
    for (std::size_t j = i; j < std::min(order.size(), i + p.windows_per_group); ++j) {
      starts.push_back(first_pixel(p, order[j]));
    }
    turns += group_turns(p, slots, starts);
  }
  return static_cast<double>(turns) / (groups * p.elements);
}

std::vector<uint8_t> conv_tables(const ConvParams& p, const ConvKernel& kernel) {
  const std::vector<int> order = window_order(p);
  const int windows = static_cast<int>(order.size());
  std::vector<uint16_t> rows;
  for (int pass = 0; pass < p.passes_h * p.passes_w; ++pass) {
    const std::vector<int> slots = slot_pixels(p, pass);
    for (int warp = 0; warp < kernel.warps_m; ++warp) {
      for (int half = 0; half < kernel.halves; ++half) {
        for (int slot = 0; slot < 8; ++slot) {
          const int group = half / p.elements;
          const int window = (warp * p.groups + group) * p.windows_per_group + slot % p.windows_per_group;
          // Rows that stand for no window read the first pixel, and their sums are never used.
          const bool used = group < p.groups && window < windows;
          const int pixel = used ? first_pixel(p, order[window]) + slots[half % p.elements * 8 + slot] : 0;
          rows.push_back(static_cast<uint16_t>(pixel * (kPixelBytes / 16)));
        }
      }
    }
  }
  std::vector<TablePixel> halo;
  for (int n = 0; n < p.tile_n; ++n) {
    for (int row = 0; row < p.halo_h; ++row) {
      // Windows that lie further apart than they reach have a stretch of the halo each; else they share one.
      const int wy = std::min(row / p.pitch_h, p.tile_h - 1), y = wy * p.stride_h + row - wy * p.pitch_h;
      for (int column = 0; column < p.halo_w; ++column) {
        const int wx = std::min(column / p.pitch_w, p.tile_w - 1), x = wx * p.stride_w + column - wx * p.pitch_w;
        halo.push_back({((n * p.height + y) * p.width + x) * p.pixel_chunks, narrow(y), narrow(x)});
      }
    }
  }
  halo.resize(p.halo_pixels, {INT32_MAX, INT16_MIN, 0});
  std::vector<TablePixel> places;
  for (const int index : order) {
    const Window w = window_at(p, index);
    places.push_back({(w.n * p.out_h + w.y) * p.out_w + w.x, narrow(w.y), narrow(w.x)});
  }
  std::vector<uint8_t> bytes;
  append(bytes, rows);
  append(bytes, halo);
  append(bytes, places);
  return bytes;
}

}  // namespace cuda
}  // namespace fcntag
