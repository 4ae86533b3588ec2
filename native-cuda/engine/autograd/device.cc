#include "autograd/device.h"

#include "kernels/cuda_loader.h"

namespace spindle {

Device::Device(const DeviceOptions& options) : threads_(options.threads) {
  backend_ = options.backend;
  int index = 0;
  if (backend_.starts_with("cuda:")) {
    std::string digits = backend_.substr(5);
    require(!digits.empty() && digits.size() <= 3 &&
                digits.find_first_not_of("0123456789") == std::string::npos,
            "[device] backend: expected cuda: and a device's number, got ", backend_);
    index = std::stoi(digits);
    backend_ = "cuda";
  }
  require(backend_ == "cpu" || backend_ == "cuda" || backend_ == "auto" || backend_ == "reference",
          "[device] backend: expected auto, cuda, cuda:N, cpu or reference, got ", backend_);
  if (backend_ == "auto") backend_ = why_no_cuda(options.cuda_library).empty() ? "cuda" : "cpu";
  if (backend_ == "reference")
    kernels_ = make_reference_kernels();
  else if (backend_ == "cuda")
    kernels_ =
        make_cuda_kernels({.device = index, .tf32 = options.tf32, .plans = options.plans.c_str()},
                          options.cuda_library);
  else
    kernels_ = make_cpu_kernels(threads_, {.isa = options.isa.c_str()});
  isa_ = kernels_->name();
  host_visible_ = kernels_->host_visible();
  pool_ = std::make_unique<BufferPool>(kernels_->blocks());
  active_pool_ = pool_.get();
}

Tensor Device::zeros(const Shape& shape, DType dtype) {
  Tensor t = empty(shape, dtype);
  kernels_->clear(t);
  return t;
}

}  // namespace spindle
