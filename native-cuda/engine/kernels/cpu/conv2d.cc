// Convolutions as indirect matrix products: a tile of output pixels gets one pointer per filter tap
// and pixel, so nothing is copied and nothing is reordered. Which way a convolution goes (Winograd,
// few channels, this one) depends on shapes alone.
#include "kernels/cpu/bias_gradient.h"
#include "kernels/cpu/conv2d_narrow.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/operators.h"
#include "kernels/cpu/weight_gradient.h"
#include "kernels/cpu/winograd.h"

namespace spindle::cpu {

namespace {

// Output pixels of a convolution, one pointer per filter tap; taps outside of the image point at
// zeros.
struct ConvRows {
  const void* x;
  const std::byte* zeros;
  void* y;
  DType input_dtype, output_dtype;
  int64_t count, taps, k;
  int64_t height, width, out_height, out_width, filter_width, stride, pad, n;
  const float* bias = nullptr;
  const void* per_image = nullptr;
  const void* residual = nullptr;
  bool contiguous_taps = true;

  static constexpr bool accumulate = false;
  int64_t positions_per_image() const { return out_height * out_width; }
  int64_t weight_tap(int64_t tap) const { return tap; }
  bool dense() const { return true; }
  bool contiguous_rows() const { return stride == 1 && pad == 0; }
  void pointers(const void** out, int64_t row, int64_t rows, int64_t tap0, int64_t tap1, int64_t k0)
      const {
    for (int64_t i = 0; i < rows; ++i) {
      int64_t pixel = row + i, ox = pixel % out_width, oy = pixel / out_width % out_height,
              image = pixel / (out_width * out_height);
      int64_t y0 = oy * stride - pad, x0 = ox * stride - pad;
      for (int64_t tap = tap0; tap < tap1; ++tap) {
        int64_t iy = y0 + tap / filter_width, ix = x0 + tap % filter_width;
        bool inside = iy >= 0 && iy < height && ix >= 0 && ix < width;
        out[(tap - tap0) * rows + i] =
            inside ? static_cast<const void*>(
                         at(x, ((image * height + iy) * width + ix) * k + k0, input_dtype))
                   : zeros;
      }
    }
  }
  RowCall output(int64_t row, int64_t n0) const {
    return {.y = at(y, row * n + n0, output_dtype),
            .c = nullptr,
            .bias = bias ? bias + n0 : nullptr,
            .per_image = per_image
                             ? at(per_image, row / (out_height * out_width) * n + n0, output_dtype)
                             : nullptr,
            .residual = residual ? at(residual, row * n + n0, output_dtype) : nullptr,
            .n = 0,
            .accumulate = false};
  }
};

// Input pixels of one parity class (stride 1 has one class): every pixel of the class sees the same
// taps of dy.
struct ConvGradientRows {
  const void* dy;
  const std::byte* zeros;
  void* dx;
  DType input_dtype, output_dtype;
  int64_t count, taps, k;
  int64_t height, width, out_height, out_width, filter_width, stride, pad, n;
  int64_t class_y, class_x, class_height, class_width;
  const int64_t* tap_list;
  bool accumulate;
  bool contiguous_taps = false;

