// Attention, its heads side by side in the channels.
#pragma once
#include "kernels/operands/operand.h"

namespace spindle {

struct AttentionArgs {
  int64_t heads;
  bool causal = false;
  double scale = 0;  // 0: 1 / sqrt(head width)
};

struct AttentionForward {
  static constexpr const char* kName = "attention_forward";
  Tensor o;     // (B,Tq,C)
  Tensor lse;   // (B,heads,Tq): log of the softmax's sum, float32 (F64 where q is)
  Tensor q;     // (B,Tq,C)
  Tensor k, v;  // (B,Tk,C)
  AttentionArgs args;

  static auto outputs(auto& op) { return std::tie(op.o, op.lse); }
  static auto inputs(auto& op) { return std::tie(op.q, op.k, op.v); }
};

struct AttentionBackward {
  static constexpr const char* kName = "attention_backward";
  GradSlot dq = {};           // (B,Tq,C)
  GradSlot dk = {}, dv = {};  // (B,Tk,C)
  Tensor d_o;                 // (B,Tq,C)
  Tensor o, lse;              // (B,Tq,C), (B,heads,Tq), of forward
  Tensor q;                   // (B,Tq,C)
  Tensor k, v;                // (B,Tk,C)
  AttentionArgs args;

  static auto outputs(auto& op) { return std::tie(op.dq, op.dk, op.dv); }
  static auto inputs(auto& op) { return std::tie(op.d_o, op.o, op.lse, op.q, op.k, op.v); }
};

}  // namespace spindle

#define SPINDLE_ATTENTION_KERNELS(X) \
  X(AttentionForward)                \
  X(AttentionBackward)
