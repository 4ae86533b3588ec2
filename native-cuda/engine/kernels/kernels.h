// The device contract: everything the engine computes, as one list. Pure virtual, so that a backend
// that lacks a kernel does not compile. Outputs come first, then inputs, then arguments. A kernel
// allocates nothing but scratch and records nothing.
//
// Backends: `reference` (plain loops, any of F32, BF16, F64; the oracle of every test), `cpu`
// (threads and vector units) and `cuda`. Tensors lie in the backend's memory (memory()), which the
// host may not touch unless host_visible(): upload() and download() go between. What a device
// computes for itself later (errors, clipping, scalars of a step) stays in its memory. Images are
// (B, H, W, C), convolution weights (Co, R, S, Ci), linear weights (N, K). Statistics, losses,
// parameter gradients and optimiser state are float32 (F64 in the reference kernels when the input
// is F64), whatever the activations are.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "collective/collective.h"
#include "core/pool.h"
#include "core/rng.h"
#include "core/tensor.h"
#include "core/thread_pool.h"

namespace spindle {

enum class Activation : uint8_t { None, Silu, Gelu, QuickGelu };  // Gelu is the exact one (erf)

struct Conv2dArgs {
  int64_t stride = 1;
  // Zero padding before and after, equal for height and width: the VAE's downsampler pads (0, 1).
  int64_t pad_before = 1, pad_after = 1;
  int64_t out_size(int64_t in, int64_t kernel) const {
    return (in + pad_before + pad_after - kernel) / stride + 1;
  }
};

// A weight matrix or filter. Once a backend keeps the weight of an id in its own form, `value` may
// be empty; `kept` is its shape then.
struct Weight {
  Tensor value;
  uint64_t id = 0;  // 0: never kept
  Shape kept = {};

  const Shape& shape() const { return value ? value.shape() : kept; }
  Weight reshape(const Shape& shape) const {
    return {value ? value.reshape(shape) : Tensor(), id, shape};
  }
};

// What a convolution or matmul adds after the sum; empty tensors mean "none".
//   y = activation(sum + bias + per_image[image]) + residual
struct Epilogue {
  Tensor bias;       // (Co)
  Tensor per_image;  // (B, Co): the time embedding of a resnet block
  Tensor residual;   // shape of y
  Activation activation = Activation::None;
  int64_t positions_per_image =
      1;  // of a linear layer over pixels: how exact a sum has to be may depend on it
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
  int64_t step;       // from 1, for bias correction
  double grad_scale;  // gradients are multiplied by this first (clipping)
};

// The scalars of one optimiser step, a float64 tensor in the backend's memory. The host writes the
// first ones before the step, clip_gradient() the others.
enum StepScalar : int64_t {
  kLearningRate,
  kStep,
  kCorrection1,
  kCorrection2,
  kEmaWeight,
  kNorm,
  kFactor,
  kFinite,
  kStepScalars
};

// Flat arenas of one store: weights, moments, gradient (float32); empty or as large: the average,
// the bfloat16 copy.
struct OptimizerArenas {
  Tensor w, m, v, grad;
  Tensor ema = {}, low = {};
};

// One step of a sampler, whichever it is, as a row of float32 coefficients (sample/step_table.h):
// with x the latents, m the model's guided output (uncond + kGuidance (cond - uncond)), z noise,
// and start, h1, h2, h3 (newest first) and sum what earlier steps left,
//   v = clamp(kValueX x + kValueM m, -kLimit, kLimit)
//   next x = kNextX x + kNextStart start + kNextM m + kNextValue v + kNextH1 h1 + kNextH2 h2 +
//   kNextH3 h3 + kNextSum sum + kNextNoise z next sum = kSumKeep sum + kSumM m;  start = x where
//   kStore;  h3 = h2, h2 = h1, h1 = v where kPush
// A coefficient of 0 keeps what it is of out altogether, finite or not. The model is called with
// kInputScale x at kTimestep.
enum SamplerColumn : int64_t {
  kTimestep,
  kInputScale,
  kGuidance,
  kValueX,
  kValueM,
  kLimit,
  kNextX,
  kNextStart,
  kNextM,
  kNextValue,
  kNextH1,
  kNextH2,
  kNextH3,
  kNextSum,
  kNextNoise,
  kSumKeep,
  kSumM,
  kStore,
  kPush,
  kSamplerColumns
};
// Rows of a sampler's memory, all of as many values as the latents.
enum SamplerRow : int64_t { kLatents, kStart, kHistory1, kHistory2, kHistory3, kSum, kSamplerRows };
struct SamplerTensors {
  Tensor memory;  // (kSamplerRows, n) float32
  Tensor table;   // (steps, kSamplerColumns) float32
  Tensor at;      // (1) float64: the row of the table that is next
};

// Losses of train/objective.h that a backend may compute in its own memory.
enum class PairLoss : uint8_t { Logistic, Hinge, Ipo, Plain };

// Work that was captured, to be done again.
class Captured {
 public:
  virtual ~Captured() = default;
  virtual void launch() = 0;
};

// A point in the order of a backend's work.
class Mark {
 public:
  virtual ~Mark() = default;
  virtual void wait() = 0;  // until all that was asked for before it is done
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
  // Which of several algorithms the backend's libraries took so far, as text for a checkpoint;
  // empty: it has no choice.
  virtual std::string algorithms() const { return {}; }
  // Takes those of a checkpoint from now on. Returns why that cannot be done here (another GPU or
  // library: the bytes will differ), or an empty text; throws Error(DataLoss) when the text is
  // damaged.
  virtual std::string pin_algorithms(const std::string& /*text*/) { return {}; }

