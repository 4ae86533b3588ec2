// What the kernels of flash_attention_tensor.cu and flash_attention_plain.cu have in common, and
// how they are started.
#pragma once
#include "kernels/cuda/device_code.h"
#include "kernels/cuda/fused_attention.h"

namespace spindle::cuda::flash_attention {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kMaxTensorWidth = 160, kMaxWidth = 256;
constexpr float kMinusInfinity = -INFINITY;

// Where row `i` of head `h` of image `b` begins: (b * length + i) * channels + h * width
struct Sizes {
  int heads, width, queries, keys, causal;
  float scale;
  int64_t channels;

  __device__ int64_t query(int64_t b, int h, int64_t i) const {
    return (b * queries + i) * channels + int64_t(h) * width;
  }
  __device__ int64_t key(int64_t b, int h, int64_t j) const {
    return (b * keys + j) * channels + int64_t(h) * width;
  }
  __device__ int64_t row(int64_t b, int h, int64_t i) const {
    return (b * heads + h) * queries + i;
  }
  __device__ bool sees(int i, int j) const {
    return i < queries && j < keys && (!causal || j <= i);
  }
};

// One call's operands, as fused_attention.h says; T is their type. In backward, o is not read,
// delta (B,heads,Tq) is.
template <class T>
struct Operands {
  const T *q, *k, *v;
  Sizes s;
};
template <class T>
struct Gradients {
  const T* d_o;
  const float *lse, *delta;
  T *dq, *dk, *dv;  // null: not wanted
  int accumulate_q, accumulate_k, accumulate_v;
};

inline unsigned blocks(int64_t rows, int64_t per_block) {
  return unsigned((rows + per_block - 1) / per_block);
}

// On tensor cores: bfloat16, widths of at most kMaxTensorWidth that are multiples of 8, addresses
// that are multiples of 16.
void tensor_forward(Stream stream, int64_t images, bf16* o, float* lse, const Operands<bf16>& in);
void tensor_backward(Stream stream,
                     int64_t images,
                     const Operands<bf16>& in,
                     const Gradients<bf16>& gradients);

// Plain loops: float or bf16, widths of at most kMaxWidth.
template <class T>
void plain_forward(Stream stream, int64_t images, T* o, float* lse, const Operands<T>& in);
template <class T>
void plain_backward(Stream stream,
                    int64_t images,
                    const Operands<T>& in,
                    const Gradients<T>& gradients);
// delta (B,heads,Tq) = sum over the head's columns of d_o * o, for both.
template <class T>
void output_products(Stream stream,
                     int64_t images,
                     float* delta,
                     const T* d_o,
                     const T* o,
                     const Sizes& s);

}  // namespace spindle::cuda::flash_attention
