// Every compiled shape of conv_block on the emulator, whether or not the planner would choose it: the same bits from
// all of them.
//
//   check_shapes [seed] [precision]
//
// check_network compares results with a reference, but only in the shapes that its layers happen to get.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cuda/conv/conv_pack.h"
#include "cuda/conv/conv_plan.h"
#include "cuda/half.h"
#include "cuda/network.h"
#include "cuda/upload.h"
#include "emulation/emulator.h"

using namespace fcntag;
using namespace fcntag::cuda;

namespace {

constexpr int kBatch = 2;

struct LayerCase {
  const char* name;
  ConvBlockShape shape;
  int height, width;
};

const LayerCase kLayers[] = {
    {"one chunk", {24, 70, 3, Activation::kElu, 2, 3, 2, 3}, 9, 14},
    {"large window", {24, 40, 3, Activation::kRelu, 4, 5, 4, 5}, 9, 10},
    {"deep",
     {200, 40, 3, Activation::kRelu, 3, 4, 3, 4},
     6,
     8},  // sums restart: shapes that cannot do that are left out
};

std::vector<float> normal(std::mt19937& generator, std::size_t count, double scale) {
  std::normal_distribution<float> distribution(0.0f, static_cast<float>(scale));
  std::vector<float> values(count);
  for (float& x : values) x = distribution(generator);
  return values;
}

struct Tensors {
  DeviceMemory x, weight, epilogue;
};

Tensors make_tensors(const ConvLayer& layer) {
  std::mt19937 generator(11);
  const int taps = layer.kernel * layer.kernel;
  const std::vector<float> weight =
      normal(generator, static_cast<std::size_t>(layer.out_channels) * layer.in_channels * taps,
             std::sqrt(2.0 / (layer.in_channels * taps)));
  const std::vector<float> bias = normal(generator, layer.out_channels, 0.5);
  const std::vector<float> scale = normal(generator, layer.out_channels, 1.0);
  const std::vector<float> shift = normal(generator, layer.out_channels, 0.5);
  const ConvBlockSpec spec{layer, weight.data(), bias.data(), scale.data(), shift.data()};
  // The map as a block before this one would leave it: channels that fill up a pixel are zero.
  const int stride = padded_channels(layer.in_channels, map_storage(layer.precision));
  const int size = element_bytes(layer.precision), pixels = kBatch * layer.height * layer.width;
  std::vector<uint8_t> map(static_cast<std::size_t>(pixels) * stride * size);
  for (int pixel = 0; pixel < pixels; ++pixel) {
    const std::vector<float> values = normal(generator, layer.in_channels, 1.0);
    for (int c = 0; c < layer.in_channels; ++c) {
      store_as(map.data() + (static_cast<std::size_t>(pixel) * stride + c) * size, values[c], layer.precision);
    }
  }
  return {upload(map), upload(pack_conv_weights(spec, layer.precision)), upload(pack_epilogue(spec))};
}

std::vector<float> outputs(const ConvLayer& layer, const ConvPlan& plan, const Tensors& tensors) {
  std::vector<float> y(static_cast<std::size_t>(kBatch) * layer.out_h() * layer.out_w() *
                       padded_channels(layer.out_channels, layer.storage));
  DeviceMemory out(y.size() * sizeof(float)), partial(plan.partial_bytes), io(sizeof(Io));
  const DeviceMemory arrivals = upload(std::vector<int>(plan.arrivals()));
  set_io(io.as<Io>(), {nullptr, 0, nullptr, nullptr, kBatch}, nullptr);
  const DeviceMemory tables = upload(plan.tables);
  ConvParams params = bind_tables(plan, tables.as<void>());
  params.x = tensors.x.as<void>();
  params.weight = tensors.weight.as<void>();
  params.epilogue = tensors.epilogue.as<float>();
  params.y = out.as<void>();
  params.partial = partial.as<float>();
  params.arrivals = arrivals.as<int>();
  params.io = io.as<Io>();
  run_conv(plan, params, nullptr);
  copy_to_host(y.data(), out.as<void>(), out.bytes(), nullptr);
  synchronize(nullptr);
  return y;
}

bool check(const LayerCase& c, Precision precision, const DeviceInfo& device) {
  const ConvLayer layer{c.shape, c.height, c.width, precision, Storage::kFloat32};
  const Tensors tensors = make_tensors(layer);
  const ConvPlan chosen = plan_conv(layer, kBatch, device);
  const std::vector<float> expected = outputs(layer, chosen, tensors);
  bool good = true;
  for (const float v : expected) good = good && std::isfinite(v);
  int shapes = 0;
  for (const ConvKernel& kernel : conv_kernels(precision)) {
    if (chosen.params.chunks > 1 && !kernel.chunked) continue;
    ConvPlan plan;
    try {
      plan = plan_conv(layer, kBatch, device, {kernel});
    } catch (const DeviceError&) {  // a stage of this shape is larger than the device's shared memory
      continue;
    }
    ++shapes;
    if (plan.params.halo_copies > kernel.stage_taps * kCopyTurns) {
      std::printf("  %s: more copies of a halo than its stages have turns for\n", c.name);
      good = false;
    }
    const std::vector<float> y = outputs(layer, plan, tensors);
    if (plan.kernel.launch != kernel.launch || std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) != 0) {
      std::printf("  %s %s: the shape of %d halves, %d x %d warps, %d groups and %d taps a stage gives other bits\n",
                  c.name, precision_name(precision), kernel.halves, kernel.warps_m, kernel.warps_n, kernel.groups,
                  kernel.stage_taps);
      good = false;
    }
  }
  std::printf("%-13s %-9s %s  %d shapes\n", c.name, precision_name(precision), good ? "ok  " : "FAIL", shapes);
  std::fflush(stdout);
  return good && shapes > 0;
}

// Windows far apart in images of 1 GB: a tile of several would reach beyond its 32-bit offsets. Plans alone, as there
// is no such memory.
bool check_offsets(Precision precision, const DeviceInfo& device) {
  const ConvLayer layer{{128, 32, 3, Activation::kRelu, 4, 4, 2000, 2000}, 2048, 2048, precision, Storage::kFloat32};
  const ConvPlan plan = plan_conv(layer, 8, device);
  const ConvParams& p = plan.params;
  const double bytes = 16.0 * p.tile_n * p.height * p.width * p.pixel_chunks;
  const bool good = bytes <= std::numeric_limits<uint32_t>::max();
  std::printf("%-13s %-9s %s  tiles of %d images\n", "far apart", precision_name(precision), good ? "ok  " : "FAIL",
              p.tile_n);
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  emulator::options().seed = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 0;
  const std::string only = argc > 2 ? argv[2] : "";
  const DeviceInfo device = device_info(0);
  int failures = 0, cases = 0;
  for (const Precision precision :
       {Precision::kFloat32, Precision::kTf32x3, Precision::kTf32, Precision::kFloat16, Precision::kBfloat16}) {
    if (!only.empty() && only != precision_name(precision)) continue;
    ++cases;
    failures += !check_offsets(precision, device);
    for (const LayerCase& c : kLayers) {
      ++cases;
      failures += !check(c, precision, device);
    }
  }
  std::printf("%d of %d cases failed\n", failures, cases);
  return failures == 0 && cases > 0 ? 0 : 1;
}
