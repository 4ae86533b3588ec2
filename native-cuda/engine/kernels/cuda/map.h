// y[i] = op(x[i]...) over dense tensors of as many elements: the shape of every elementwise kernel.
// Operands are widened to float, the result is rounded once. Eight elements per thread where all
// addresses allow it.
#pragma once
#include "core/tensor.h"
#include "kernels/cuda/device_code.h"

namespace spindle::cuda {

constexpr unsigned kMapBlock = 256;
constexpr int kMapWidth = 8;

template <int N, class Op, class Y, class... X>
__device__ __forceinline__ void map_pack(const Op& op, Y* y, const Pack<X, N>&... x) {
  Pack<Y, N> out;
  for (int k = 0; k < N; ++k) out.values[k] = narrow<Y>(op(widen(x.values[k])...));
  *reinterpret_cast<Pack<Y, N>*>(y) = out;
}

// A thread owns N neighbouring elements: one load of 16 bytes per operand where N is 8. The last
// thread takes what is left one by one.
template <int N, class Op, class Y, class... X>
__global__ void map_kernel(Op op, int64_t n, Y* y, const X*... x) {
  int64_t first = (int64_t(blockIdx.x) * kMapBlock + threadIdx.x) * N;
  if (N > 1 && first + N <= n) {
    map_pack<N>(op, y + first, *reinterpret_cast<const Pack<X, N>*>(x + first)...);
    return;
  }
  for (int64_t i = first; i < n && i < first + N; ++i) y[i] = narrow<Y>(op(widen(x[i])...));
}

inline unsigned blocks_for(int64_t items, int64_t per_block) {
  int64_t blocks = (items + per_block - 1) / per_block;
  ensure(blocks > 0 && blocks <= 0x7fffffff, "[cuda] ", items, " elements need too many blocks");
  return unsigned(blocks);
}

template <class T>
bool aligned_for_pack(const T* data) {
  return reinterpret_cast<uintptr_t>(data) % (sizeof(T) * kMapWidth) == 0;
}

template <class Op, class Y, class... X>
void map(const char* name, Stream stream, const Op& op, int64_t n, Y* y, const X*... x) {
  if (n == 0) return;
  if (aligned_for_pack(y) && (aligned_for_pack(x) && ...)) {
    void (*kernel)(Op, int64_t, Y*, const X*...) = map_kernel<kMapWidth, Op, Y, X...>;
    launch(name, kernel, {blocks_for(n, int64_t(kMapBlock) * kMapWidth)}, kMapBlock, 0, stream, op,
           n, y, x...);
  } else {
    void (*kernel)(Op, int64_t, Y*, const X*...) = map_kernel<1, Op, Y, X...>;
    launch(name, kernel, {blocks_for(n, kMapBlock)}, kMapBlock, 0, stream, op, n, y, x...);
  }
}

// Calls f with a null pointer of the element type; activations are float32 or bfloat16 on this
// backend.
template <class F>
void with_type(const Tensor& t, F&& f) {
  if (t.dtype() == DType::F32) return f(static_cast<float*>(nullptr));
  ensure(t.dtype() == DType::BF16, "[cuda] expected float32 or bfloat16, got ",
         dtype_name(t.dtype()), in_operation());
  f(static_cast<bf16*>(nullptr));
}

// Results that are added to what is there.
template <class Op>
struct Added {
  Op op;
  template <class... X>
  __device__ float operator()(float there, X... x) const {
    return there + op(x...);
  }
};

// Into a gradient slot: stored or added.
template <class Op, class Y, class... X>
void map_into(const char* name,
              Stream stream,
              const Op& op,
              bool accumulate,
              int64_t n,
              Y* y,
              const X*... x) {
  if (accumulate)
    map(name, stream, Added<Op>{op}, n, y, static_cast<const Y*>(y), x...);
  else
    map(name, stream, op, n, y, x...);
}

}  // namespace spindle::cuda
