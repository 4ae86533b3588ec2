// Convolutions of few channels, where addresses and stores would cost more than products. Two ways,
// both over strips of image rows:
//   few inputs: rows are copied with their border of zeros, so that a tap row is one run of values
//   and neighbouring outputs lie at fixed distances; few outputs: nine filters of n columns are one
//   product with 9 n columns, which fills the vectors; each output then adds nine of its
//   neighbours' columns.
// Which one suits depends on shapes of one image alone.
#include "kernels/cpu/conv2d_narrow.h"

#include <algorithm>
#include <cstring>

namespace spindle::cpu {

namespace {
constexpr int64_t kStripBytes = 48 << 10;  // of copied rows
constexpr int64_t kStripRows = 16;         // output rows of a task at most
constexpr int64_t kMostInputs = 64, kMostOutputs = 64;
constexpr int64_t kFewInputs = 8;   // with any number of outputs
constexpr int64_t kFewOutputs = 8;  // nine times these are one product's columns
constexpr int64_t kMinPixels = 64;
constexpr int64_t kMaxVectors = 2;
}  // namespace

namespace {
struct NarrowWork {
  CpuContext& cpu;
  const Tensor& y;
  const Tensor& x;
  const Epilogue& e;
  const Conv2dArgs& args;
  Packed filter;
  int64_t filter_height, filter_width;
  DType dtype = x.dtype();
  bool bf16 = is_bf16(x);
  int64_t height = x.dim(1), width = x.dim(2), in = x.dim(3), out_height = y.dim(1),
          out_width = y.dim(2), out = y.dim(3);
  int64_t size = int64_t(dtype_size(dtype));

  const void* per_image(int64_t image, int64_t n0) const {
    return e.per_image ? at(e.per_image.raw(), image * out + n0, dtype) : nullptr;
  }
  // Runs f(image, first row, end, thread) over strips of output rows.
  template <class F>
  void strips(int64_t rows, F&& f) const {
    int64_t per_image = divide_up(out_height, rows);
    cpu.threads.run(y.dim(0) * per_image, [&](int64_t task, int thread) {
      int64_t first = task % per_image * rows;
      f(task / per_image, first, std::min(out_height, first + rows), thread);
    });
  }

  void few_inputs() const {
    int64_t channels = bf16 ? round_up(in, 2) : in,
            row = ((out_width - 1) * args.stride + filter_width) * channels;
    int64_t rows = std::clamp<int64_t>(kStripBytes / (row * size) / args.stride, 1,
                                       std::min(kStripRows, out_height));
    int64_t copied = (rows - 1) * args.stride + filter_height;
    // A tile past the row's end reads on.
    int64_t slack = cpu.simd.narrow_rows[1] * args.stride * channels * size;
    strips(rows, [&](int64_t image, int64_t first, int64_t end, int thread) {
      std::byte* copy = cpu.scratch(thread, copied * row * size + slack);
      std::memset(copy + copied * row * size, 0, size_t(slack));
      for (int64_t r = 0; r < (end - first - 1) * args.stride + filter_height; ++r)
        copy_row(copy + r * row * size, image, first * args.stride - args.pad_before + r,
                 row / channels, channels);
      for (int64_t oy = first; oy < end; ++oy)
        for (int64_t panel = 0; panel < filter.panels(); ++panel)
          for (int64_t j = 0; j < filter.panel_width(panel); j += kMaxVectors * filter.width) {
            int64_t n0 = panel * filter.panel + j,
                    to = ((image * out_height + oy) * out_width) * out + n0;
            if (n0 >= out) break;
            cpu.simd.narrow(
                {.x = copy + (oy - first) * args.stride * row * size,
                 .pixel = args.stride * channels,
                 .row = row,
                 .tap_rows = filter_height,
                 .k = filter_width * channels,
                 .b = filter.block(panel, 0, 0) + j * 4,
                 .ldb = filter.panel_width(panel),
                 .vectors = std::min(kMaxVectors, (filter.panel_width(panel) - j) / filter.width),
                 .count = out_width,
                 .y = at(y.raw(), to, dtype),
                 .ldy = out,
                 .n = out - n0,
                 .bias = e.bias ? e.bias.f32() + n0 : nullptr,
                 .per_image = per_image(image, n0),
                 .residual = e.residual ? at(e.residual.raw(), to, dtype) : nullptr},
                bf16, bf16);
          }
    });
  }

  // An input row of `pixels`, from pad_before to the left of the image on, with zeros outside of
  // it.
  void copy_row(std::byte* to, int64_t image, int64_t iy, int64_t pixels, int64_t channels) const {
    if (iy < 0 || iy >= height) {
      std::memset(to, 0, size_t(pixels * channels * size));
      return;
    }
    const char* from = at(x.raw(), (image * height + iy) * width * in, dtype);
    int64_t before = std::min(args.pad_before, pixels),
            inside = std::clamp<int64_t>(width, 0, pixels - before), pixel = channels * size;
    std::memset(to, 0, size_t(before * pixel));
    if (channels == in) {
      std::memcpy(to + before * pixel, from, size_t(inside * pixel));
    } else {
      uint16_t* o = reinterpret_cast<uint16_t*>(to + before * pixel);
      const uint16_t* i = reinterpret_cast<const uint16_t*>(from);
      for (int64_t p = 0; p < inside; ++p, o += channels, i += in) {
        for (int64_t c = 0; c < in; ++c) o[c] = i[c];
        o[in] = 0;
      }
    }
    std::memset(to + (before + inside) * pixel, 0, size_t((pixels - before - inside) * pixel));
  }

