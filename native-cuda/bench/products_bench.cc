// GFLOP/s of the CPU backend's products and of their gradients, by instruction set:
// `build/native/products-bench [--threads N]
// [--isa NAME] [--precision float32|bfloat16] [--only WORD]`. Of attention the second column is its
// whole backward. Without --isa every instruction set that the processor has, in turn.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "autograd/device.h"

namespace {

using namespace spindle;

struct Case {
  const char* what;
  int64_t batch, size, in, out, kernel;  // kernel 0: a linear layer over batch * size * size rows
};

// The shapes of the demo's U-Net, of `small` and of Stable Diffusion 1.5.
constexpr Case kCases[] = {
    {"demo 16x16, 64, 3x3", 32, 16, 64, 64, 3},    {"demo 8x8, 96, 3x3", 32, 8, 96, 96, 3},
    {"small 32x32, 128, 3x3", 4, 32, 128, 128, 3}, {"small 8x8, 512, 3x3", 4, 8, 512, 512, 3},
    {"vae 64x64, 16, 3x3", 16, 64, 16, 16, 3},     {"vae 64x64, 3-16, 3x3", 16, 64, 3, 16, 3},
    {"vae 64x64, 16-3, 3x3", 16, 64, 16, 3, 3},    {"sd15 64x64, 320-4, 3x3", 1, 64, 320, 4, 3},
    {"demo linear 64", 64, 16, 64, 64, 0},         {"demo linear 64-512", 64, 16, 64, 512, 0},
    {"sd15 64x64, 320, 3x3", 1, 64, 320, 320, 3},  {"sd15 16x16, 1280, 3x3", 1, 16, 1280, 1280, 3},
    {"small linear 256", 4, 16, 256, 256, 0},      {"sd15 linear 320-2560", 1, 64, 320, 2560, 0},
};

// With one thread, its processor time: on a busy machine the clock on the wall counts other
// processes.
double seconds(bool one_thread) {
  timespec t{};
  clock_gettime(one_thread ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// The fastest of some.
double fastest(Device& device, const std::function<void()>& work) {
  bool one_thread = device.threads().threads() == 1;
  double best = 1e30;
  work();
  for (int i = 0; i < 15; ++i) {
    double start = seconds(one_thread);
    work();
    best = std::min(best, seconds(one_thread) - start);
  }
  return best;
}

void fill(const Tensor& t) {
  // small numbers of both signs: sums stay normal numbers
  for (int64_t i = 0; i < t.numel(); ++i) {
    float value = float((i * 2654435761 >> 7) % 255 - 127) / 256;
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (t.dtype() == DType::F32)
      static_cast<float*>(t.raw())[i] = value;
    else
      static_cast<uint16_t*>(t.raw())[i] = uint16_t(bits >> 16);
  }
}

struct AttentionCase {
  const char* what;
  int64_t batch, queries, keys, width, heads;
};
constexpr AttentionCase kAttentions[] = {
    {"demo 256 x 256, 4 x 16", 32, 256, 256, 64, 4},
    {"demo 256 x 32, 4 x 16", 32, 256, 32, 64, 4},
    {"small 1024 x 1024, 8 x 16", 2, 1024, 1024, 128, 8},
    {"1024 x 1024, 8 x 64", 1, 1024, 1024, 512, 8},
    {"demo 64 x 64, 4 x 24", 32, 64, 64, 96, 4},
    {"sd15 4096 x 4096, 8 x 40", 1, 4096, 4096, 320, 8},
    {"sd15 4096 x 77, 8 x 40", 1, 4096, 77, 320, 8},
    {"sd15 256 x 256, 8 x 160", 4, 256, 256, 1280, 8},
    {"vae 1024 x 1024, 1 x 512", 1, 1024, 1024, 512, 1},
};

// Nominal operations as spindle-bench --profile counts them: two products forward, five backward.
void measure(Device& device, const AttentionCase& c, DType dtype) {
  Kernels& kernels = device.kernels();
  Shape qs{c.batch, c.queries, c.width}, ks{c.batch, c.keys, c.width};
  Tensor q = device.zeros(qs, dtype), k = device.zeros(ks, dtype), v = device.zeros(ks, dtype),
         o = device.zeros(qs, dtype), d_o = device.zeros(qs, dtype);
  Tensor dq = device.zeros(qs, dtype), dk = device.zeros(ks, dtype), dv = device.zeros(ks, dtype),
         lse = device.zeros({c.batch, c.heads, c.queries}, DType::F32);
  for (const Tensor& t : {q, k, v, d_o}) fill(t);
  AttentionArgs args{.heads = c.heads};
  double gflop = 2.0 * double(c.batch * c.queries * c.keys * c.width) / 1e9;
  double forward = fastest(device, [&] {
    kernels.run(AttentionForward{.o = o, .lse = lse, .q = q, .k = k, .v = v, .args = args});
  });
  double backward = fastest(device, [&] {
    kernels.run(AttentionBackward{.dq = {dq},
                                  .dk = {dk},
                                  .dv = {dv},
                                  .d_o = d_o,
                                  .o = o,
                                  .lse = lse,
                                  .q = q,
                                  .k = k,
                                  .v = v,
                                  .args = args});
  });
  std::printf("%-12s %-9s %-24s %9.1f %9.1f\n", device.isa().c_str(), dtype_name(dtype), c.what,
              2 * gflop / forward, 5 * gflop / backward);
  std::fflush(stdout);
}

void measure(Device& device, const Case& c, DType dtype) {
  Kernels& k = device.kernels();
  bool linear = c.kernel == 0;
  int64_t rows = c.batch * c.size * c.size, taps = linear ? 1 : c.kernel * c.kernel;
  Shape xs = linear ? Shape{rows, c.in} : Shape{c.batch, c.size, c.size, c.in},
        ys = linear ? Shape{rows, c.out} : Shape{c.batch, c.size, c.size, c.out};
  Shape ws = linear ? Shape{c.out, c.in} : Shape{c.out, c.kernel, c.kernel, c.in};
  Tensor x = device.zeros(xs, dtype), y = device.zeros(ys, dtype), w = device.zeros(ws, dtype),
         dw = device.zeros(ws, DType::F32), dx = device.zeros(xs, dtype);
  fill(x);
  fill(y);
  fill(w);
  Tensor dy = device.zeros(ys, dtype);
  fill(dy);
  Conv2dArgs args{.pad_before = c.kernel / 2, .pad_after = c.kernel / 2};
  Weight weight{w};  // packed in every call, as in training
  double gflop = 2.0 * double(rows * c.in * c.out * taps) / 1e9;
  double forward = fastest(device, [&] {
    linear ? k.run(LinearForward{.y = y, .x = x, .w = weight})
           : k.run(Conv2dForward{.y = y, .x = x, .w = weight, .args = args});
  });
  double to_input = fastest(device, [&] {
    linear ? k.run(LinearBackwardInput{.dx = {dx}, .dy = dy, .w = weight})
           : k.run(Conv2dBackwardInput{.dx = {dx}, .dy = dy, .w = weight, .args = args});
  });
  double to_weight = fastest(device, [&] {
    linear ? k.run(LinearBackwardWeight{.dw = {dw}, .dy = dy, .x = x})
           : k.run(Conv2dBackwardWeight{.dw = {dw}, .dy = dy, .x = x, .args = args});
  });
  std::printf("%-12s %-9s %-24s %9.1f %9.1f %9.1f\n", device.isa().c_str(), dtype_name(dtype),
              c.what, gflop / forward, gflop / to_input, gflop / to_weight);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  int threads = 0;
  std::string only;
  std::vector<std::string> isas = {"amx", "avx512_bf16", "avx512", "avx2"};
  std::vector<DType> dtypes = {DType::F32, DType::BF16};
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string flag = argv[i], value = argv[i + 1];
    if (flag == "--threads")
      threads = std::atoi(value.c_str());
    else if (flag == "--only")
      only = value;
    else if (flag == "--isa")
      isas = {value};
    else if (flag == "--precision")
      dtypes = {value == "float32" ? DType::F32 : DType::BF16};
    else
      return std::fprintf(stderr, "unknown flag %s; see the head of products_bench.cc\n",
                          flag.c_str()),
             2;
  }
  std::printf("%-12s %-9s %-24s %9s %9s %9s\n", "GFLOP/s", "", "", "forward", "dx", "dw");
  for (const std::string& isa : isas) {
    std::unique_ptr<Device> device;
    try {
      device = std::make_unique<Device>(DeviceOptions{.threads = threads, .isa = isa});
    } catch (const Error& error) {
      std::printf("%s\n", error.what());
      continue;
    }
    auto measure_wanted = [&](const auto& cases, DType dtype) {
      for (const auto& c : cases)
        if (std::strstr(c.what, only.c_str())) measure(*device, c, dtype);
    };
    for (DType dtype : dtypes) {
      measure_wanted(kCases, dtype);
      measure_wanted(kAttentions, dtype);
    }
  }
}
