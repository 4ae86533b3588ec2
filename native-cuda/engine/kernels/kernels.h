// The device contract: everything the engine computes, as one list. Pure virtual, so that a backend that lacks a kernel does
// not compile. Outputs come first, then inputs, then arguments. A kernel allocates nothing but scratch and records nothing.
//
// Backends: `reference` (plain loops, any of F32, BF16, F64; the oracle of every test) and `cpu` (threads and vector units).
// Images are (B, H, W, C), convolution weights (Co, R, S, Ci), linear weights (N, K). Statistics, losses, parameter gradients
// and optimiser state are float32 (F64 in the reference kernels when the input is F64), whatever the activations are.
#pragma once
#include <cstdint>
#include <memory>

#include "core/pool.h"
#include "core/tensor.h"
#include "core/thread_pool.h"

namespace spindle {

enum class Activation : uint8_t { None, Silu, Gelu, QuickGelu };  // Gelu is the exact one (erf)

struct Conv2dArgs {
  int64_t stride = 1;
  // Zero padding before and after, equal for height and width: the VAE's downsampler pads (0, 1).
  int64_t pad_before = 1, pad_after = 1;
  int64_t out_size(int64_t in, int64_t kernel) const { return (in + pad_before + pad_after - kernel) / stride + 1; }
};

// A weight matrix or filter. Once a backend keeps the weight of an id in its own form, `value` may be empty; `kept` is its shape then.
struct Weight {
  Tensor value;
  uint64_t id = 0;  // 0: never kept
  Shape kept = {};

  const Shape& shape() const { return value ? value.shape() : kept; }
  Weight reshape(const Shape& shape) const { return {value ? value.reshape(shape) : Tensor(), id, shape}; }
};

// What a convolution or matmul adds after the sum; empty tensors mean "none".
//   y = activation(sum + bias + per_image[image]) + residual
struct Epilogue {
  Tensor bias;       // (Co)
  Tensor per_image;  // (B, Co): the time embedding of a resnet block
  Tensor residual;   // shape of y
  Activation activation = Activation::None;
};

// Where a gradient goes. An empty tensor means "not needed"; `accumulate` adds to what is there.
struct GradSlot {
  Tensor tensor;
  bool accumulate = false;
  explicit operator bool() const { return bool(tensor); }
};

struct GroupNormArgs {
  int64_t groups;
  double eps;
  bool silu = false;  // y = silu(norm(x)) in one pass
};

struct AttentionArgs {
  int64_t heads;
  bool causal = false;
  double scale = 0;  // 0: 1 / sqrt(head width)
};

struct TimestepArgs {
  bool flip_sin_to_cos = true;
  double freq_shift = 0;
  double max_period = 10000;
};

struct AdamWArgs {
  double learning_rate, beta1, beta2, epsilon, weight_decay;
  int64_t step;        // from 1, for bias correction
  double grad_scale;   // gradients are multiplied by this first (clipping)
};

// What a backend did beside computing, since it was made.
struct KernelCounters {
  uint64_t packs = 0;               // weights brought into the backend's own layout
  uint64_t packed_bytes = 0;        // bytes written by that
  uint64_t system_allocations = 0;  // blocks that it asked of the system for itself
};

class Kernels {
 public:
  virtual ~Kernels() = default;
  virtual const char* name() const = 0;
  virtual KernelCounters counters() const { return {}; }

  // --- weights
  // True when products of bfloat16 activations take float32 weights, so that nobody has to hold bfloat16 copies of them.
  virtual bool rounds_weights() const { return false; }
  // Takes over a frozen weight (Co,R,S,Ci) or (N,K) that only forward products of `compute` activations will read. True: the
  // backend holds it in its own form until forget_weight(), and the caller may drop the values.
  virtual bool keep_weight(const Weight&, DType /*compute*/) { return false; }
  virtual void forget_weight(uint64_t /*id*/) {}

  // --- convolution: y (B,Ho,Wo,Co), x (B,H,W,Ci), w (Co,R,S,Ci)
  virtual void conv2d_forward(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& epilogue, const Conv2dArgs& args) = 0;
  virtual void conv2d_backward_input(const GradSlot& dx, const Tensor& dy, const Weight& w, const Conv2dArgs& args) = 0;
  virtual void conv2d_backward_weight(const GradSlot& dw, const GradSlot& db, const Tensor& dy, const Tensor& x, const Conv2dArgs& args) = 0;

  // --- linear: y (M,N), x (M,K), w (N,K). per_image of the epilogue is (B,N) with M a multiple of B.
  virtual void linear_forward(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& epilogue) = 0;
  // y (M,N/2) = (x w^T + bias), columns [value, gate]: value * gelu(gate); the product itself never reaches memory
  virtual void linear_geglu_forward(Tensor& y, const Tensor& x, const Weight& w, const Tensor& bias) = 0;
  virtual void linear_backward_input(const GradSlot& dx, const Tensor& dy, const Weight& w) = 0;
  virtual void linear_backward_weight(const GradSlot& dw, const GradSlot& db, const Tensor& dy, const Tensor& x) = 0;