  // --- memory
  virtual std::shared_ptr<BlockSource> memory() { return host_blocks(); }
  virtual bool host_visible() const { return true; }
  // All of y's bytes; `host` may change once this returns.
  virtual void upload(const Tensor& y, const void* host) = 0;
  // All of x's bytes, once all work before is done.
  virtual void download(void* host, const Tensor& x) = 0;
  virtual void copy(const Tensor& y, const Tensor& x) = 0;
  virtual void clear(const Tensor& y) = 0;  // zeros
  // Waits until all that was asked for is done.
  virtual void finish() {}
  // Here; null where calls return when their work is done.
  virtual std::unique_ptr<Mark> mark() { return nullptr; }
  // Captures what `work` asks for, without doing it, and gives it as one. Tensors that it takes
  // must stay; it may not download. Null where a backend does not capture: nothing was called then.
  virtual std::unique_ptr<Captured> capture(const std::function<void()>& /*work*/) {
    return nullptr;
  }

  // What connects ranks over this backend's memory, from what connects them over the host's. To be
  // used by the thread that computes.
  virtual std::unique_ptr<Collective> connect_memory(std::unique_ptr<Collective> hosts) {
    return hosts;
  }

  // --- weights
  // True when products of bfloat16 activations take float32 weights, so that nobody has to hold
  // bfloat16 copies of them.
  virtual bool rounds_weights() const { return false; }
  // Takes over a frozen weight (Co,R,S,Ci) or (N,K) that only forward products of `compute`
  // activations will read. True: the backend holds it in its own form until forget_weight(), and
  // the caller may drop the values.
  virtual bool keep_weight(const Weight&, DType /*compute*/) { return false; }
  virtual void forget_weight(uint64_t /*id*/) {}

  // --- convolution: y (B,Ho,Wo,Co), x (B,H,W,Ci), w (Co,R,S,Ci)
  virtual void conv2d_forward(Tensor& y,
                              const Tensor& x,
                              const Weight& w,
                              const Epilogue& epilogue,
                              const Conv2dArgs& args) = 0;
  virtual void conv2d_backward_input(const GradSlot& dx,
                                     const Tensor& dy,
                                     const Weight& w,
                                     const Conv2dArgs& args) = 0;
  virtual void conv2d_backward_weight(const GradSlot& dw,
                                      const GradSlot& db,
                                      const Tensor& dy,
                                      const Tensor& x,
                                      const Conv2dArgs& args) = 0;

  // --- linear: y (M,N), x (M,K), w (N,K). per_image of the epilogue is (B,N) with M a multiple of
  // B.
  virtual void linear_forward(Tensor& y,
                              const Tensor& x,
                              const Weight& w,
                              const Epilogue& epilogue) = 0;
  // y (M,N/2) = (x w^T + bias), columns [value, gate]: value * gelu(gate); the product itself never
  // reaches memory
  virtual void linear_geglu_forward(Tensor& y,
                                    const Tensor& x,
                                    const Weight& w,
                                    const Tensor& bias) = 0;
  virtual void linear_backward_input(const GradSlot& dx, const Tensor& dy, const Weight& w) = 0;
  virtual void linear_backward_weight(const GradSlot& dw,
                                      const GradSlot& db,
                                      const Tensor& dy,
                                      const Tensor& x) = 0;

