// One op, one file: shape rule, forward and backward together. Ops are the only callers of kernels
// in models.
#pragma once
#include "autograd/tape.h"

namespace spindle::ops {

// Optional operands of conv2d and linear: y = activation(sum + bias + per_image[image]) + residual.
struct Fused {
  Parameter* bias = nullptr;
  Tensor per_image;  // (B, Co)
  Tensor residual;   // shape of y
};

// x (B,H,W,Ci), w (Co,R,S,Ci) -> (B,Ho,Wo,Co)
Tensor conv2d(Tape& tape,
              const Tensor& x,
              Parameter& w,
              const Fused& fused,
              const Conv2dArgs& args);

// x (..., K), w (N, K) -> (..., N). `activation` only where no gradient is needed or it can be
// recomputed (see linear.cc).
Tensor linear(Tape& tape, const Tensor& x, Parameter& w, const Fused& fused = {});

// base (..., N) + scale * (x A^T) B^T, x (..., K): what ops::linear and ops::linear_geglu add where
// the matrix has a LowRank.
Tensor low_rank(Tape& tape, const Tensor& x, const LowRank& adapter, const Tensor& base);

// x (..., 2C) = [value, gate] -> value * gelu(gate) (..., C)
Tensor geglu(Tape& tape, const Tensor& x);

// x (B, ..., C) in groups of channels; silu(norm(x)) in one pass when args.silu.
Tensor group_norm(Tape& tape,
                  const Tensor& x,
                  Parameter& gamma,
                  Parameter& beta,
                  const GroupNormArgs& args);

// Over the last dimension.
Tensor layer_norm(Tape& tape, const Tensor& x, Parameter& gamma, Parameter& beta, double eps);

// q (B,Tq,C), k and v (B,Tk,C), heads side by side in C -> (B,Tq,C)
Tensor attention(Tape& tape,
                 const Tensor& q,
                 const Tensor& k,
                 const Tensor& v,
                 const AttentionArgs& args);

Tensor activation(Tape& tape, const Tensor& x, Activation kind);

// x (..., K), w (2C, K) -> value * gelu(gate) (..., C), where x w^T + bias = [value, gate]. The
// product never reaches memory; backward computes it again, since it would be the largest tensor
// that a block keeps.
Tensor linear_geglu(Tape& tape, const Tensor& x, Parameter& w, Parameter* bias);

Tensor add(Tape& tape, const Tensor& a, const Tensor& b);

// (B,...,Ca) and (B,...,Cb) -> (B,...,Ca+Cb)
Tensor concat_channels(Tape& tape, const Tensor& a, const Tensor& b);

// (B,H,W,C) -> (B,height,width,C), nearest neighbour
Tensor upsample_nearest(Tape& tape, const Tensor& x, int64_t height, int64_t width);

// Sinusoidal embedding of B timesteps, (B, dim). No gradient.
Tensor timestep_embedding(Tape& tape,
                          const Tensor& timesteps,
                          int64_t dim,
                          const TimestepArgs& args,
                          DType dtype);
Tensor timestep_embedding(Tape& tape,
                          const std::vector<float>& timesteps,
                          int64_t dim,
                          const TimestepArgs& args,
                          DType dtype);

// Token and position embedding of ids (B, T) -> (B, T, C). No gradient: text towers are frozen.
Tensor token_embedding(Tape& tape,
                       const std::vector<int32_t>& ids,
                       int64_t batch,
                       Parameter& tokens,
                       Parameter& positions,
                       DType dtype);

// Class token before the patches (B, h, w, C), and position embedding -> (B, 1 + h*w, C). No
// gradient.
Tensor image_tokens(Tape& tape,
                    const Tensor& patches,
                    Parameter& class_token,
                    Parameter& positions);

// x (..., C) seen as rows -> the rows named (count, C). No gradient.
Tensor gather_rows(Tape& tape, const Tensor& x, const std::vector<int32_t>& rows);

// Rows of length 1, in float32. No gradient.
Tensor l2_normalize(Tape& tape, const Tensor& x);

}  // namespace spindle::ops
