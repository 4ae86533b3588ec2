#include "kernels/cuda/plans/plan_keys.h"

#include <cstdio>

#include "core/error.h"

namespace spindle::cuda {

namespace {
const char* mode(bool deterministic) { return deterministic ? " det" : " fast"; }
const char* short_name(DType dtype) {
  return dtype == DType::BF16 ? "bf16" : dtype == DType::F32 ? "f32" : "f64";
}
const char* short_name(DType dtype, bool tf32) {
  return dtype == DType::F32 && tf32 ? "tf32" : short_name(dtype);
}
}  // namespace

int pointer_alignment(const void* data) {
  auto address = reinterpret_cast<uintptr_t>(data) | 256;
  return int(address & (~address + 1));
}

std::string ConvolutionShape::text() const {
  return cat("(", batch, ",", height, ",", width, ",", in_channels, ") * (", out_channels, ",",
             filter_height, ",", filter_width, ",", in_channels, ") stride ", args.stride,
             " padding ", args.pad_before, ",", args.pad_after);
}

std::string product_text(const Product& p) {
  return cat("(", p.m, ",", p.k, ")", p.a.transposed ? "^T" : "", " * (", p.k, ",", p.n, ")",
             p.b.transposed ? "^T" : "", " ", dtype_name(p.input), " to ", dtype_name(p.output));
}

std::string product_key(const Product& p, bool tf32, bool deterministic) {
  auto stride = [](const Operand& o) {
    return o.row_stride == 0 ? std::string() : cat("/", o.row_stride);
  };
  // An addend that is y itself is another plan: the library then works in place.
  const char* addend = !p.addend ? "" : p.addend == p.y ? " in-place" : " addend";
  return cat("product ", short_name(p.input, tf32), ">", short_name(p.output), " m", p.m, " n", p.n,
             " k", p.k, " a", p.a.transposed ? "T" : "N", stride(p.a), " b",
             p.b.transposed ? "T" : "N", stride(p.b), p.bias ? " bias" : "", addend, " align ",
             pointer_alignment(p.a.data), ",", pointer_alignment(p.b.data), ",",
             pointer_alignment(p.y), ",", p.bias ? pointer_alignment(p.bias) : 256, ",",
             p.addend ? pointer_alignment(p.addend) : 256, mode(deterministic));
}

std::string convolution_key(ConvolutionPass pass,
                            const ConvolutionShape& shape,
                            const ConvolutionTail& tail,
                            bool tf32,
                            bool deterministic) {
  const char* name = pass == ConvolutionPass::Forward         ? "forward"
                     : pass == ConvolutionPass::BackwardInput ? "backward-input"
                                                              : "backward-weight";
  return cat("conv ", name, " ", short_name(shape.dtype, tf32), ">", short_name(tail.output), " ",
             shape.text(), tail.bias ? " bias" : "", tail.addend ? " addend" : "",
             mode(deterministic));
}

std::string attention_key(const AttentionShape& s,
                          double scale,
                          bool backward,
                          bool deterministic) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", scale);
  return cat("attention ", backward ? "backward " : "forward ", short_name(s.dtype), " b", s.batch,
             " h", s.heads, " d", s.width, " q", s.queries, " k", s.keys, s.causal ? " causal" : "",
             " scale ", digits, mode(deterministic));
}

int64_t select_plan(const Selection& s, bool deterministic) {
  if (deterministic || !s.seconds) {
    for (int64_t i = 0; i < s.candidates; ++i)
      if ((!deterministic || s.repeatable(i)) && s.usable(i)) return i;
    return -1;
  }
  int64_t best = -1, measured = 0;
  double shortest = 0;
  for (int64_t i = 0; i < s.candidates && measured < s.measured; ++i) {
    if (!s.usable(i)) continue;
    double seconds = s.seconds(i);
    ++measured;
    if (best < 0 || seconds < shortest) best = i, shortest = seconds;
  }
  return best;
}

}  // namespace spindle::cuda
