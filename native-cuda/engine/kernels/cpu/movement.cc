#include <cstring>

#include "kernels/cpu/cpu_kernels.h"

namespace spindle::cpu {

void CpuKernels::concat_channels(Tensor& y, const Tensor& a, const Tensor& b) {
  size_t size = dtype_size(y.dtype()), na = size_t(a.dim(-1)) * size, nb = size_t(b.dim(-1)) * size;
  pieces(y.numel() / y.dim(-1), 256, [&](int64_t r0, int64_t r1, int) {
    char* out = y.data<char>() + size_t(r0) * (na + nb);
    const char *pa = a.data<char>() + size_t(r0) * na, *pb = b.data<char>() + size_t(r0) * nb;
    for (int64_t r = r0; r < r1; ++r, out += na + nb, pa += na, pb += nb) {
      std::memcpy(out, pa, na);
      std::memcpy(out + na, pb, nb);
    }
  });
}

void CpuKernels::split_channels(const GradSlot& da, const GradSlot& db, const Tensor& dy) {
  if (!da && !db) return;
  int64_t total = dy.dim(-1);
  int64_t na = da ? da.tensor.dim(-1) : total - db.tensor.dim(-1);
  DType dtype = dy.dtype();
  auto piece = [&](const GradSlot& to, int64_t offset, int64_t n, int64_t r) {
    if (!to) return;
    void* out = at(to.tensor.raw(), r * n, dtype);
    const void* in = at(dy.raw(), r * total + offset, dtype);
    if (to.accumulate)
      simd_.add(out, out, in, n, dtype == DType::BF16);
    else
      std::memcpy(out, in, size_t(n) * dtype_size(dtype));
  };
  pieces(dy.numel() / total, 256, [&](int64_t r0, int64_t r1, int) {
    for (int64_t r = r0; r < r1; ++r) {
      piece(da, 0, na, r);
      piece(db, na, total - na, r);
    }
  });
}

void CpuKernels::upsample_nearest_forward(Tensor& y, const Tensor& x) {
  int64_t channels = x.dim(3), h = x.dim(1), w = x.dim(2), oh = y.dim(1), ow = y.dim(2);
  size_t row = size_t(channels) * dtype_size(x.dtype());
  threads_.run(y.dim(0) * oh, [&](int64_t task, int) {
    int64_t image = task / oh, oy = task % oh, iy = oy * h / oh;
    char* out = y.data<char>() + size_t(task * ow) * row;
    const char* in = x.data<char>() + size_t((image * h + iy) * w) * row;
    for (int64_t ox = 0; ox < ow; ++ox)
      std::memcpy(out + size_t(ox) * row, in + size_t(ox * w / ow) * row, row);
  });
}

void CpuKernels::upsample_nearest_backward(const GradSlot& dx, const Tensor& dy) {
  const Tensor& x = dx.tensor;
  int64_t channels = x.dim(3), h = x.dim(1), w = x.dim(2), oh = dy.dim(1), ow = dy.dim(2);
  bool bf16 = is_bf16(x);
  threads_.run(x.dim(0) * h, [&](int64_t task, int thread) {
    int64_t image = task / h, iy = task % h;
    float* sum = reinterpret_cast<float*>(scratch(thread, channels * 4));
    // Output row oy reads input row oy * h / oh: the ones of iy are contiguous.
    int64_t y0 = divide_up(iy * oh, h), y1 = std::min(oh, divide_up((iy + 1) * oh, h));
    for (int64_t ix = 0; ix < w; ++ix) {
      int64_t x0 = divide_up(ix * ow, w), x1 = std::min(ow, divide_up((ix + 1) * ow, w));
      std::fill_n(sum, channels, 0.0f);
      for (int64_t oy = y0; oy < y1; ++oy)
        simd_.column_sums(sum, at(dy.raw(), ((image * oh + oy) * ow + x0) * channels, dy.dtype()),
                          x1 - x0, channels, channels, is_bf16(dy));
      RowCall call{at(x.raw(), (task * w + ix) * channels, x.dtype()),
                   sum,
                   nullptr,
                   nullptr,
                   nullptr,
                   channels,
                   dx.accumulate};
      simd_.store_row(call, bf16);
    }
  });
}

void CpuKernels::embedding_forward(Tensor& y,
                                   const Tensor& table,
                                   const int32_t* ids,
                                   int64_t count) {
  int64_t n = y.dim(-1);
  for (int64_t i = 0; i < count; ++i) {
    const void* from = at(table.raw(), ids[i] * n, table.dtype());
    void* to = at(y.raw(), i * n, y.dtype());
    if (table.dtype() == y.dtype())
      std::memcpy(to, from, size_t(n) * dtype_size(y.dtype()));
    else if (is_bf16(y))
      simd_.to_bf16(static_cast<uint16_t*>(to), static_cast<const float*>(from), n);
    else
      simd_.to_f32(static_cast<float*>(to), static_cast<const uint16_t*>(from), n);
  }
}

void CpuKernels::gather_rows(Tensor& y, const Tensor& x, const int32_t* rows, int64_t count) {
  embedding_forward(y, x, rows, count);
}

// (B, P, Q) -> (B, Q, P), with a cast when the dtypes differ.
static void transpose_planes(Tensor& y,
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

void CpuKernels::nchw_to_nhwc(Tensor& y, const Tensor& x) {
  transpose_planes(y, x, x.dim(0), x.dim(1), x.dim(2) * x.dim(3), threads_);
}
void CpuKernels::nhwc_to_nchw(Tensor& y, const Tensor& x) {
  transpose_planes(y, x, x.dim(0), x.dim(1) * x.dim(2), x.dim(3), threads_);
}

}  // namespace spindle::cpu
