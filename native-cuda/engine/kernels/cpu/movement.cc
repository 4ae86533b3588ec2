// Where values go to other places: concatenation, resampling, tables, layouts.
#include <cmath>
#include <cstring>

#include "kernels/cpu/operators.h"

namespace spindle::cpu {

void run(CpuContext& cpu, const ConcatChannels& op) {
  size_t size = dtype_size(op.y.dtype()), na = size_t(op.a.dim(-1)) * size,
         nb = size_t(op.b.dim(-1)) * size;
  cpu.pieces(op.y.numel() / op.y.dim(-1), 256, [&](int64_t r0, int64_t r1, int) {
    char* out = op.y.data<char>() + size_t(r0) * (na + nb);
    const char *pa = op.a.data<char>() + size_t(r0) * na, *pb = op.b.data<char>() + size_t(r0) * nb;
    for (int64_t r = r0; r < r1; ++r, out += na + nb, pa += na, pb += nb) {
      std::memcpy(out, pa, na);
      std::memcpy(out + na, pb, nb);
    }
  });
}

void run(CpuContext& cpu, const SplitChannels& op) {
  if (!op.da && !op.db) return;
  int64_t total = op.dy.dim(-1);
  int64_t na = op.da ? op.da.tensor.dim(-1) : total - op.db.tensor.dim(-1);
  DType dtype = op.dy.dtype();
  auto piece = [&](const GradSlot& to, int64_t offset, int64_t n, int64_t r) {
    if (!to) return;
    void* out = at(to.tensor.raw(), r * n, dtype);
    const void* in = at(op.dy.raw(), r * total + offset, dtype);
    if (to.accumulate)
      cpu.simd.add(out, out, in, n, dtype == DType::BF16);
    else
      std::memcpy(out, in, size_t(n) * dtype_size(dtype));
  };
  cpu.pieces(op.dy.numel() / total, 256, [&](int64_t r0, int64_t r1, int) {
    for (int64_t r = r0; r < r1; ++r) {
      piece(op.da, 0, na, r);
      piece(op.db, na, total - na, r);
    }
  });
}

void run(CpuContext& cpu, const UpsampleNearestForward& op) {
  int64_t channels = op.x.dim(3), h = op.x.dim(1), w = op.x.dim(2), oh = op.y.dim(1),
          ow = op.y.dim(2);
  size_t row = size_t(channels) * dtype_size(op.x.dtype());
  cpu.threads.run(op.y.dim(0) * oh, [&](int64_t task, int) {
    int64_t image = task / oh, oy = task % oh, iy = oy * h / oh;
    char* out = op.y.data<char>() + size_t(task * ow) * row;
    const char* in = op.x.data<char>() + size_t((image * h + iy) * w) * row;
    for (int64_t ox = 0; ox < ow; ++ox)
      std::memcpy(out + size_t(ox) * row, in + size_t(ox * w / ow) * row, row);
  });
}

void run(CpuContext& cpu, const UpsampleNearestBackward& op) {
  const Tensor& x = op.dx.tensor;
  int64_t channels = x.dim(3), h = x.dim(1), w = x.dim(2), oh = op.dy.dim(1), ow = op.dy.dim(2);
  bool bf16 = is_bf16(x);
  cpu.threads.run(x.dim(0) * h, [&](int64_t task, int thread) {
    int64_t image = task / h, iy = task % h;
    float* sum = reinterpret_cast<float*>(cpu.scratch(thread, channels * 4));
    // Output row oy reads input row oy * h / oh: the ones of iy are contiguous.
    int64_t y0 = divide_up(iy * oh, h), y1 = std::min(oh, divide_up((iy + 1) * oh, h));
    for (int64_t ix = 0; ix < w; ++ix) {
      int64_t x0 = divide_up(ix * ow, w), x1 = std::min(ow, divide_up((ix + 1) * ow, w));
      std::fill_n(sum, channels, 0.0f);
      for (int64_t oy = y0; oy < y1; ++oy)
        cpu.simd.column_sums(
            sum, at(op.dy.raw(), ((image * oh + oy) * ow + x0) * channels, op.dy.dtype()), x1 - x0,
            channels, channels, is_bf16(op.dy));
      RowCall call{at(x.raw(), (task * w + ix) * channels, x.dtype()),
                   sum,
                   nullptr,
                   nullptr,
                   nullptr,
                   channels,
                   op.dx.accumulate};
      cpu.simd.store_row(call, bf16);
    }
  });
}

void run(CpuContext& cpu, const EmbeddingForward& op) {
  int64_t n = op.y.dim(-1);
  for (int64_t i = 0; i < int64_t(op.ids.size()); ++i) {
    const void* from = at(op.table.raw(), op.ids[size_t(i)] * n, op.table.dtype());
    void* to = at(op.y.raw(), i * n, op.y.dtype());
    if (op.table.dtype() == op.y.dtype())
      std::memcpy(to, from, size_t(n) * dtype_size(op.y.dtype()));
    else if (is_bf16(op.y))
      cpu.simd.to_bf16(static_cast<uint16_t*>(to), static_cast<const float*>(from), n);
    else
      cpu.simd.to_f32(static_cast<float*>(to), static_cast<const uint16_t*>(from), n);
  }
}

void run(CpuContext& cpu, const GatherRows& op) {
  run(cpu, EmbeddingForward{.y = op.y, .table = op.x, .ids = op.rows});
}

// (B, P, Q) -> (B, Q, P), with a cast when the dtypes differ.
static void transpose_planes(const Tensor& y,
                             const Tensor& x,
                             int64_t batch,
                             int64_t p,
                             int64_t q,
                             ThreadPool& threads) {
  auto read = [&](int64_t i) {
    return x.dtype() == DType::F32 ? x.f32()[i] : spindle::to_float(x.data<bf16>()[i]);
  };
  threads.run(batch * divide_up(q, 64), [&](int64_t task, int) {
    int64_t image = task / divide_up(q, 64), q0 = task % divide_up(q, 64) * 64,
            q1 = std::min(q, q0 + 64);
    for (int64_t j = q0; j < q1; ++j)
      for (int64_t i = 0; i < p; ++i) {
        float v = read((image * p + i) * q + j);
        int64_t to = (image * q + j) * p + i;
        if (y.dtype() == DType::F32)
          y.f32()[to] = v;
        else
          y.data<bf16>()[to] = spindle::to_bf16(v);
      }
  });
}

void run(CpuContext& cpu, const NchwToNhwc& op) {
  transpose_planes(op.y, op.x, op.x.dim(0), op.x.dim(1), op.x.dim(2) * op.x.dim(3), cpu.threads);
}
void run(CpuContext& cpu, const NhwcToNchw& op) {
  transpose_planes(op.y, op.x, op.x.dim(0), op.x.dim(1) * op.x.dim(2), op.x.dim(3), cpu.threads);
}

void run(CpuContext&, const TimestepEmbedding& op) {
  int64_t batch = op.y.dim(0), dim = op.y.dim(1), half = dim / 2;
  for (int64_t i = 0; i < batch; ++i)
    for (int64_t j = 0; j < half; ++j) {
      // In double: at t = 999 a float32 product already moves the sine by 6e-5.
      double angle =
          double(op.timesteps.f32()[i]) *
          std::exp(-std::log(op.args.max_period) * double(j) / (double(half) - op.args.freq_shift));
      float first = float(op.args.flip_sin_to_cos ? std::cos(angle) : std::sin(angle)),
            second = float(op.args.flip_sin_to_cos ? std::sin(angle) : std::cos(angle));
      if (is_bf16(op.y)) {
        op.y.data<uint16_t>()[i * dim + j] = spindle::to_bf16(first).bits;
        op.y.data<uint16_t>()[i * dim + half + j] = spindle::to_bf16(second).bits;
      } else {
        op.y.f32()[i * dim + j] = first;
        op.y.f32()[i * dim + half + j] = second;
      }
    }
}

}  // namespace spindle::cpu
