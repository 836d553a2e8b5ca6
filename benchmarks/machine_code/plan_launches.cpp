// Prints, as JSON, how the planner would launch conv_block for layers that it is asked for: the kernel's name, grid
// and the bytes of its parameters. An interpreter of machine code can then run a CTA with the parameters of the engine.
//
// A line of standard input is a layer: name, precision, batch, Cin, Cout, kernel, activation (0, 1, 2), pool window and
// stride (h, w each), height and width of the input, output storage ("map" or "float32"), and which of the compiled
// shapes of the kernel to take ("best": the planner's choice; "all": each that can compute the layer). It is compiled
// with the emulator's headers and never runs a kernel, so that no emulator has to be linked.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "cuda/conv/conv_plan.h"
#include "cuda/io.h"

using namespace fcntag;
using namespace fcntag::cuda;

namespace {

// What a pointer of the parameters points to. Pages of the made-up addresses are far apart, so that an access beyond
// the end of a region hits none.
struct Region {
  const char* name;
  uint64_t address;
  std::size_t bytes;
  std::vector<uint8_t> content;  // empty: all zeros
};

void print_hex(const void* data, std::size_t bytes) {
  std::printf("\"");
  for (std::size_t i = 0; i < bytes; ++i) std::printf("%02x", static_cast<const uint8_t*>(data)[i]);
  std::printf("\"");
}

template <typename T>
T* pointer(uint64_t address) {
  return reinterpret_cast<T*>(address);
}

// Where everything is that the parameters of `plan` point to.
std::vector<Region> place(ConvParams& p, const ConvPlan& plan, const ConvLayer& layer, int batch) {
  std::vector<Region> regions;
  const auto add = [&](const char* name, std::size_t bytes, std::vector<uint8_t> content = {}) {
    regions.push_back({name, 0x7f0000000000ull + (regions.size() << 36), bytes, std::move(content)});
    return regions.back().address;
  };
  p = bind_tables(plan, pointer<const void>(add("tables", plan.tables.size(), plan.tables)));
  const std::size_t pixel_bytes = static_cast<std::size_t>(p.pixel_chunks) * 16;
  p.x = pointer<const void>(add("x", pixel_bytes * batch * p.height * p.width));
  p.weight = pointer<const void>(
      add("weight", static_cast<std::size_t>(p.channel_blocks) * p.taps * kBlockBytes * p.n_padded));
  p.epilogue = pointer<const float>(add("epilogue", static_cast<std::size_t>(p.n_padded) * 4 * sizeof(float)));
  p.y = pointer<void>(
      add("y", static_cast<std::size_t>(batch) * p.out_h * p.out_w * p.out_stride * storage_bytes(layer.storage)));
  if (plan.partial_bytes > 0) {
    p.partial = pointer<float>(add("partial", plan.partial_bytes));
    // The CTA that is looked at is the last one of its tile, which has the most to do.
    std::vector<uint8_t> arrivals(plan.arrivals() * sizeof(int32_t));
    for (std::size_t i = 0; i < plan.arrivals(); ++i) {
      const int32_t arrived = p.chunks - 1;
      std::memcpy(arrivals.data() + i * sizeof arrived, &arrived, sizeof arrived);
    }
    const std::size_t bytes = arrivals.size();
    p.arrivals = pointer<int>(add("arrivals", bytes, std::move(arrivals)));
  }
  Io io{};
  io.count = batch;
  std::vector<uint8_t> io_bytes(sizeof io);
  std::memcpy(io_bytes.data(), &io, sizeof io);
  p.io = pointer<const Io>(add("io", sizeof io, std::move(io_bytes)));
  return regions;
}

void print_launch(const std::string& name, const ConvPlan& plan, const ConvParams& p,
                  const std::vector<Region>& regions) {
  const bool split = p.split == Split::kPartial;
  Dl_info symbol{};
  dladdr(reinterpret_cast<const void*>(plan.kernel.launch), &symbol);
  std::printf("{\"name\": \"%s\", \"kernel\": \"%s\", ", name.c_str(), symbol.dli_sname ? symbol.dli_sname : "");
  std::printf("\"grid\": [%u, %d, 1], \"threads\": %d, \"shared_bytes\": %zu, \"planned_cycles\": %.17g, ", plan.ctas,
              split ? p.chunks : 1, plan.kernel.threads(), plan.shared_bytes, plan.cycles);
  const int blocks = split ? p.chunk_blocks : p.channel_blocks;
  std::printf("\"rows\": %d, \"channels\": %d, \"passes\": %d, \"channel_blocks\": %d, \"taps\": %d, ",
              8 * plan.kernel.halves * plan.kernel.warps_m, plan.kernel.tile_n(), p.passes_h * p.passes_w, blocks,
              p.taps);
  std::printf("\"chunks\": %d, \"halo_pixels\": %d, \"windows\": %d, ", p.channel_blocks == 1 ? p.last_chunks : 8,
              p.halo_pixels, p.tile_n * p.tile_h * p.tile_w);
  std::printf("\"params\": ");
  print_hex(&p, sizeof p);
  std::printf(", \"regions\": [");
  for (std::size_t i = 0; i < regions.size(); ++i) {
    const Region& r = regions[i];
    std::printf("%s{\"name\": \"%s\", \"address\": %llu, \"bytes\": %zu, \"content\": ", i ? ", " : "", r.name,
                static_cast<unsigned long long>(r.address), r.bytes);
    print_hex(r.content.data(), r.content.size());
    std::printf("}");
  }
  std::printf("]}");
}

Precision precision_of(const std::string& name) {
  for (const Precision p :
       {Precision::kFloat32, Precision::kTf32x3, Precision::kTf32, Precision::kFloat16, Precision::kBfloat16}) {
    if (name == precision_name(p)) return p;
  }
  std::fprintf(stderr, "precision=%s is unknown\n", name.c_str());
  std::exit(2);
}

int print_plans() {
  DeviceInfo device;
  device.name = "NVIDIA H100";
  device.major = 9;
  device.multiprocessors = 132;
  device.shared_bytes = 227 * 1024;
  std::string line;
  bool first = true;
  std::printf("[");
  while (std::getline(std::cin, line)) {
    std::istringstream in(line);
    std::string name, precision, storage, shapes;
    int batch, activation;
    ConvLayer layer{};
    in >> name >> precision >> batch >> layer.in_channels >> layer.out_channels >> layer.kernel >> activation >>
        layer.pool_h >> layer.pool_w >> layer.stride_h >> layer.stride_w >> layer.height >> layer.width >> storage >>
        shapes;
    if (!in) {
      std::fprintf(stderr, "not a layer: %s\n", line.c_str());
      return 2;
    }
    layer.activation = static_cast<Activation>(activation);
    layer.precision = precision_of(precision);
    layer.storage = storage == "float32" ? Storage::kFloat32 : map_storage(layer.precision);
    const auto print = [&](const ConvPlan& plan) {
      ConvParams params;
      const std::vector<Region> regions = place(params, plan, layer, batch);
      std::printf(first ? "\n" : ",\n");
      first = false;
      print_launch(name, plan, params, regions);
    };
    if (shapes != "all") {
      print(plan_conv(layer, batch, device));
      continue;
    }
    for (const ConvKernel& kernel : conv_kernels(layer.precision)) {
      try {
        print(plan_conv(layer, batch, device, {kernel}));
      } catch (const DeviceError&) {  // this shape cannot compute the layer
      }
    }
  }
  std::printf("\n]\n");
  return 0;
}

}  // namespace

int main() {
  try {
    return print_plans();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
