// What a plan depends on, as one line each, and which of several candidates is taken. Host code, no
// CUDA.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/products.h"

namespace spindle::cuda {

// The largest power of two, at most 256, that divides the address: libraries read wide where they
// may.
int pointer_alignment(const void* data);

struct ConvolutionShape {
  int64_t batch, height, width, in_channels, out_channels, filter_height, filter_width;
  Conv2dArgs args;
  DType dtype;

  int64_t out_height() const { return args.out_size(height, filter_height); }
  int64_t out_width() const { return args.out_size(width, filter_width); }
  // "(2,64,64,320) * (640,3,3,320) stride 1 padding 1,1", for messages and keys
  std::string text() const;
};

enum class ConvolutionPass { Forward, BackwardInput, BackwardWeight };

// What comes behind a convolution's sum in the same plan.
struct ConvolutionTail {
  bool bias = false;
  bool addend = false;  // a residual, or the gradient that is accumulated to
  DType output = DType::F32;
};

std::string product_text(const Product& product);  // for messages
std::string product_key(const Product& product, bool tf32, bool deterministic);
std::string convolution_key(ConvolutionPass pass,
                            const ConvolutionShape& shape,
                            const ConvolutionTail& tail,
                            bool tf32,
                            bool deterministic);
std::string attention_key(const AttentionShape& shape,
                          double scale,
                          bool backward,
                          bool deterministic);

// A number that this choice may not depend on: how long the device takes.
struct Selection {
  int64_t candidates = 0;                   // best first, as the library ranks them
  std::function<bool(int64_t)> usable;      // builds the plan; false: refused
  std::function<bool(int64_t)> repeatable;  // the same bytes every time
  std::function<double(int64_t)> seconds;   // runs it; empty: not to be measured
  int64_t measured = 8;                     // how many usable ones are measured
};
// Deterministic: the first usable one that is repeatable. Otherwise the fastest of the first usable
// ones, ties to the better rank, or the first where nothing may be measured. -1 when none is
// usable.
int64_t select_plan(const Selection& selection, bool deterministic);

}  // namespace spindle::cuda