  // --- normalisation: mean, rstd (B, groups) or (rows), float32 (F64 for F64)
  virtual void group_norm_forward(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& gamma, const Tensor& beta, const GroupNormArgs& args) = 0;  // x (B, ..., C)
  virtual void group_norm_backward(const GradSlot& dx, const GradSlot& dgamma, const GradSlot& dbeta, const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& gamma, const Tensor& beta, const GroupNormArgs& args) = 0;
  virtual void layer_norm_forward(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps) = 0;  // x (..., C)
  virtual void layer_norm_backward(const GradSlot& dx, const GradSlot& dgamma, const GradSlot& dbeta, const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& gamma) = 0;

  // --- attention: q, o (B,Tq,C), k, v (B,Tk,C), heads side by side in C; lse (B,heads,Tq) = log of the softmax's sum
  virtual void attention_forward(Tensor& o, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionArgs& args) = 0;
  virtual void attention_backward(const GradSlot& dq, const GradSlot& dk, const GradSlot& dv, const Tensor& d_o, const Tensor& o, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionArgs& args) = 0;

  // --- elementwise and data movement
  virtual void activation_forward(Tensor& y, const Tensor& x, Activation kind) = 0;
  virtual void activation_backward(const GradSlot& dx, const Tensor& dy, const Tensor& x, Activation kind) = 0;
  virtual void geglu_forward(Tensor& y, const Tensor& x) = 0;  // x (..., 2C) = [value, gate]; y = value * gelu(gate)
  virtual void geglu_backward(const GradSlot& dx, const Tensor& dy, const Tensor& x) = 0;
  virtual void add(Tensor& y, const Tensor& a, const Tensor& b) = 0;
  virtual void add_rows(Tensor& y, const Tensor& x, const Tensor& rows) = 0;  // x (..., C) with as many elements as a multiple of rows
  virtual void sum_to_rows(const GradSlot& drows, const Tensor& dy) = 0;      // backward of add_rows: drows has dy's trailing elements
  virtual void sum_per_image(const GradSlot& dt, const Tensor& dy) = 0;      // dt (B,C) = sum of dy (B,...,C) between: backward of per_image
  virtual void scale(Tensor& y, const Tensor& x, double factor) = 0;
  virtual void accumulate(Tensor& y, const Tensor& x) = 0;  // y += x
  virtual void concat_channels(Tensor& y, const Tensor& a, const Tensor& b) = 0;
  virtual void split_channels(const GradSlot& da, const GradSlot& db, const Tensor& dy) = 0;
  virtual void upsample_nearest_forward(Tensor& y, const Tensor& x) = 0;  // (B,H,W,C) -> y's height and width, nearest
  virtual void upsample_nearest_backward(const GradSlot& dx, const Tensor& dy) = 0;
  virtual void embedding_forward(Tensor& y, const Tensor& table, const int32_t* ids, int64_t count) = 0;  // y (count, C)
  virtual void gather_rows(Tensor& y, const Tensor& x, const int32_t* rows, int64_t count) = 0;           // y (count, C) = x (N, C)[rows]
  virtual void timestep_embedding(Tensor& y, const float* timesteps, const TimestepArgs& args) = 0;       // y (B, dim)
  virtual void l2_normalize(Tensor& y, const Tensor& x) = 0;                                              // rows
  virtual void nchw_to_nhwc(Tensor& y, const Tensor& x) = 0;  // dtypes may differ: also the cast
  virtual void nhwc_to_nchw(Tensor& y, const Tensor& x) = 0;
  virtual void cast(Tensor& y, const Tensor& x) = 0;
  virtual void fill(Tensor& y, double value) = 0;

  // --- losses: prediction and target (B,...), errors (B) = mean of squares per image, float64: beta
  // multiplies small differences of them
  virtual void mse_per_image(Tensor& errors, const Tensor& prediction, const Tensor& target) = 0;
  // dprediction[i] = weight[i] * 2 / n * (prediction - target), n = elements per image
  virtual void mse_backward(Tensor& dprediction, const Tensor& prediction, const Tensor& target, const Tensor& weights) = 0;

  // --- flat float32 arenas
  virtual double sum_of_squares(const Tensor& x) = 0;
  // One pass: scale the gradient, moments, decoupled weight decay, weight.
  virtual void adamw(Tensor& w, Tensor& m, Tensor& v, const Tensor& grad, const AdamWArgs& args) = 0;
  virtual void lerp(Tensor& y, const Tensor& x, double weight) = 0;  // y += weight * (x - y), for the EMA
};

std::unique_ptr<Kernels> make_reference_kernels();

// The CPU backend. `isa`: "auto", "amx", "avx512_bf16", "avx512", "avx2" or "generic"; more than the processor has is refused.
struct CpuOptions {
  const char* isa = "auto";
};
std::unique_ptr<Kernels> make_cpu_kernels(ThreadPool& threads, const CpuOptions& options);
// The instruction set that the cpu kernels would use, e.g. "avx512_bf16".
const char* detect_isa();

}  // namespace spindle
