// The port for matrix products: cuBLASLt on a device, plain loops on the emulated one.
#pragma once
#include <cstdint>
#include <memory>

#include "kernels/cuda/library_options.h"
#include "kernels/kernels.h"

namespace spindle::cuda {

// A matrix in device memory, row-major. `transposed` says that op() turns it: the memory then holds
// the transpose.
struct Operand {
  const void* data = nullptr;
  bool transposed = false;
  int64_t row_stride = 0;  // elements from one row in memory to the next; 0: rows lie end to end
};

// y (m,n) = op(a) (m,k) · op(b) (k,n) + bias (n) + addend (m,n), sums in float32, rounded to
// `output` once. Activations come behind it: cuBLASLt's epilogues have ReLU and the tanh form of
// GELU, and every model here has SiLU, the exact GELU or QuickGELU.
//
//   forward           x (M,K), w (N,K):     m M, n N, k K, a x,              b w transposed
//   gradient to x     dy (M,N), w (N,K):    m M, n K, k N, a dy,             b w
//   gradient to w     dy (M,N), x (M,K):    m N, n K, k M, a dy transposed,  b x
struct Product {
  int64_t m = 0, n = 0, k = 0;
  Operand a, b;
  DType input = DType::F32;    // of a and b: F32, or BF16
  void* y = nullptr;           // (m,n), rows end to end
  DType output = DType::F32;   // of y, bias and addend: F32, or BF16 when `input` is BF16
  const void* bias = nullptr;  // (n); null: none
  const void* addend =
      nullptr;  // (m,n), rows end to end; may be y itself (gradients accumulate so); null: none
};

class Products {
 public:
  virtual ~Products() = default;
  virtual const char* name() const = 0;
  // m, n, k > 0. Throws Error(Internal) with the expression and the shapes when the library
  // refuses, Error(InvalidArgument) for what the comments above rule out.
  virtual void multiply(const Product& product) = 0;
};

std::unique_ptr<Products> make_cublaslt_products(const LibraryOptions& options);

}  // namespace spindle::cuda
