// The cpu backend: threads over tasks of fixed size, inner loops from the processor's table in
// isa/.
//
// Rules of the house: a task's work depends on its number alone, and sums run in an order fixed by
// shapes; so bytes do not depend on the number of threads, nor an image's on the batch it is in.
// Activations are F32 or BF16; sums are float32 or better.
#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/cpu/isa/simd.h"
#include "kernels/host_kernels.h"

namespace spindle::cpu {

inline bool is_bf16(const Tensor& t) { return t.dtype() == DType::BF16; }
inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
inline char* at(void* base, int64_t index, DType dtype) {
  return static_cast<char*>(base) + index * int64_t(dtype_size(dtype));
}
inline const char* at(const void* base, int64_t index, DType dtype) {
  return static_cast<const char*>(base) + index * int64_t(dtype_size(dtype));
}

// Float32 products with a weight of fewer elements than this (first and last convolutions, the
// smallest models) are summed in double, unless one image has so many pixels that it would take
// long. Weight and image size decide, so an image's bytes do not depend on its batch.
constexpr int64_t kWideElements = 4096;
constexpr int64_t kWideProducts = 1 << 19;
inline bool sums_in_double(int64_t weights, int64_t positions_per_image) {
  return weights < kWideElements && weights * positions_per_image < kWideProducts;
}

// A 3x3 convolution whose output has the pixels of its input.
inline bool same_3x3(const Shape& filter, const Conv2dArgs& args) {
  return filter[1] == 3 && filter[2] == 3 && args.stride == 1 && args.pad_before == 1 &&
         args.pad_after == 1;
}

constexpr int64_t kMaxTileRows = 32;  // of any instruction set's tile kernels

// A right-hand side cut into column panels for the tile kernels: panel p holds columns [p * panel,
// ...) of every tap.
struct Packed {
  const std::byte* data = nullptr;
  int64_t taps = 0, k = 0, n = 0;
  int64_t panel = 0;  // columns of a full panel
  int64_t width = 0;  // the vector's width: the last panel is rounded up to it
  DType dtype = DType::F32;

  int64_t panels() const { return divide_up(n, panel); }
  int64_t panel_width(int64_t p) const { return std::min(panel, round_up(n - p * panel, width)); }
  int64_t k_rows() const { return dtype == DType::BF16 ? (k + 1) / 2 : k; }  // packed rows of a tap
  int64_t row_bytes(int64_t p) const {
    return panel_width(p) * 4;
  }  // a float, or a pair of bfloat16
  int64_t panel_offset(int64_t p) const { return p * panel * taps * k_rows() * 4; }  // bytes
  const std::byte* block(int64_t p, int64_t tap, int64_t k0) const {
    int64_t rows = tap * k_rows() + (dtype == DType::BF16 ? k0 / 2 : k0);
    return data + panel_offset(p) + rows * row_bytes(p);
  }
  int64_t bytes() const { return round_up(n, width) * taps * k_rows() * 4; }
};

// Where element (tap, k, n) of a right-hand side lies: base + n * n_stride + tap * tap_stride + k *
// k_stride (elements).
struct PackSource {
  const void* base;
  DType dtype;
  int64_t taps, k, n;
  int64_t tap_stride, k_stride, n_stride;
};

class CpuKernels : public HostKernels {
 public:
  CpuKernels(ThreadPool& threads, const Simd& simd);
  const char* name() const override { return simd_.name; }
  bool rounds_weights() const override { return true; }
  bool keep_weight(const Weight& w, DType compute) override;
  void forget_weight(uint64_t id) override;
  KernelCounters counters() const override;

  using HostKernels::run;
  SPINDLE_MATH_KERNELS(SPINDLE_OVERRIDE_KERNEL)

 private:
  friend class AttentionWork;
  double sum_of_squares(const Tensor& x) override;
  void adamw(const OptimizerArenas& arenas, const AdamWStep& step) override;
  void lerp(const Tensor& y, const Tensor& x, double weight) override;

  // --- packing (pack.cc)
  enum class PackKind : uint8_t { Forward, Backward };
  Packed layout(int64_t taps, int64_t k, int64_t n, DType dtype) const;
  static PackSource pack_source(const Weight& w, PackKind kind, int64_t n, int64_t taps, int64_t k);
  void pack_panel(std::byte* out,
                  const Packed& packed,
                  int64_t panel,
                  const PackSource& source) const;
  void pack(std::byte* out, const Packed& packed, const PackSource& source);
  // The weight's packed form: the kept one, or one that lasts until the next call. A weight under
  // training is read once each way in a step, so keeping its forms would cost memory and save
  // nothing.
  Packed packed_weight(const Weight& w,
                       PackKind kind,
                       int64_t n,
                       int64_t taps,
                       int64_t k,
                       DType compute);
  const std::byte* kept_weight(const Weight& w, PackKind kind) const;
  std::byte* packing_buffer(Tensor& buffer, int64_t bytes);

  // --- scratch, one growing buffer per thread (reused, never shared)
  std::byte* scratch(int thread, int64_t bytes);
  // The same for what the tasks of a call share.
  std::byte* shared_scratch(int64_t bytes) { return grow(shared_scratch_, bytes); }
  std::byte* grow(Tensor& buffer, int64_t bytes);

