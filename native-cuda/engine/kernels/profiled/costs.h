// What a kernel call is in the profile: its key, its operations and the bytes that it has to move.
// A new kernel has those of the templates; an overload says where that does not do.
#pragma once
#include <tuple>

#include "kernels/kernel_list.h"
#include "kernels/profiled/kernel_profile.h"

namespace spindle::profiled {

// --- whether it is in the profile at all: what is small beside any model's kernels is not

template <class Op>
constexpr bool kProfiled = true;
template <>
inline constexpr bool kProfiled<NormalNoise> = false;
template <>
inline constexpr bool kProfiled<Diffuse> = false;
template <>
inline constexpr bool kProfiled<PairLossWeights> = false;
template <>
inline constexpr bool kProfiled<SamplerInput> = false;
template <>
inline constexpr bool kProfiled<SamplerStep> = false;

// --- keys: name, type and shapes

inline KernelKey key(const char* name,
                     const Tensor& first,
                     const Shape& second = {},
                     int64_t detail = 0) {
  return {name, first ? first.dtype() : DType::F32, {first.shape(), second, Shape()}, detail};
}

template <class Op>
KernelKey key_of(const Op& op) {
  if constexpr (requires { op.y; })
    return key(Op::kName, op.y);
  else if constexpr (requires { op.x; })
    return key(Op::kName, op.x);
  else
    return key(Op::kName, op.dy);
}

// Products: the shapes are the input's and the weight's; both backward kernels have the forward's
// key but for their name.
inline KernelKey key_of(const Conv2dForward& op) {
  return key(op.kName, op.x, op.w.shape(), op.args.stride);
}
inline KernelKey key_of(const Conv2dBackwardInput& op) {
  return key(op.kName, op.dx.tensor, op.w.shape(), op.args.stride);
}
inline KernelKey key_of(const Conv2dBackwardWeight& op) {
  return key(op.kName, op.x, op.dw.tensor.shape(), op.args.stride);
}
inline KernelKey key_of(const LinearForward& op) { return key(op.kName, op.x, op.w.shape()); }
inline KernelKey key_of(const LinearGegluForward& op) { return key(op.kName, op.x, op.w.shape()); }
inline KernelKey key_of(const LinearBackwardInput& op) {
  return key(op.kName, op.dx.tensor, op.w.shape());
}
inline KernelKey key_of(const LinearBackwardWeight& op) {
  return key(op.kName, op.x, op.dw.tensor.shape());
}
inline KernelKey key_of(const AttentionForward& op) {
  return key(op.kName, op.q, op.k.shape(), op.args.heads);
}
inline KernelKey key_of(const AttentionBackward& op) {
  return key(op.kName, op.q, op.k.shape(), op.args.heads);
}
inline KernelKey key_of(const GegluBackward& op) { return key(op.kName, op.dy); }
inline KernelKey key_of(const AddRows& op) { return key(op.kName, op.y, op.rows.shape()); }
inline KernelKey key_of(const ConcatChannels& op) { return key(op.kName, op.a, op.b.shape()); }
inline KernelKey key_of(const UpsampleNearestForward& op) {
  return key(op.kName, op.x, op.y.shape());
}
inline KernelKey key_of(const UpsampleNearestBackward& op) {
  return key(op.kName, op.dx.tensor, op.dy.shape());
}
inline KernelKey key_of(const MsePerImage& op) { return key(op.kName, op.prediction); }
inline KernelKey key_of(const MseBackward& op) { return key(op.kName, op.dprediction); }
// By the pass over memory that they are.
inline KernelKey key_of(const ClipGradient& op) { return key("sum_of_squares", op.gradient); }
inline KernelKey key_of(const OptimizerStep& op) { return key("adamw", op.arenas.w); }

// --- operations: of products alone

template <class Op>
double flop_of(const Op&) {
  return 0;
}

inline double positions(const Tensor& t) {
  int64_t count = t.numel() / t.dim(-1);
  return double(count);
}
inline double product(const Shape& weight, const Tensor& over) {
  return 2 * double(weight.numel()) * positions(over);
}
inline double flop_of(const Conv2dForward& op) { return product(op.w.shape(), op.y); }
inline double flop_of(const Conv2dBackwardInput& op) { return product(op.w.shape(), op.dy); }
inline double flop_of(const Conv2dBackwardWeight& op) {
  return op.dw ? product(op.dw.tensor.shape(), op.dy) : 0;
}
inline double flop_of(const LinearForward& op) { return product(op.w.shape(), op.x); }
inline double flop_of(const LinearGegluForward& op) { return product(op.w.shape(), op.x); }
inline double flop_of(const LinearBackwardInput& op) { return product(op.w.shape(), op.dy); }
inline double flop_of(const LinearBackwardWeight& op) {
  return op.dw ? product(op.dw.tensor.shape(), op.dy) : 0;
}

// One product of queries and keys over all heads; a causal one needs about half.
template <class Op>
double attention_product(const Op& op) {
  double keys = double(op.k.dim(1));
  return 2 * double(op.q.numel()) * (op.args.causal ? (keys + 1) / 2 : keys);
}
inline double flop_of(const AttentionForward& op) { return 2 * attention_product(op); }
// Five at most: the scores again, dp, and one per gradient.
inline double flop_of(const AttentionBackward& op) {
  int products = (op.dq || op.dk || op.dv ? 1 : 0) + (op.dq || op.dk ? 1 : 0) + (op.dq ? 1 : 0) +
                 (op.dk ? 1 : 0) + (op.dv ? 1 : 0);
  return products * attention_product(op);
}

// --- bytes: every operand once, and what is added to twice

inline double size(const Tensor& t, DType = DType::F32) { return t ? double(t.bytes()) : 0; }
inline double size(const GradSlot& slot, DType = DType::F32) {
  return size(slot.tensor) * (slot.accumulate ? 2 : 1);
}
inline double size(const Epilogue& e, DType = DType::F32) {
  return size(e.bias) + size(e.per_image) + size(e.residual);
}
// In the activations' type, as products read it.
inline double size(const Weight& w, DType compute) {
  return double(w.shape().numel()) * double(dtype_size(compute));
}

template <class Op>
double bytes_of(const Op& op) {
  DType compute = DType::F32;
  if constexpr (requires { op.x; })
    compute = op.x.dtype();
  else if constexpr (requires { op.dy; })
    compute = op.dy.dtype();
  auto sum = [&](const auto&... operands) { return (size(operands, compute) + ...); };
  return std::apply(sum, Op::outputs(op)) + std::apply(sum, Op::inputs(op));
}

inline double bytes_of(const Accumulate& op) { return 2 * size(op.y) + size(op.x); }
inline double bytes_of(const SplitChannels& op) {
  return op.da || op.db ? size(op.da) + size(op.db) + size(op.dy) : 0;
}
// Reads as many rows as it writes.
inline double bytes_of(const EmbeddingForward& op) { return 2 * size(op.y); }
inline double bytes_of(const GatherRows& op) { return 2 * size(op.y); }
inline double bytes_of(const TimestepEmbedding& op) { return size(op.y); }
inline double bytes_of(const ClipGradient& op) { return size(op.gradient); }
// All but the gradient and the shadow are read and written.
inline double bytes_of(const OptimizerStep& op) {
  const OptimizerArenas& a = op.arenas;
  return 2 * (size(a.w) + size(a.m) + size(a.v) + size(a.ema)) + size(a.grad) + size(a.bf16);
}

}  // namespace spindle::profiled
