// Element by element, with rows that are repeated, and their sums.
#pragma once
#include "kernels/operands/operand.h"

namespace spindle {

struct ActivationForward {
  static constexpr const char* kName = "activation_forward";
  Tensor y;  // shape of x; may be x
  Tensor x;
  Activation kind;

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.x); }
};

struct ActivationBackward {
  static constexpr const char* kName = "activation_backward";
  GradSlot dx;  // shape of x
  Tensor dy;    // shape of x
  Tensor x;
  Activation kind;

  static auto outputs(auto& op) { return std::tie(op.dx); }
  static auto inputs(auto& op) { return std::tie(op.dy, op.x); }
};

// y = value * gelu(gate)
struct GegluForward {
  static constexpr const char* kName = "geglu_forward";
  Tensor y;  // (...,C)
  Tensor x;  // (...,2C) = [value, gate]

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.x); }
};

struct GegluBackward {
  static constexpr const char* kName = "geglu_backward";
  GradSlot dx;  // (...,2C)
  Tensor dy;    // (...,C)
  Tensor x;     // (...,2C)

  static auto outputs(auto& op) { return std::tie(op.dx); }
  static auto inputs(auto& op) { return std::tie(op.dy, op.x); }
};

// y = a + b
struct Add {
  static constexpr const char* kName = "add";
  Tensor y;  // shape of a; may be a
  Tensor a, b;

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.a, op.b); }
};

// y = x + rows, repeated: x has as many elements as a multiple of them.
struct AddRows {
  static constexpr const char* kName = "add_rows";
  Tensor y;     // (...,C)
  Tensor x;     // (...,C)
  Tensor rows;  // (...,C), the trailing dimensions of x

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.x, op.rows); }
};

// Backward of AddRows.
struct SumToRows {
  static constexpr const char* kName = "sum_to_rows";
  GradSlot drows;  // dy's trailing elements
  Tensor dy;       // (...,C)

  static auto outputs(auto& op) { return std::tie(op.drows); }
  static auto inputs(auto& op) { return std::tie(op.dy); }
};

// Backward of an epilogue's per_image: the sum of what lies between image and channel.
struct SumPerImage {
  static constexpr const char* kName = "sum_per_image";
  GradSlot dt;  // (B,C)
  Tensor dy;    // (B,...,C)

  static auto outputs(auto& op) { return std::tie(op.dt); }
  static auto inputs(auto& op) { return std::tie(op.dy); }
};

// y = factor * x
struct Scale {
  static constexpr const char* kName = "scale";
  Tensor y;  // shape of x; may be x
  Tensor x;
  double factor;

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.x); }
};

// y += x
struct Accumulate {
  static constexpr const char* kName = "accumulate";
  Tensor y;  // shape of x
  Tensor x;

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.x); }
};

// y = x, rounded where y's type asks for it
struct Cast {
  static constexpr const char* kName = "cast";
  Tensor y;  // shape of x
  Tensor x;

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.x); }
};

}  // namespace spindle

#define SPINDLE_ELEMENTWISE_KERNELS(X) \
  X(ActivationForward)                 \
  X(ActivationBackward)                \
  X(GegluForward)                      \
  X(GegluBackward)                     \
  X(Add)                               \
  X(AddRows)                           \
  X(SumToRows)                         \
  X(SumPerImage)                       \
  X(Scale)                             \
  X(Accumulate)                        \
  X(Cast)
