#include "kernels/cuda/cuda_kernels.h"

#include "kernels/cuda/device_collective.h"

namespace spindle::cuda {

namespace {

class DeviceBlocks : public BlockSource {
 public:
  explicit DeviceBlocks(int device) : device_(device) {}
  void* allocate(size_t bytes, bool, size_t) override {
    use_device(device_);
    return device_allocate(bytes);
  }
  void free(void* data) noexcept override { device_free(data); }
  size_t region_bytes() const override { return cuda::region_bytes(); }

 private:
  int device_;
};

class CudaCaptured : public Captured {
 public:
  CudaCaptured(std::unique_ptr<Graph> graph, Stream stream, int device)
      : graph_(std::move(graph)), stream_(stream), device_(device) {}
  void launch() override {
    use_device(device_);
    graph_->launch(stream_);
  }

 private:
  std::unique_ptr<Graph> graph_;
  Stream stream_;
  int device_;
};

class EventMark : public Mark {
 public:
  explicit EventMark(Stream stream) : event_(create_event()) { record(event_, stream); }
  ~EventMark() override { destroy_event(event_); }
  void wait() override { synchronize(event_); }

 private:
  Event event_;
};

}  // namespace

CudaKernels::CudaKernels(const CudaOptions& options)
    : device_(options.device),
      blocks_(std::make_shared<DeviceBlocks>(options.device)),
      scratch_(blocks_) {
  std::string problem = why_no_device();
  require(problem.empty(), "[cuda] ", problem);
  require(options.device >= 0 && options.device < device_count(), "[cuda] device: expected 0 to ",
          device_count() - 1, ", got ", options.device);
  bind();
  const DeviceInfo info = device_info(device_);
  name_ = info.name;
  const LibraryVersions versions = library_versions();
  plans_ = std::make_unique<PlanCache>(
      options.plans ? options.plans : "",
      PlanEnvironment{info.name, info.major, info.minor, info.multiprocessors, info.driver,
                      info.runtime, versions.cublaslt, versions.cudnn});
  stream_ = create_stream();
  libraries_ = make_libraries({.stream = stream_,
                               .scratch = &scratch_,
                               .tf32 = options.tf32,
                               .deterministic = options.deterministic,
                               .plans = plans_.get()});
}

CudaKernels::~CudaKernels() {
  try {
    synchronize(stream_);
  } catch (const Error&) {
    // what went wrong was reported by the call that it went wrong in
  }
  libraries_ = {};
  kept_.clear();
  destroy_stream(stream_);
}

// The thread that computes may be another one than made this.
void CudaKernels::bind() const { use_device(device_); }

KernelCounters CudaKernels::counters() const {
  return {.packs = 0, .packed_bytes = 0, .system_allocations = scratch_.stats().system_allocations};
}

void CudaKernels::upload(const Tensor& y, const void* host) {
  bind();
  ensure(!capturing(stream_),
         "[cuda] an upload while capturing: its values would stay those of the capture",
         in_operation());
  staging_.upload(y.raw(), host, y.bytes(), stream_);
}

void CudaKernels::download(void* host, const Tensor& x) {
  bind();
  ensure(!capturing(stream_), "[cuda] a download while capturing", in_operation());
  staging_.download(host, x.raw(), x.bytes(), stream_);
}

void CudaKernels::copy(const Tensor& y, const Tensor& x) {
  bind();
  ensure(y.bytes() == x.bytes(), "[copy] ", x.shape(), " does not fit ", y.shape());
  copy_on_device(y.raw(), x.raw(), x.bytes(), stream_);
}

void CudaKernels::clear(const Tensor& y) {
  bind();
  zero(y.raw(), y.bytes(), stream_);
}

void CudaKernels::finish() {
  bind();
  synchronize(stream_);
}

std::unique_ptr<Mark> CudaKernels::mark() {
  bind();
  ensure(!capturing(stream_), "[cuda] a mark while capturing");
  return std::make_unique<EventMark>(stream_);
}

std::unique_ptr<Captured> CudaKernels::capture(const std::function<void()>& work) {
  bind();
  scratch_.hold();
  begin_capture(stream_);
  try {
    work();
  } catch (...) {
    abandon_capture(stream_);
    throw;
  }
  return std::make_unique<CudaCaptured>(end_capture(stream_), stream_, device_);
}

std::unique_ptr<Collective> CudaKernels::connect_memory(std::unique_ptr<Collective> hosts) {
  bind();
  std::unique_ptr<RankLink> link = make_rank_link(*hosts);
  return make_device_collective(std::move(hosts), std::move(link), stream_);
}

bool CudaKernels::keep_weight(const Weight& w, DType compute) {
  ensure(w.id != 0 && w.value.dtype() == compute, "[cuda] a weight to keep is in ",
         dtype_name(w.value.dtype()), ", not in ", dtype_name(compute));
  kept_[w.id] = w.value;
  return true;
}

void CudaKernels::forget_weight(uint64_t id) { kept_.erase(id); }

const Tensor& CudaKernels::values_of(const Weight& w) const {
  if (w.value) return w.value;
  auto it = kept_.find(w.id);
  ensure(it != kept_.end(), "[cuda] weight ", w.id, " of ", w.shape(),
         " has no values and is not kept");
  return it->second;
}

Tensor CudaKernels::as_type(const Tensor& bias, DType dtype) {
  if (!bias || bias.dtype() == dtype) return bias;
  Tensor rounded(scratch_, bias.shape(), dtype);
  cast(rounded, bias);
  return rounded;
}

// --- products

void CudaKernels::linear_forward(Tensor& y,
                                 const Tensor& x,
                                 const Weight& weight,
                                 const Epilogue& e) {
  const Tensor& w = values_of(weight);
  Call call(device_, "linear_forward", x, weight.shape());
  int64_t n = weight.shape()[0], k = weight.shape()[1], m = x.numel() / k;
  ensure(x.dtype() == w.dtype(), "[cuda] linear: ", dtype_name(x.dtype()), " activations and a ",
         dtype_name(w.dtype()), " weight");
  bool behind = e.per_image ||
                e.activation != Activation::None;  // done by a kernel of its own, residual included
  Tensor bias = as_type(e.bias, y.dtype());
  Product p{.m = m,
            .n = n,
            .k = k,
            .a = {x.raw()},
            .b = {w.raw(), true},
            .input = x.dtype(),
            .y = y.raw(),
            .output = y.dtype()};
  if (bias) p.bias = bias.raw();
  if (e.residual && !behind) p.addend = e.residual.raw();
  libraries_.products->multiply(p);
  if (behind) add_epilogue(y, n, {Tensor(), e.per_image, e.residual, e.activation});
}

void CudaKernels::linear_geglu_forward(Tensor& y,
                                       const Tensor& x,
                                       const Weight& weight,
                                       const Tensor& bias) {
  int64_t n = weight.shape()[0], m = x.numel() / weight.shape()[1];
  Tensor product(scratch_, {m, n}, y.dtype());
  linear_forward(product, x, weight, {bias, Tensor(), Tensor(), Activation::None});
  Tensor flat = y.reshape({m, n / 2});
  geglu_forward(flat, product);
}

void CudaKernels::linear_backward_input(const GradSlot& dx,
                                        const Tensor& dy,
                                        const Weight& weight) {
  if (!dx) return;
  const Tensor& w = values_of(weight);
  Call call(device_, "linear_backward_input", dy, weight.shape());
  int64_t n = weight.shape()[0], k = weight.shape()[1], m = dy.numel() / n;
  Product p{.m = m,
            .n = k,
            .k = n,
            .a = {dy.raw()},
            .b = {w.raw()},
            .input = dy.dtype(),
            .y = dx.tensor.raw(),
            .output = dx.tensor.dtype()};
  if (dx.accumulate) p.addend = p.y;
  libraries_.products->multiply(p);
}

void CudaKernels::linear_backward_weight(const GradSlot& dw,
                                         const GradSlot& db,
                                         const Tensor& dy,
                                         const Tensor& x) {
  Call call(device_, "linear_backward_weight", dy, x);
  int64_t n = dy.dim(-1), k = x.dim(-1), m = dy.numel() / n;
  if (dw) {
    Product p{.m = n,
              .n = k,
              .k = m,
              .a = {dy.raw(), true},
              .b = {x.raw()},
              .input = dy.dtype(),
              .y = dw.tensor.raw(),
              .output = dw.tensor.dtype()};
    if (dw.accumulate) p.addend = p.y;
    libraries_.products->multiply(p);
  }
  if (db) sum_columns(db, dy, 1);
}

// --- convolutions

void CudaKernels::conv2d_forward(Tensor& y,
                                 const Tensor& x,
                                 const Weight& weight,
                                 const Epilogue& e,
                                 const Conv2dArgs& args) {
  Call call(device_, "conv2d_forward", x, weight.shape());
  bool behind = e.per_image || e.activation != Activation::None;
  libraries_.convolutions->forward(y, x, values_of(weight), as_type(e.bias, y.dtype()),
                                   behind ? Tensor() : e.residual, args);
  if (behind) add_epilogue(y, y.dim(-1), {Tensor(), e.per_image, e.residual, e.activation});
}

void CudaKernels::conv2d_backward_input(const GradSlot& dx,
                                        const Tensor& dy,
                                        const Weight& weight,
                                        const Conv2dArgs& args) {
  if (!dx) return;
  Call call(device_, "conv2d_backward_input", dy, weight.shape());
  libraries_.convolutions->backward_input(dx, dy, values_of(weight), args);
}

void CudaKernels::conv2d_backward_weight(const GradSlot& dw,
                                         const GradSlot& db,
                                         const Tensor& dy,
                                         const Tensor& x,
                                         const Conv2dArgs& args) {
  Call call(device_, "conv2d_backward_weight", dy, x);
  if (dw) libraries_.convolutions->backward_weight(dw, dy, x, args);
  if (db) sum_columns(db, dy, 1);
}

// --- attention

FusedAttention& CudaKernels::attention_for(const Tensor& q,
                                           const Tensor& k,
                                           const AttentionArgs& args,
                                           bool gradients) {
  AttentionShape shape(q, k, args);
  for (auto& each : libraries_.attention)
    if (each->takes(shape, gradients)) return *each;
  throw Error(Code::InvalidArgument,
              cat("[cuda] attention: expected heads that a kernel takes (at most 256 wide, a "
                  "multiple of 8 in bfloat16), got ",
                  dtype_name(shape.dtype), " heads of width ", shape.width, in_operation()));
}

void CudaKernels::attention_forward(Tensor& o,
                                    Tensor& lse,
                                    const Tensor& q,
                                    const Tensor& k,
                                    const Tensor& v,
                                    const AttentionArgs& args) {
  Call call(device_, "attention_forward", q, k);
  attention_for(q, k, args, false).forward(o, lse, q, k, v, args);
}

void CudaKernels::attention_backward(const GradSlot& dq,
                                     const GradSlot& dk,
                                     const GradSlot& dv,
                                     const Tensor& d_o,
                                     const Tensor& o,
                                     const Tensor& lse,
                                     const Tensor& q,
                                     const Tensor& k,
                                     const Tensor& v,
                                     const AttentionArgs& args) {
  if (!dq && !dk && !dv) return;
  Call call(device_, "attention_backward", q, k);
  attention_for(q, k, args, true).backward(dq, dk, dv, d_o, o, lse, q, k, v, args);
}

}  // namespace spindle::cuda
