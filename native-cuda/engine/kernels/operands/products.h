// Convolutions: x (B,H,W,Ci), y (B,Ho,Wo,Co), w (Co,R,S,Ci). Linear layers: x (M,K), y (M,N),
// w (N,K).
#pragma once
#include "kernels/operands/operand.h"

namespace spindle {

struct Conv2dArgs {
  int64_t stride = 1;
  // Zero padding before and after, equal for height and width: the VAE's downsampler pads (0, 1).
  int64_t pad_before = 1, pad_after = 1;
  int64_t out_size(int64_t in, int64_t kernel) const {
    return (in + pad_before + pad_after - kernel) / stride + 1;
  }
};

struct Conv2dForward {
  static constexpr const char* kName = "conv2d_forward";
  Tensor y;                // (B,Ho,Wo,Co)
  Tensor x;                // (B,H,W,Ci)
  Weight w;                // (Co,R,S,Ci)
  Epilogue epilogue = {};  // bias (Co), per_image (B,Co), residual (B,Ho,Wo,Co)
  Conv2dArgs args = {};

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.x, op.w, op.epilogue); }
};

struct Conv2dBackwardInput {
  static constexpr const char* kName = "conv2d_backward_input";
  GradSlot dx;  // (B,H,W,Ci)
  Tensor dy;    // (B,Ho,Wo,Co)
  Weight w;     // (Co,R,S,Ci)
  Conv2dArgs args = {};

  static auto outputs(auto& op) { return std::tie(op.dx); }
  static auto inputs(auto& op) { return std::tie(op.dy, op.w); }
};

struct Conv2dBackwardWeight {
  static constexpr const char* kName = "conv2d_backward_weight";
  GradSlot dw = {};  // (Co,R,S,Ci)
  GradSlot db = {};  // (Co)
  Tensor dy;         // (B,Ho,Wo,Co)
  Tensor x;          // (B,H,W,Ci)
  Conv2dArgs args = {};

  static auto outputs(auto& op) { return std::tie(op.dw, op.db); }
  static auto inputs(auto& op) { return std::tie(op.dy, op.x); }
};

struct LinearForward {
  static constexpr const char* kName = "linear_forward";
  Tensor y;                // (M,N)
  Tensor x;                // (M,K)
  Weight w;                // (N,K)
  Epilogue epilogue = {};  // bias (N), per_image (B,N) with M a multiple of B, residual (M,N)

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.x, op.w, op.epilogue); }
};

// y = value * gelu(gate) with [value, gate] the columns of x w^T + bias; the product itself never
// reaches memory.
struct LinearGegluForward {
  static constexpr const char* kName = "linear_geglu_forward";
  Tensor y;          // (M,N/2)
  Tensor x;          // (M,K)
  Weight w;          // (N,K)
  Tensor bias = {};  // (N)

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.x, op.w, op.bias); }
};

struct LinearBackwardInput {
  static constexpr const char* kName = "linear_backward_input";
  GradSlot dx;  // (M,K)
  Tensor dy;    // (M,N)
  Weight w;     // (N,K)

  static auto outputs(auto& op) { return std::tie(op.dx); }
  static auto inputs(auto& op) { return std::tie(op.dy, op.w); }
};

struct LinearBackwardWeight {
  static constexpr const char* kName = "linear_backward_weight";
  GradSlot dw = {};  // (N,K)
  GradSlot db = {};  // (N)
  Tensor dy;         // (M,N)
  Tensor x;          // (M,K)

  static auto outputs(auto& op) { return std::tie(op.dw, op.db); }
  static auto inputs(auto& op) { return std::tie(op.dy, op.x); }
};

}  // namespace spindle

#define SPINDLE_PRODUCT_KERNELS(X) \
  X(Conv2dForward)                 \
  X(Conv2dBackwardInput)           \
  X(Conv2dBackwardWeight)          \
  X(LinearForward)                 \
  X(LinearGegluForward)            \
  X(LinearBackwardInput)           \
  X(LinearBackwardWeight)