  // Whether convolutions may leave the direct sum for float32 arithmetic of their own: not where
  // they are summed in double, nor where bfloat16 products are faster.
  bool float32_serves(DType dtype, const Shape& filter, int64_t pixels) const {
    return dtype == DType::BF16 ? simd_.winograd_bf16 : !sums_in_double(filter.numel(), pixels);
  }

  // --- Winograd's convolution (winograd.cc): x (batch, height, width, in) -> y (batch, height,
  // width, out)
  struct WinogradCall {
    const void* x;
    void* y;
    DType dtype;
    int size;  // output pixels of a square: 2 * 2 or 4 * 4
    int64_t batch, height, width, in, out;
    bool backward;  // with the filter turned around, towards the input
    const float* bias = nullptr;
    const void *per_image = nullptr, *residual = nullptr;
    bool accumulate = false;
  };
  struct WinogradWork;
  struct WinogradGradient;  // winograd_gradient.cc
  // The square's size that suits an image, 0 for a direct convolution.
  int winograd_size(DType dtype,
                    const Shape& filter,
                    int64_t height,
                    int64_t width,
                    const Conv2dArgs& args) const;
  void winograd(const WinogradCall& call, const Weight& w);
  int winograd_gradient_size(const Tensor& dy,
                             const Tensor& x,
                             const Shape& filter,
                             const Conv2dArgs& args) const;
  void winograd_backward_weight(const GradSlot& dw, const Tensor& dy, const Tensor& x, int size);

  // --- convolutions of few channels (conv2d_narrow.cc)
  enum class Narrow : uint8_t { No, Inputs, Outputs };
  struct NarrowWork;
  Narrow narrow_kind(const Tensor& y,
                     const Tensor& x,
                     const Shape& filter,
                     const Conv2dArgs& args) const;
  void narrow(const Tensor& y,
              const Tensor& x,
              const Weight& w,
              const Epilogue& e,
              const Conv2dArgs& args,
              Narrow kind);

  // y(m, n) (+)= sum over taps, k of rows(m, tap)[k] * b: the one matmul driver. Rows supplies
  // input and output addresses.
  template <class Rows>
  void multiply(const Rows& rows, const Packed& b);
  template <class Work>
  void run_products(const Packed& b, int64_t chunks, int64_t panels, Work&& work);
  int64_t tile_rows(int64_t vectors, bool bf16) const {
    return (bf16 ? simd_.rows_for_bf16 : simd_.rows_for)[vectors];
  }
  // dw(m, n) over positions; see outer.cc
  template <class Runs>
  void outer_product_pairs(const Runs& runs,
                           int64_t m,
                           int64_t n,
                           int64_t taps,
                           const GradSlot& dw,
                           int64_t m_stride,
                           int64_t tap_stride,
                           int64_t n_stride);
  template <class Runs>
  void outer_product(const Runs& runs,
                     int64_t m,
                     int64_t n,
                     int64_t taps,
                     const GradSlot& dw,
                     int64_t m_stride,
                     int64_t tap_stride,
                     int64_t n_stride);
  // The same of a matrix, with the bias; see matrix_gradient.cc
  struct MatrixGradient;
  void matrix_gradient(const GradSlot& dw, const GradSlot& db, const Tensor& dy, const Tensor& x);
  void bias_gradient(const GradSlot& db, const Tensor& dy, int64_t rows, int64_t n);

  // --- attention: queries in lanes (attention_lanes.cc), or products of blocks (attention.cc)
  bool attention_in_lanes(const Tensor& q, const AttentionArgs& args) const;
  void attention_forward_in_lanes(const Tensor& o,
                                  const Tensor& lse,
                                  const Tensor& q,
                                  const Tensor& k,
                                  const Tensor& v,
                                  const AttentionArgs& args);
  void attention_backward_in_lanes(const GradSlot& dq,
                                   const GradSlot& dk,
                                   const GradSlot& dv,
                                   const Tensor& d_o,
                                   const Tensor& o,
                                   const Tensor& lse,
                                   const Tensor& q,
                                   const Tensor& k,
                                   const Tensor& v,
                                   const AttentionArgs& args);

  // Runs f(begin, end, thread) over [0, n) in pieces of `grain`.
  template <class F>
  void pieces(int64_t n, int64_t grain, F&& f) {
    threads_.run(divide_up(n, grain), [&](int64_t i, int thread) {
      f(i * grain, std::min(n, (i + 1) * grain), thread);
    });
  }

  ThreadPool& threads_;
  const Simd& simd_;
  BufferPool packed_pool_;
  std::unordered_map<uint64_t, Tensor> kept_;  // frozen weights packed for forward products, by id
  Tensor temporary_pack_, pairs_buffer_, transformed_input_;
  BufferPool scratch_pool_;
  std::vector<Tensor> scratch_;
  Tensor shared_scratch_;
  std::vector<std::byte> zeros_;
  uint64_t packs_done_ = 0,
           packed_bytes_ = 0;  // for counters(); written by the calling thread only
};

}  // namespace spindle::cpu
