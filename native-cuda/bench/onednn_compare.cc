// The CPU backend's convolutions and matrix products beside oneDNN's, on one process' threads: why
// the engine has its own. Built only where oneDNN is installed (Debian: libdnnl-dev):
// `build/native/onednn-compare [--threads N]`. Layout is NHWC on both sides and weights are
// prepacked on both, so neither pays for a reorder.
#include <dnnl.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "autograd/device.h"

namespace {

using namespace spindle;
using Clock = std::chrono::steady_clock;

struct Case {
  const char* what;
  int64_t batch, size, in, out, kernel;
};

// The shapes of the demo's U-Net, of `small` and of Stable Diffusion 1.5.
constexpr Case kCases[] = {
    {"demo 16x16, 3x3", 32, 16, 64, 64, 3},   {"demo 8x8, 3x3", 32, 8, 96, 96, 3},
    {"demo 4x4, 3x3", 32, 4, 128, 128, 3},    {"demo 16x16, 1x1", 32, 16, 64, 512, 1},
    {"small 32x32, 3x3", 4, 32, 128, 128, 3}, {"small 8x8, 3x3", 4, 8, 512, 512, 3},
    {"sd15 64x64, 3x3", 1, 64, 320, 320, 3},  {"sd15 16x16, 3x3", 1, 16, 1280, 1280, 3},
    {"sd15 64x64, 1x1", 1, 64, 320, 2560, 1},
};

double median_seconds(const std::function<void()>& work) {
  std::vector<double> seconds;
  work();
  for (int i = 0; i < 7; ++i) {
    auto start = Clock::now();
    work();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

Tensor filled(Device& device, const Shape& shape, DType dtype, float value) {
  Tensor floats = device.empty(shape, DType::F32), t = device.empty(shape, dtype);
  device.upload(floats, std::vector<float>(size_t(shape.numel()), value).data());
  device.kernels().run(Cast{.y = t, .x = floats});
  return t;
}

double own_seconds(Device& device, const Case& c, DType dtype) {
  Tensor x = filled(device, {c.batch, c.size, c.size, c.in}, dtype, 0.5f),
         y = device.zeros({c.batch, c.size, c.size, c.out}, dtype),
         w = filled(device, {c.out, c.kernel, c.kernel, c.in}, dtype, 0.25f);
  Conv2dArgs args{.pad_before = c.kernel / 2, .pad_after = c.kernel / 2};
  static uint64_t id = 0;
  Weight weight{w, ++id, w.shape()};
  if (device.kernels().keep_weight(weight, dtype)) weight.value = Tensor();
  return median_seconds(
      [&] { device.kernels().run(Conv2dForward{.y = y, .x = x, .w = weight, .args = args}); });
}

double onednn_seconds(const Case& c, DType dtype) {
  using namespace dnnl;
  auto type = dtype == DType::F32 ? memory::data_type::f32 : memory::data_type::bf16;
  engine cpu(engine::kind::cpu, 0);
  stream stream(cpu);
  memory::dims xs{c.batch, c.in, c.size, c.size}, ws{c.out, c.in, c.kernel, c.kernel},
      ys{c.batch, c.out, c.size, c.size}, pad{c.kernel / 2, c.kernel / 2};
  memory::desc xd(xs, type, memory::format_tag::nhwc), wd(ws, type, memory::format_tag::any),
      yd(ys, type, memory::format_tag::nhwc);
#if DNNL_VERSION_MAJOR >= 3
  convolution_forward::primitive_desc primitive(cpu, prop_kind::forward_inference,
                                                algorithm::convolution_direct, xd, wd, yd, {1, 1},
                                                pad, pad);
#else
  convolution_forward::primitive_desc primitive(
      {prop_kind::forward_inference, algorithm::convolution_direct, xd, wd, yd, {1, 1}, pad, pad},
      cpu);
#endif
  memory x(primitive.src_desc(), cpu), w(primitive.weights_desc(), cpu),
      y(primitive.dst_desc(), cpu);
  std::memset(x.get_data_handle(), 0, primitive.src_desc().get_size());
  std::memset(w.get_data_handle(), 0, primitive.weights_desc().get_size());
  convolution_forward convolution(primitive);
  return median_seconds([&] {
    convolution.execute(stream, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}});
    stream.wait();
  });
}

}  // namespace

int main(int argc, char** argv) {
  int threads = argc == 3 && !std::strcmp(argv[1], "--threads") ? std::atoi(argv[2]) : 0;
  Device device({.threads = threads});
  std::printf(
      "cpu backend %s, %d threads; oneDNN %d.%d.%d (its own threads: OMP_NUM_THREADS); GFLOP/s, "
      "forward\n",
      device.isa().c_str(), device.threads().threads(), DNNL_VERSION_MAJOR, DNNL_VERSION_MINOR,
      DNNL_VERSION_PATCH);
  std::printf("%-20s %10s %10s %8s %10s %10s %8s\n", "", "f32 own", "f32 dnnl", "ratio", "bf16 own",
              "bf16 dnnl", "ratio");
  for (const Case& c : kCases) {
    double flop =
        2.0 * double(c.batch * c.size * c.size * c.in * c.out * c.kernel * c.kernel) / 1e9;
    double own32 = own_seconds(device, c, DType::F32), dnnl32 = onednn_seconds(c, DType::F32),
           own16 = own_seconds(device, c, DType::BF16), dnnl16 = onednn_seconds(c, DType::BF16);
    std::printf("%-20s %10.0f %10.0f %8.2f %10.0f %10.0f %8.2f\n", c.what, flop / own32,
                flop / dnnl32, dnnl32 / own32, flop / own16, flop / dnnl16, dnnl16 / own16);
  }
}