  int64_t positions_per_image() const { return height * width; }
  int64_t weight_tap(int64_t tap) const { return tap_list[tap]; }
  bool dense() const { return stride == 1; }
  bool contiguous_rows() const { return stride == 1 && pad == 0; }
  void place(int64_t row, int64_t& image, int64_t& y, int64_t& x) const {
    x = class_x + row % class_width * stride;
    y = class_y + row / class_width % class_height * stride;
    image = row / (class_width * class_height);
  }
  void pointers(const void** out, int64_t row, int64_t rows, int64_t tap0, int64_t tap1, int64_t k0)
      const {
    for (int64_t i = 0; i < rows; ++i) {
      int64_t image, y, x;
      place(row + i, image, y, x);
      for (int64_t tap = tap0; tap < tap1; ++tap) {
        int64_t sy = y + pad - tap_list[tap] / filter_width,
                sx = x + pad -
                     tap_list[tap] % filter_width;  // divisible by the stride in this class
        bool inside = sy >= 0 && sx >= 0 && sy / stride < out_height && sx / stride < out_width;
        out[(tap - tap0) * rows + i] =
            inside
                ? static_cast<const void*>(at(
                      dy, ((image * out_height + sy / stride) * out_width + sx / stride) * k + k0,
                      input_dtype))
                : zeros;
      }
    }
  }
  RowCall output(int64_t row, int64_t n0) const {
    int64_t image, py, px;
    place(row, image, py, px);
    return {.y = at(dx, ((image * height + py) * width + px) * n + n0, output_dtype),
            .c = nullptr,
            .bias = nullptr,
            .per_image = nullptr,
            .residual = nullptr,
            .n = 0,
            .accumulate = accumulate};
  }
};

// Positions of a filter's gradient, image rows in blocks: for each tap, one run per output row, cut
// to where the tap is inside.
struct ConvRuns {
  const Tensor &dy, &x;
  int64_t filter_height, filter_width, stride, pad;
  int64_t out_height, out_width, height, width, rows_per_block;

