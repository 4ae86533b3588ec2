// The port for attention in one kernel: cuDNN's flash attention, or our own kernels for the shapes
// that it does not take (kernels/cuda/flash_attention.h). The own kernels run on the emulated
// device too.
#pragma once
#include <memory>

#include "kernels/cuda/library_options.h"
#include "kernels/operands/attention.h"

namespace spindle::cuda {

// What decides which implementation takes a call.
struct AttentionShape {
  int64_t batch, heads, width, queries, keys;
  bool causal;
  DType dtype;  // of q, k, v, o and their gradients

  AttentionShape(const Tensor& q, const Tensor& k, const AttentionArgs& args)
      : batch(q.dim(0)),
        heads(args.heads),
        width(q.dim(2) / args.heads),
        queries(q.dim(1)),
        keys(k.dim(1)),
        causal(args.causal),
        dtype(q.dtype()) {}
};

// q, o, d_o, dq (B,Tq,C), k, v, dk, dv (B,Tk,C), dense, heads side by side in C; lse (B,heads,Tq)
// float32 = natural log of the sum of exp(scale · q·k) over the keys that a query sees. Causal:
// query i sees keys 0..i. args.scale 0 means 1 / sqrt(head width). Products in the tensors' type,
// softmax, sums and lse in float32.
class FusedAttention {
 public:
  virtual ~FusedAttention() = default;
  virtual const char* name() const = 0;
  // Whether forward() and, with `gradients`, backward() take this shape. May build a plan; the
  // answer never changes.
  virtual bool takes(const AttentionShape& shape, bool gradients) = 0;
  virtual void forward(const AttentionForward& op) = 0;
  // Recomputes the probabilities from lse. Empty slots are not written. Without float atomics in
  // deterministic mode.
  virtual void backward(const AttentionBackward& op) = 0;
};

// bfloat16 only; widths that are multiples of 8.
std::unique_ptr<FusedAttention> make_cudnn_attention(const LibraryOptions& options);

// Our own kernels: bfloat16 on tensor cores and plain float32, any width up to 256 that is a
// multiple of 8 (float32: any up to 256).
std::unique_ptr<FusedAttention> make_flash_attention(const LibraryOptions& options);

}  // namespace spindle::cuda