  // --- normalisation: mean, rstd (B, groups) or (rows), float32 (F64 for F64)
  virtual void group_norm_forward(Tensor& y,
                                  Tensor& mean,
                                  Tensor& rstd,
                                  const Tensor& x,
                                  const Tensor& gamma,
                                  const Tensor& beta,
                                  const GroupNormArgs& args) = 0;  // x (B, ..., C)
  virtual void group_norm_backward(const GradSlot& dx,
                                   const GradSlot& dgamma,
                                   const GradSlot& dbeta,
                                   const Tensor& dy,
                                   const Tensor& x,
                                   const Tensor& mean,
                                   const Tensor& rstd,
                                   const Tensor& gamma,
                                   const Tensor& beta,
                                   const GroupNormArgs& args) = 0;
  virtual void layer_norm_forward(Tensor& y,
                                  Tensor& mean,
                                  Tensor& rstd,
                                  const Tensor& x,
                                  const Tensor& gamma,
                                  const Tensor& beta,
                                  double eps) = 0;  // x (..., C)
  virtual void layer_norm_backward(const GradSlot& dx,
                                   const GradSlot& dgamma,
                                   const GradSlot& dbeta,
                                   const Tensor& dy,
                                   const Tensor& x,
                                   const Tensor& mean,
                                   const Tensor& rstd,
                                   const Tensor& gamma) = 0;

  // --- attention: q, o (B,Tq,C), k, v (B,Tk,C), heads side by side in C; lse (B,heads,Tq) = log of
  // the softmax's sum
  virtual void attention_forward(Tensor& o,
                                 Tensor& lse,
                                 const Tensor& q,
                                 const Tensor& k,
                                 const Tensor& v,
                                 const AttentionArgs& args) = 0;
  virtual void attention_backward(const GradSlot& dq,
                                  const GradSlot& dk,
                                  const GradSlot& dv,
                                  const Tensor& d_o,
                                  const Tensor& o,
                                  const Tensor& lse,
                                  const Tensor& q,
                                  const Tensor& k,
                                  const Tensor& v,
                                  const AttentionArgs& args) = 0;

  // --- elementwise and data movement
  virtual void activation_forward(Tensor& y, const Tensor& x, Activation kind) = 0;
  virtual void activation_backward(const GradSlot& dx,
                                   const Tensor& dy,
                                   const Tensor& x,
                                   Activation kind) = 0;
  virtual void geglu_forward(
      Tensor& y,
      const Tensor& x) = 0;  // x (..., 2C) = [value, gate]; y = value * gelu(gate)
  virtual void geglu_backward(const GradSlot& dx, const Tensor& dy, const Tensor& x) = 0;
  virtual void add(Tensor& y, const Tensor& a, const Tensor& b) = 0;
  virtual void add_rows(
      Tensor& y,
      const Tensor& x,
      const Tensor& rows) = 0;  // x (..., C) with as many elements as a multiple of rows
  virtual void sum_to_rows(
      const GradSlot& drows,
      const Tensor& dy) = 0;  // backward of add_rows: drows has dy's trailing elements
  virtual void sum_per_image(
      const GradSlot& dt,
      const Tensor& dy) = 0;  // dt (B,C) = sum of dy (B,...,C) between: backward of per_image
  virtual void scale(Tensor& y, const Tensor& x, double factor) = 0;
  virtual void accumulate(Tensor& y, const Tensor& x) = 0;  // y += x
  virtual void concat_channels(Tensor& y, const Tensor& a, const Tensor& b) = 0;
  virtual void split_channels(const GradSlot& da, const GradSlot& db, const Tensor& dy) = 0;
  virtual void upsample_nearest_forward(
      Tensor& y,
      const Tensor& x) = 0;  // (B,H,W,C) -> y's height and width, nearest
  virtual void upsample_nearest_backward(const GradSlot& dx, const Tensor& dy) = 0;
  virtual void embedding_forward(Tensor& y,
                                 const Tensor& table,
                                 const int32_t* ids,
                                 int64_t count) = 0;  // y (count, C)
  virtual void gather_rows(Tensor& y,
                           const Tensor& x,
                           const int32_t* rows,
                           int64_t count) = 0;  // y (count, C) = x (N, C)[rows]
  virtual void timestep_embedding(
      Tensor& y,
      const Tensor& timesteps,
      const TimestepArgs& args) = 0;                          // y (B, dim), timesteps (B) float32
  virtual void l2_normalize(Tensor& y, const Tensor& x) = 0;  // rows
  virtual void nchw_to_nhwc(Tensor& y, const Tensor& x) = 0;  // dtypes may differ: also the cast
  virtual void nhwc_to_nchw(Tensor& y, const Tensor& x) = 0;
  virtual void cast(Tensor& y, const Tensor& x) = 0;
  virtual void fill(Tensor& y, double value) = 0;