  void few_outputs() const {
    int64_t k_rows = filter.k_rows(), ldz = round_up(9 * out, filter.width),
            z_row = (width + 2) * ldz;
    float* b = reinterpret_cast<float*>(cpu.shared_scratch(k_rows * ldz * 4));
    std::fill_n(b, k_rows * ldz, 0.0f);
    for (int64_t tap = 0; tap < 9; ++tap)
      for (int64_t r = 0; r < k_rows; ++r)
        std::memcpy(b + r * ldz + tap * out, filter.block(0, tap, 0) + r * filter.row_bytes(0),
                    size_t(out) * 4);
    int64_t tile = cpu.simd.narrow_rows[1];
    strips(std::min(kStripRows, out_height), [&](int64_t image, int64_t first, int64_t end,
                                                 int thread) {
      int64_t copy_floats = width < tile ? tile * in : 0,
              sums_floats = round_up(width * out + 16, 16);
      float* z = reinterpret_cast<float*>(
          cpu.scratch(thread, (3 * z_row + sums_floats + copy_floats) * 4));
      float *sums = z + 3 * z_row, *copy = sums + sums_floats;
      for (int64_t r = 0; r < 3; ++r) {
        std::fill_n(z + r * z_row, ldz, 0.0f);
        std::fill_n(z + r * z_row + (width + 1) * ldz, ldz, 0.0f);
      }
      if (copy_floats) std::fill_n(copy, copy_floats, 0.0f);
      float add[kFewOutputs] = {};
      if (e.bias) std::copy_n(e.bias.f32(), out, add);
      if (e.per_image) {
        float own[kFewOutputs];
        if (bf16)
          cpu.simd.to_f32(own, reinterpret_cast<const uint16_t*>(per_image(image, 0)), out);
        else
          std::memcpy(own, per_image(image, 0), size_t(out) * 4);
        for (int64_t n = 0; n < out; ++n) add[n] += own[n];
      }
      auto row_of = [&](int64_t iy) {
        return iy < 0 || iy >= height ? nullptr : z + iy % 3 * z_row;
      };
      auto product = [&](int64_t iy) {
        if (!row_of(iy)) return;
        const void* from = at(x.raw(), (image * height + iy) * width * in, dtype);
        if (copy_floats) from = std::memcpy(copy, from, size_t(width * in * size));
        for (int64_t j = 0; j < ldz; j += kMaxVectors * filter.width) {
          int64_t vectors = std::min(kMaxVectors, (ldz - j) / filter.width);
          // Whole tiles alone, the last one moved back: beyond the row the tensor may end.
          int64_t whole = width < tile ? width : width / tile * tile;
          for (int64_t p = 0; p < width; p = p == 0 && whole < width ? width - tile : width)
            cpu.simd.narrow({.x = at(from, p * in, dtype),
                             .pixel = in,
                             .row = 0,
                             .tap_rows = 1,
                             .k = in,
                             .b = b + j,
                             .ldb = ldz,
                             .vectors = vectors,
                             .count = p == 0 ? whole : tile,
                             .y = row_of(iy) + (p + 1) * ldz + j,
                             .ldy = ldz,
                             .n = ldz - j,
                             .bias = nullptr,
                             .per_image = nullptr,
                             .residual = nullptr},
                            bf16, false);
        }
      };
      product(first - 1);
      product(first);
      for (int64_t oy = first; oy < end; ++oy) {
        product(oy + 1);
        int64_t to = (image * out_height + oy) * out_width * out;
        cpu.simd.shifted({.z = {row_of(oy - 1), row_of(oy), row_of(oy + 1)},
                          .ldz = ldz,
                          .n = out,
                          .width = width,
                          .add = add,
                          .sums = sums,
                          .y = at(y.raw(), to, dtype),
                          .residual = e.residual ? at(e.residual.raw(), to, dtype) : nullptr},
                         bf16);
      }
    });
  }
};

}  // namespace

Narrow narrow_kind(const CpuContext& cpu, const Conv2dForward& op) {
  const Tensor &y = op.y, &x = op.x;
  const Shape& filter = op.w.shape();
  int64_t positions = y.dim(1) * y.dim(2);
  if (x.dtype() != y.dtype() || filter[1] * filter[2] == 1 || positions < kMinPixels)
    return Narrow::No;
  if (!cpu.float32_serves(x.dtype(), filter, positions)) return Narrow::No;
  if (same_3x3(filter, op.args) && filter[0] <= kFewOutputs && filter[3] > kFewOutputs &&
      filter[3] % 2 == 0)
    return Narrow::Outputs;
  if (filter[3] <= kFewInputs || (filter[3] <= kMostInputs && filter[0] <= kMostOutputs))
    return Narrow::Inputs;
  return Narrow::No;
}

void narrow(CpuContext& cpu, const Conv2dForward& op, Narrow kind) {
  const Shape& f = op.w.shape();
  Packed filter = cpu.packing.packed_weight(
      op.w, PackKind::Forward, {.n = f[0], .taps = f[1] * f[2], .k = f[3]}, op.x.dtype());
  NarrowWork work{.cpu = cpu,
                  .y = op.y,
                  .x = op.x,
                  .e = op.epilogue,
                  .args = op.args,
                  .filter = filter,
                  .filter_height = f[1],
                  .filter_width = f[2]};
  kind == Narrow::Outputs ? work.few_outputs() : work.few_inputs();
}

}  // namespace spindle::cpu
