// Attention by kernels of our own, for the shapes that cuDNN does not take: which of them a call
// goes to.
#include "kernels/cuda/flash_attention.h"

#include <cmath>

namespace spindle::cuda {

namespace {

using namespace flash_attention;

bool aligned(std::initializer_list<const void*> pointers) {
  for (const void* p : pointers)
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0) return false;
  return true;
}

template <class T>
Operands<T> operands(const Tensor& q, const Tensor& k, const Tensor& v, const Sizes& s) {
  return {q.data<T>(), k.data<T>(), v.data<T>(), s};
}

class FlashAttention : public FusedAttention {
 public:
  explicit FlashAttention(const LibraryOptions& options)
      : options_(options), stream_(static_cast<Stream>(options.stream)) {}

  const char* name() const override { return "own"; }

  bool takes(const AttentionShape& s, bool) override {
    return (s.dtype == DType::F32 || s.dtype == DType::BF16) && s.width >= 1 &&
           s.width <= kMaxWidth && s.batch <= 65535 && s.heads <= 65535 &&
           s.queries < (int64_t(1) << 30) && s.keys < (int64_t(1) << 30);
  }

  void forward(const AttentionForward& op) override {
    const Sizes s = sizes(op.q, op.k, op.args);
    typed(op.q.dtype(), [&]<class T>(T*) {
      const Operands<T> in = operands<T>(op.q, op.k, op.v, s);
      if constexpr (std::is_same_v<T, bf16>)
        if (tensor_cores(s, {op.o.raw(), op.q.raw(), op.k.raw(), op.v.raw()}))
          return tensor_forward(stream_, op.q.dim(0), op.o.data<T>(), op.lse.f32(), in);
      plain_forward(stream_, op.q.dim(0), op.o.data<T>(), op.lse.f32(), in);
    });
  }

  void backward(const AttentionBackward& op) override {
    const Sizes s = sizes(op.q, op.k, op.args);
    Tensor delta(*options_.scratch, op.lse.shape(), DType::F32);
    typed(op.q.dtype(), [&]<class T>(T*) {
      output_products<T>(stream_, op.q.dim(0), delta.f32(), op.d_o.data<T>(), op.o.data<T>(), s);
      auto start = [](const GradSlot& slot) { return slot ? slot.tensor.data<T>() : nullptr; };
      const Operands<T> in = operands<T>(op.q, op.k, op.v, s);
      const Gradients<T> gradients{
          op.d_o.data<T>(),      op.lse.f32(),          delta.f32(),
          start(op.dq),          start(op.dk),          start(op.dv),
          int(op.dq.accumulate), int(op.dk.accumulate), int(op.dv.accumulate)};
      if constexpr (std::is_same_v<T, bf16>)
        if (tensor_cores(s, {op.q.raw(), op.k.raw(), op.v.raw(), op.d_o.raw()}))
          return tensor_backward(stream_, op.q.dim(0), in, gradients);
      plain_backward(stream_, op.q.dim(0), in, gradients);
    });
  }

 private:
  Sizes sizes(const Tensor& q, const Tensor& k, const AttentionArgs& args) {
    AttentionShape shape(q, k, args);
    require(takes(shape, true) && shape.width * shape.heads == q.dim(2),
            "[cuda] attention: expected float32 or bfloat16 and heads of 1 to ", kMaxWidth,
            " columns, got q ", q.shape(), " ", dtype_name(q.dtype()), " in ", args.heads,
            " heads");
    return {int(shape.heads),
            int(shape.width),
            int(shape.queries),
            int(shape.keys),
            int(shape.causal),
            float(args.scale != 0 ? args.scale : 1 / std::sqrt(double(shape.width))),
            q.dim(2)};
  }

  static bool tensor_cores(const Sizes& s, std::initializer_list<const void*> pointers) {
    return s.width % 8 == 0 && s.width <= kMaxTensorWidth && aligned(pointers);
  }

  template <class F>
  static void typed(DType dtype, F&& f) {
    if (dtype == DType::BF16)
      f(static_cast<bf16*>(nullptr));
    else
      f(static_cast<float*>(nullptr));
  }

  LibraryOptions options_;
  Stream stream_;
};

}  // namespace

std::unique_ptr<FusedAttention> make_flash_attention(const LibraryOptions& options) {
  return std::make_unique<FlashAttention>(options);
}

}  // namespace spindle::cuda