  int64_t positions_per_image() const { return out_height * out_width; }
  int64_t blocks_per_image() const { return divide_up(out_height, rows_per_block); }
  int64_t blocks() const { return dy.dim(0) * blocks_per_image(); }
  int64_t first_row(int64_t block) const { return block % blocks_per_image() * rows_per_block; }
  int64_t last_row(int64_t block) const {
    return std::min(out_height, first_row(block) + rows_per_block);
  }
  // Input rows that the block's taps reach.
  int64_t first_input(int64_t block) const {
    return std::clamp<int64_t>(first_row(block) * stride - pad, 0, height);
  }
  int64_t last_input(int64_t block) const {
    return std::clamp<int64_t>((last_row(block) - 1) * stride - pad + filter_height, 0, height);
  }
  int64_t positions(int64_t block) const {
    return (last_row(block) - first_row(block)) * out_width;
  }
  int64_t n_positions(int64_t block) const {
    return std::max<int64_t>(0, last_input(block) - first_input(block)) * width;
  }
  const void* m_base(int64_t block) const {
    return at(dy.raw(),
              (block / blocks_per_image() * out_height + first_row(block)) * out_width * dy.dim(3),
              dy.dtype());
  }
  const void* n_base(int64_t block) const {
    return at(x.raw(),
              (block / blocks_per_image() * height + first_input(block)) * width * x.dim(3),
              x.dtype());
  }
  int64_t max_runs() const { return rows_per_block; }
  int64_t most_positions() const {
    return std::max(rows_per_block * out_width,
                    ((rows_per_block - 1) * stride + filter_height) * width);
  }
  int64_t m_step() const { return 1; }
  int64_t n_step() const { return stride; }
  const uint16_t* n_row(int64_t block, int64_t position, int64_t tap) const {
    int64_t iy = (first_row(block) + position / out_width) * stride - pad + tap / filter_width,
            ix = position % out_width * stride - pad + tap % filter_width;
    if (iy < 0 || iy >= height || ix < 0 || ix >= width) return nullptr;
    return x.data<uint16_t>() +
           ((block / blocks_per_image() * height + iy) * width + ix) * x.dim(3);
  }
  // See weight_gradient_pairs.h: a copy for each filter column and row phase, with the output's
  // width and the rows that the taps reach.
  int64_t copies() const { return filter_width * std::min(stride, filter_height); }
  int64_t copy_height() const { return out_height + (filter_height - 1) / stride; }
  int64_t copy_positions() const { return dy.dim(0) * copy_height() * out_width; }
  int64_t copy_of(int64_t tap) const {
    return tap / filter_width % stride * filter_width + tap % filter_width;
  }
  int64_t copy_start(int64_t block, int64_t tap) const {
    return (block / blocks_per_image() * copy_height() + first_row(block) +
            tap / filter_width / stride) *
           out_width;
  }
  const uint16_t* copied(int64_t copy, int64_t position) const {
    int64_t row = position / out_width, image = row / copy_height();
    int64_t iy = row % copy_height() * stride - pad + copy / filter_width,
            ix = position % out_width * stride - pad + copy % filter_width;
    if (iy < 0 || iy >= height || ix < 0 || ix >= width) return nullptr;
    return x.data<uint16_t>() + ((image * height + iy) * width + ix) * x.dim(3);
  }
  int64_t runs(GradientSpan* out, int64_t block, int64_t tap) const {
    int64_t r = tap / filter_width, s = tap % filter_width, count = 0;
    // ox * stride - pad + s in [0, width)
    int64_t ox0 = std::max<int64_t>(0, divide_up(std::max<int64_t>(0, pad - s), stride));
    int64_t limit = width - 1 + pad - s;
    int64_t ox1 = limit < 0 ? 0 : std::min(out_width, limit / stride + 1);
    if (ox1 <= ox0) return 0;
    for (int64_t oy = first_row(block); oy < last_row(block); ++oy) {
      int64_t iy = oy * stride - pad + r;
      if (iy < 0 || iy >= height) continue;
      out[count++] = {(oy - first_row(block)) * out_width + ox0,
                      (iy - first_input(block)) * width + ox0 * stride - pad + s, ox1 - ox0};
    }
    return count;
  }
};

}  // namespace

void run(CpuContext& cpu, const Conv2dForward& op) {
  const Shape& f = op.w.shape();
  if (int size = op.epilogue.activation == Activation::None
                     ? winograd_size(cpu, op.x.dtype(), f, op.x.dim(1), op.x.dim(2), op.args)
                     : 0) {
    winograd(cpu,
             {.x = op.x.raw(),
              .y = op.y.raw(),
              .dtype = op.x.dtype(),
              .size = size,
              .batch = op.x.dim(0),
              .height = op.x.dim(1),
              .width = op.x.dim(2),
              .in = f[3],
              .out = f[0],
              .backward = false,
              .bias = op.epilogue.bias ? op.epilogue.bias.f32() : nullptr,
              .per_image = op.epilogue.per_image ? op.epilogue.per_image.raw() : nullptr,
              .residual = op.epilogue.residual ? op.epilogue.residual.raw() : nullptr},
             op.w);
    return;
  }
  if (Narrow kind = op.epilogue.activation == Activation::None ? narrow_kind(cpu, op) : Narrow::No;
      kind != Narrow::No)
    return narrow(cpu, op, kind);
  ConvRows rows{.x = op.x.raw(),
                .zeros = cpu.zeros(f[3] * int64_t(dtype_size(op.x.dtype())),
                                   "input channels of a convolution"),
                .y = op.y.raw(),
                .input_dtype = op.x.dtype(),
                .output_dtype = op.y.dtype(),
                .count = op.y.dim(0) * op.y.dim(1) * op.y.dim(2),
                .taps = f[1] * f[2],
                .k = f[3],
                .height = op.x.dim(1),
                .width = op.x.dim(2),
                .out_height = op.y.dim(1),
                .out_width = op.y.dim(2),
                .filter_width = f[2],
                .stride = op.args.stride,
                .pad = op.args.pad_before,
                .n = f[0]};
  if (op.epilogue.bias) rows.bias = op.epilogue.bias.f32();
  if (op.epilogue.per_image) rows.per_image = op.epilogue.per_image.raw();
  if (op.epilogue.residual && op.epilogue.activation == Activation::None)
    rows.residual = op.epilogue.residual.raw();
  multiply(cpu, rows,
           cpu.packing.packed_weight(op.w, PackKind::Forward,
                                     {.n = f[0], .taps = f[1] * f[2], .k = f[3]}, op.x.dtype()));
  if (op.epilogue.activation != Activation::None) {
    run(cpu, ActivationForward{.y = op.y, .x = op.y, .kind = op.epilogue.activation});
    if (op.epilogue.residual) run(cpu, Add{.y = op.y, .a = op.y, .b = op.epilogue.residual});
  }
}

void run(CpuContext& cpu, const Conv2dBackwardInput& op) {
  const Shape& f = op.w.shape();
  const Tensor& out = op.dx.tensor;
  if (int size = winograd_size(cpu, op.dy.dtype(), f, op.dy.dim(1), op.dy.dim(2), op.args)) {
    winograd(cpu,
             {.x = op.dy.raw(),
              .y = out.raw(),
              .dtype = op.dy.dtype(),
              .size = size,
              .batch = op.dy.dim(0),
              .height = op.dy.dim(1),
              .width = op.dy.dim(2),
              .in = f[0],
              .out = f[3],
              .backward = true,
              .accumulate = op.dx.accumulate},
             op.w);
    return;
  }
  const std::byte* zeros =
      cpu.zeros(f[0] * int64_t(dtype_size(op.dy.dtype())), "output channels of a convolution");
  Packed packed = cpu.packing.packed_weight(
      op.w, PackKind::Backward, {.n = f[0], .taps = f[1] * f[2], .k = f[3]}, op.dy.dtype());
  for (int64_t cy = 0; cy < std::min(op.args.stride, out.dim(1)); ++cy)
    for (int64_t cx = 0; cx < std::min(op.args.stride, out.dim(2)); ++cx) {
      std::vector<int64_t> taps;
      for (int64_t tap = 0; tap < f[1] * f[2]; ++tap) {
        int64_t sy = cy + op.args.pad_before - tap / f[2],
                sx = cx + op.args.pad_before - tap % f[2];
        if ((sy % op.args.stride + op.args.stride) % op.args.stride == 0 &&
            (sx % op.args.stride + op.args.stride) % op.args.stride == 0)
          taps.push_back(tap);
      }
      if (taps.empty()) taps.push_back(0);  // no tap reaches the class: all pointers are zeros
      int64_t ch = divide_up(out.dim(1) - cy, op.args.stride),
              cw = divide_up(out.dim(2) - cx, op.args.stride);
      ConvGradientRows rows{.dy = op.dy.raw(),
                            .zeros = zeros,
                            .dx = out.raw(),
                            .input_dtype = op.dy.dtype(),
                            .output_dtype = out.dtype(),
                            .count = out.dim(0) * ch * cw,
                            .taps = int64_t(taps.size()),
                            .k = f[0],
                            .height = out.dim(1),
                            .width = out.dim(2),
                            .out_height = op.dy.dim(1),
                            .out_width = op.dy.dim(2),
                            .filter_width = f[2],
                            .stride = op.args.stride,
                            .pad = op.args.pad_before,
                            .n = f[3],
                            .class_y = cy,
                            .class_x = cx,
                            .class_height = ch,
                            .class_width = cw,
                            .tap_list = taps.data(),
                            .accumulate = op.dx.accumulate,
                            .contiguous_taps = op.args.stride == 1};
      if (int64_t sy = cy + op.args.pad_before - taps[0] / f[2],
          sx = cx + op.args.pad_before - taps[0] % f[2];
          (sy % op.args.stride + op.args.stride) % op.args.stride != 0 ||
          (sx % op.args.stride + op.args.stride) % op.args.stride != 0) {
        rows.out_height = rows.out_width = 0;
      }
      multiply(cpu, rows, packed);
    }
}

void run(CpuContext& cpu, const Conv2dBackwardWeight& op) {
  const Shape& f = op.dw.tensor.shape();
  if (int size = op.dw ? winograd_weight_gradient_size(cpu, op) : 0) {
    winograd_weight_gradient(cpu, op, size);
  } else if (op.dw) {
    ConvRuns runs{.dy = op.dy,
                  .x = op.x,
                  .filter_height = f[1],
                  .filter_width = f[2],
                  .stride = op.args.stride,
                  .pad = op.args.pad_before,
                  .out_height = op.dy.dim(1),
                  .out_width = op.dy.dim(2),
                  .height = op.x.dim(1),
                  .width = op.x.dim(2),
                  .rows_per_block = std::max<int64_t>(1, kGradientPositions / op.dy.dim(2))};
    weight_gradient(cpu, runs,
                    {.dw = op.dw,
                     .m = f[0],
                     .n = f[3],
                     .taps = f[1] * f[2],
                     .m_stride = f[1] * f[2] * f[3],
                     .tap_stride = f[3],
                     .n_stride = 1});
  }
  if (op.db) bias_gradient(cpu, op.db, op.dy);
}

}  // namespace spindle::cpu
