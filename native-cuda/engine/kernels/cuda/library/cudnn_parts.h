// cuDNN's first library loads the others when it is called, and ends the process where it cannot.
#pragma once
#include <string>

namespace spindle::cuda {

// Why cuDNN cannot be called, as one sentence; empty when it can.
std::string why_no_cudnn();

}  // namespace spindle::cuda
