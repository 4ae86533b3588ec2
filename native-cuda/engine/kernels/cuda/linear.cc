// Linear layers: products through the library's port (products.h), and by kernels of our own what
// its epilogue does not do.
#include "kernels/cuda/cuda_kernels.h"

namespace spindle::cuda {

void CudaKernels::run(const LinearForward& op) {
  const Tensor& w = values_of(op.w);
  Call call(device_, op.kName, op.x, op.w.shape());
  int64_t n = op.w.shape()[0], k = op.w.shape()[1], m = op.x.numel() / k;
  ensure(op.x.dtype() == w.dtype(), "[cuda] linear: ", dtype_name(op.x.dtype()),
         " activations and a ", dtype_name(w.dtype()), " weight");
  // Then a kernel of its own does the rest, residual included.
  bool behind = op.epilogue.per_image || op.epilogue.activation != Activation::None;
  Tensor bias = as_type(op.epilogue.bias, op.y.dtype());
  Product p{.m = m,
            .n = n,
            .k = k,
            .a = {op.x.raw()},
            .b = {w.raw(), true},
            .input = op.x.dtype(),
            .y = op.y.raw(),
            .output = op.y.dtype()};
  if (bias) p.bias = bias.raw();
  if (op.epilogue.residual && !behind) p.addend = op.epilogue.residual.raw();
  libraries_.products->multiply(p);
  if (behind)
    add_epilogue(op.y, n,
                 {.per_image = op.epilogue.per_image,
                  .residual = op.epilogue.residual,
                  .activation = op.epilogue.activation});
}

void CudaKernels::run(const LinearGegluForward& op) {
  int64_t n = op.w.shape()[0], m = op.x.numel() / op.w.shape()[1];
  Tensor product(scratch_, {m, n}, op.y.dtype());
  run(LinearForward{.y = product, .x = op.x, .w = op.w, .epilogue = {.bias = op.bias}});
  run(GegluForward{.y = op.y.reshape({m, n / 2}), .x = product});
}

void CudaKernels::run(const LinearBackwardInput& op) {
  if (!op.dx) return;
  const Tensor& w = values_of(op.w);
  Call call(device_, op.kName, op.dy, op.w.shape());
  int64_t n = op.w.shape()[0], k = op.w.shape()[1], m = op.dy.numel() / n;
  Product p{.m = m,
            .n = k,
            .k = n,
            .a = {op.dy.raw()},
            .b = {w.raw()},
            .input = op.dy.dtype(),
            .y = op.dx.tensor.raw(),
            .output = op.dx.tensor.dtype()};
  if (op.dx.accumulate) p.addend = p.y;
  libraries_.products->multiply(p);
}

void CudaKernels::run(const LinearBackwardWeight& op) {
  Call call(device_, op.kName, op.dy, op.x);
  int64_t n = op.dy.dim(-1), k = op.x.dim(-1), m = op.dy.numel() / n;
  if (op.dw) {
    Product p{.m = n,
              .n = k,
              .k = m,
              .a = {op.dy.raw(), true},
              .b = {op.x.raw()},
              .input = op.dy.dtype(),
              .y = op.dw.tensor.raw(),
              .output = op.dw.tensor.dtype()};
    if (op.dw.accumulate) p.addend = p.y;
    libraries_.products->multiply(p);
  }
  if (op.db) sum_columns(op.db, op.dy, 1);
}

}  // namespace spindle::cuda
