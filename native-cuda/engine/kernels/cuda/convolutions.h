// The port for convolutions: cuDNN's graph API on a device, plain loops on the emulated one.
#pragma once
#include <memory>

#include "kernels/cuda/library_options.h"
#include "kernels/kernels.h"

namespace spindle::cuda {

// x (B,H,W,Ci), w (Co,R,S,Ci), y and dy (B,Ho,Wo,Co), all dense in device memory. x, w, y, dy, dx,
// bias and residual have one type, F32 or BF16; dw is F32 for either. Sums in float32. Ho, Wo as
// Conv2dArgs::out_size says; padding may differ before and after.
class Convolutions {
 public:
  virtual ~Convolutions() = default;
  virtual const char* name() const = 0;
  // y = conv(x, w) + bias (Co) + residual (shape of y); empty tensors mean "none". What the library
  // cannot fuse is done by a kernel behind it, so that the result is the same up to one more
  // rounding.
  virtual void forward(const Tensor& y,
                       const Tensor& x,
                       const Tensor& w,
                       const Tensor& bias,
                       const Tensor& residual,
                       const Conv2dArgs& args) = 0;
  // dx (B,H,W,Ci) [+]= gradient to x
  virtual void backward_input(const GradSlot& dx,
                              const Tensor& dy,
                              const Tensor& w,
                              const Conv2dArgs& args) = 0;
  // dw (Co,R,S,Ci) float32 [+]= gradient to w. The bias's gradient is not this port's.
  virtual void backward_weight(const GradSlot& dw,
                               const Tensor& dy,
                               const Tensor& x,
                               const Conv2dArgs& args) = 0;
};

std::unique_ptr<Convolutions> make_cudnn_convolutions(const LibraryOptions& options);

}  // namespace spindle::cuda
