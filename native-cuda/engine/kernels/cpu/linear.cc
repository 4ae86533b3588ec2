// Linear layers: packed products forward and to the input, with the epilogue on finished tiles, and
// gradients of weights by blocks of rows.
#include "kernels/cpu/bias_gradient.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/matrix_weight_gradient.h"
#include "kernels/cpu/operators.h"
#include "kernels/cpu/weight_gradient.h"

namespace spindle::cpu {

namespace {

// Rows of a matrix (M, K), each its own pointer.
struct MatrixRows {
  const void* x;
  void* y;
  DType input_dtype, output_dtype;
  int64_t count, k, n;
  const float* bias = nullptr;
  const void* per_image = nullptr;
  int64_t rows_per_image = 1;
  const void* residual = nullptr;
  bool accumulate = false;
  int64_t taps = 1;
  bool contiguous_taps = true;

  int64_t image_positions = 1;

  int64_t positions_per_image() const { return image_positions; }
  int64_t weight_tap(int64_t) const { return 0; }
  bool dense() const { return true; }
  bool contiguous_rows() const { return true; }
  void pointers(const void** out, int64_t row, int64_t rows, int64_t, int64_t, int64_t k0) const {
    for (int64_t i = 0; i < rows; ++i) out[i] = at(x, (row + i) * k + k0, input_dtype);
  }
  RowCall output(int64_t row, int64_t n0) const {
    return {.y = at(y, row * n + n0, output_dtype),
            .c = nullptr,
            .bias = bias ? bias + n0 : nullptr,
            .per_image =
                per_image ? at(per_image, row / rows_per_image * n + n0, output_dtype) : nullptr,
            .residual = residual ? at(residual, row * n + n0, output_dtype) : nullptr,
            .n = 0,
            .accumulate = accumulate};
  }
};

// Positions of a matrix product's gradient: one run over all rows of a block.
struct MatrixRuns {
  const Tensor &dy, &x;
  int64_t rows;
  int64_t positions_per_image() const { return 1; }
  int64_t blocks() const { return divide_up(rows, kGradientPositions); }
  int64_t positions(int64_t block) const {
    return std::min(kGradientPositions, rows - block * kGradientPositions);
  }
  const void* m_base(int64_t block) const {
    return at(dy.raw(), block * kGradientPositions * dy.dim(1), dy.dtype());
  }
  const void* n_base(int64_t block) const {
    return at(x.raw(), block * kGradientPositions * x.dim(1), x.dtype());
  }
  int64_t n_positions(int64_t block) const { return positions(block); }
  const uint16_t* n_row(int64_t block, int64_t position, int64_t) const {
    return x.data<uint16_t>() + (block * kGradientPositions + position) * x.dim(1);
  }
  int64_t copies() const { return 1; }
  int64_t copy_positions() const { return rows; }
  int64_t copy_of(int64_t) const { return 0; }
  int64_t copy_start(int64_t block, int64_t) const { return block * kGradientPositions; }
  const uint16_t* copied(int64_t, int64_t position) const {
    return x.data<uint16_t>() + position * x.dim(1);
  }
  int64_t runs(GradientSpan* out, int64_t block, int64_t) const {
    out[0] = {0, 0, positions(block)};
    return 1;
  }
  int64_t max_runs() const { return 1; }
  int64_t most_positions() const { return kGradientPositions; }
  int64_t m_step() const { return 1; }
  int64_t n_step() const { return 1; }
};

}  // namespace

void run(CpuContext& cpu, const LinearForward& op) {
  int64_t m = op.x.dim(0), k = op.x.dim(1), n = op.w.shape()[0];
  MatrixRows rows{.x = op.x.raw(),
                  .y = op.y.raw(),
                  .input_dtype = op.x.dtype(),
                  .output_dtype = op.y.dtype(),
                  .count = m,
                  .k = k,
                  .n = n};
  rows.image_positions = op.epilogue.positions_per_image;
  if (op.epilogue.bias) rows.bias = op.epilogue.bias.f32();
  if (op.epilogue.per_image) {
    rows.per_image = op.epilogue.per_image.raw();
    rows.rows_per_image = m / op.epilogue.per_image.dim(0);
  }
  if (op.epilogue.residual && op.epilogue.activation == Activation::None)
    rows.residual = op.epilogue.residual.raw();
  multiply(cpu, rows,
           cpu.packing.packed_weight(op.w, PackKind::Forward, {.n = n, .taps = 1, .k = k},
                                     op.x.dtype()));
  if (op.epilogue.activation != Activation::None) {
    run(cpu, ActivationForward{.y = op.y, .x = op.y, .kind = op.epilogue.activation});
    if (op.epilogue.residual) run(cpu, Add{.y = op.y, .a = op.y, .b = op.epilogue.residual});
  }
}

void run(CpuContext& cpu, const LinearGegluForward& op) {
  int64_t m = op.x.dim(0), k = op.x.dim(1), half = op.w.shape()[0] / 2;
  Packed b = cpu.packing.packed_weight(op.w, PackKind::Forward, {.n = 2 * half, .taps = 1, .k = k},
                                       op.x.dtype());
  if (half % b.panel != 0) {  // a panel would hold both values and gates
    Tensor product(cpu.pool, {m, 2 * half}, DType::F32);
    MatrixRows rows{.x = op.x.raw(),
                    .y = product.raw(),
                    .input_dtype = op.x.dtype(),
                    .output_dtype = DType::F32,
                    .count = m,
                    .k = k,
                    .n = 2 * half};
    if (op.bias) rows.bias = op.bias.f32();
    multiply(cpu, rows, b);
    cpu.pieces(m, kTaskRows, [&](int64_t row0, int64_t row1, int) {
      for (int64_t row = row0; row < row1; ++row) {
        const float* value = product.f32() + row * 2 * half;
        cpu.simd.geglu_row(at(op.y.raw(), row * half, op.y.dtype()), value, value + half, nullptr,
                           nullptr, half, is_bf16(op.y));
      }
    });
    return;
  }
  bool bf16 = is_bf16(op.x);
  int64_t panels = half / b.panel, chunks = divide_up(m, kTaskRows), vectors = cpu.simd.max_vectors,
          tile = tile_rows(cpu.simd, vectors, bf16);
  auto gemm = bf16 ? cpu.simd.gemm_bf16 : cpu.simd.gemm_f32;
  auto gemm_geglu = bf16 ? cpu.simd.gemm_bf16_geglu : cpu.simd.gemm_f32_geglu;
  const int64_t row_bytes = k * (bf16 ? 2 : 4);
  auto work = [&](int64_t panel, int64_t chunk, int thread) {
    float* value = reinterpret_cast<float*>(cpu.scratch(thread, 2 * tile * b.panel * 4));
    float* gate = value + tile * b.panel;
    const void* pointers[kMaxTileRows];
    int64_t n0 = panel * b.panel, first = chunk * kTaskRows, last = std::min(m, first + kTaskRows);
    if (int64_t tiles = gemm_geglu ? (last - first) / tile : 0) {
      for (int64_t i = 0; i < tile; ++i)
        pointers[i] = at(op.x.raw(), (first + i) * k, op.x.dtype());
      gemm_geglu({pointers,
                  1,
                  tile,
                  k,
                  b.block(panel, 0, 0),
                  b.panel,
                  vectors,
                  value,
                  b.panel,
                  false,
                  {at(op.x.raw(), (first + tile) * k, op.x.dtype()), tile * 4}},
                 b.block(panels + panel, 0, 0), op.bias ? op.bias.f32() + half + n0 : nullptr,
                 {.y = at(op.y.raw(), first * half + n0, op.y.dtype()),
                  .ld = half,
                  .bias = op.bias ? op.bias.f32() + n0 : nullptr,
                  .per_image = nullptr,
                  .residual = nullptr,
                  .n = b.panel,
                  .accumulate = false,
                  .stream = false,
                  .tiles = tiles,
                  .tile_bytes = tile * row_bytes});
      first += tiles * tile;
    }
    for (int64_t row = first; row < last; row += tile) {
      int64_t count = std::min(tile, last - row);
      for (int64_t i = 0; i < count; ++i) pointers[i] = at(op.x.raw(), (row + i) * k, op.x.dtype());
      gemm({pointers, 1, count, k, b.block(panel, 0, 0), b.panel, vectors, value, b.panel, false});
      gemm({pointers, 1, count, k, b.block(panels + panel, 0, 0), b.panel, vectors, gate, b.panel,
            false});
      for (int64_t i = 0; i < count; ++i)
        cpu.simd.geglu_row(at(op.y.raw(), (row + i) * half + n0, op.y.dtype()), value + i * b.panel,
                           gate + i * b.panel, op.bias ? op.bias.f32() + n0 : nullptr,
                           op.bias ? op.bias.f32() + half + n0 : nullptr, b.panel, bf16);
    }
  };
  run_products(cpu, b, chunks, panels, work);
}

void run(CpuContext& cpu, const LinearBackwardInput& op) {
  int64_t n = op.w.shape()[0], k = op.w.shape()[1];
  MatrixRows rows{.x = op.dy.raw(),
                  .y = op.dx.tensor.raw(),
                  .input_dtype = op.dy.dtype(),
                  .output_dtype = op.dx.tensor.dtype(),
                  .count = op.dy.dim(0),
                  .k = n,
                  .n = k,
                  .accumulate = op.dx.accumulate};
  multiply(cpu, rows,
           cpu.packing.packed_weight(op.w, PackKind::Backward, {.n = n, .taps = 1, .k = k},
                                     op.dy.dtype()));
}

void run(CpuContext& cpu, const LinearBackwardWeight& op) {
  int64_t n = op.dy.dim(1), k = op.x.dim(1);
  if (op.dw && op.dy.dtype() == op.x.dtype() && k >= cpu.simd.width &&
      (is_bf16(op.dy) || !sums_in_double(n * k, 1)))
    return matrix_weight_gradient(cpu, op);
  if (op.dw)
    weight_gradient(
        cpu, MatrixRuns{op.dy, op.x, op.dy.dim(0)},
        {.dw = op.dw, .m = n, .n = k, .taps = 1, .m_stride = k, .tap_stride = 0, .n_stride = 1});
  if (op.db) bias_gradient(cpu, op.db, op.dy);
}

}  // namespace spindle::cpu