  // --- noise
  // Row i of noise (B, ...) float32: the standard normal values of `philox` for sample places[1] +
  // i at step places[0]; places (2) float64.
  virtual void normal_noise(Tensor& noise,
                            const Philox& philox,
                            Draw draw,
                            const Tensor& places) = 0;
  // noisy = c[0] x + c[1] noise, target = c[2] x + c[3] noise, with c the image's row of
  // coefficients (B, 4); all float32
  virtual void diffuse(Tensor& noisy,
                       Tensor& target,
                       const Tensor& x,
                       const Tensor& noise,
                       const Tensor& coefficients) = 0;

  // --- sampling: SamplerColumn has the formulas
  // Every copy in input (copies, n) becomes the latents for the model, and all of timesteps (B) the
  // row's, float32.
  virtual void sampler_input(Tensor& input, Tensor& timesteps, const SamplerTensors& sampler) = 0;
  // The step from the model's output: (2, n) is uncond and cond, (1, n) cond alone; noise (n)
  // float32, or empty where no row has any. Then the next row is the next.
  virtual void sampler_step(const SamplerTensors& sampler,
                            const Tensor& output,
                            const Tensor& noise) = 0;

  // --- losses: prediction and target (B,...), errors (B) = mean of squares per image, float64:
  // beta multiplies small differences of them
  virtual void mse_per_image(Tensor& errors, const Tensor& prediction, const Tensor& target) = 0;
  // dprediction[i] = weight[i] * 2 / n * (prediction - target), n = elements per image
  virtual void mse_backward(Tensor& dprediction,
                            const Tensor& prediction,
                            const Tensor& target,
                            const Tensor& weights) = 0;
  // loss (1) float64 and weights (2B) float32 = d loss / d error from errors (2B), real ones first,
  // and the opponent's; of Plain, B and no opponent. settings (2) float64: beta and the scale of
  // every term. False: this backend leaves it to the host (train/objective.h).
  virtual bool pair_loss(Tensor& /*weights*/,
                         Tensor& /*loss*/,
                         const Tensor& /*errors*/,
                         const Tensor& /*opponent_errors*/,
                         const Tensor& /*settings*/,
                         PairLoss /*kind*/) {
    return false;
  }

  // --- flat float32 arenas
  virtual double sum_of_squares(const Tensor& x) = 0;
  // scalars[kNorm] = |gradient|, [kFactor] = min(1, max_norm / (norm + 1e-6)) (1 when max_norm is
  // 0), [kFinite] = norm is finite
  virtual void clip_gradient(Tensor& scalars, const Tensor& gradient, double max_norm) = 0;
  // One pass over all: AdamW with the gradient times scalars[kFactor], the average, the rounded
  // copy; nothing when not scalars[kFinite]. Of `args`, only betas, epsilon and weight_decay count.
  virtual void optimizer_step(const OptimizerArenas& arenas,
                              const Tensor& scalars,
                              const AdamWArgs& args) = 0;
  // One pass: scale the gradient, moments, decoupled weight decay, weight.
  virtual void adamw(Tensor& w,
                     Tensor& m,
                     Tensor& v,
                     const Tensor& grad,
                     const AdamWArgs& args) = 0;
  virtual void lerp(Tensor& y,
                    const Tensor& x,
                    double weight) = 0;  // y += weight * (x - y), for the EMA
};

std::unique_ptr<Kernels> make_reference_kernels();

// The CPU backend. `isa`: "auto", "amx", "avx512_bf16", "avx512", "avx2" or "generic"; more than
// the processor has is refused.
struct CpuOptions {
  const char* isa = "auto";
};
// The CUDA backend lies in a shared object of its own (kernels/cuda), so that one package runs with
// and without a GPU.
struct CudaOptions {
  int device = 0;
  bool tf32 = false;            // float32 products may round their operands to 10 bits of mantissa
  bool deterministic = true;    // the same bytes every time
  const char* plans = nullptr;  // folder of what was learnt about shapes; null: none
};

std::unique_ptr<Kernels> make_cpu_kernels(ThreadPool& threads, const CpuOptions& options);
// The instruction set that the cpu kernels would use, e.g. "avx512_bf16".
const char* detect_isa();

}  // namespace spindle
