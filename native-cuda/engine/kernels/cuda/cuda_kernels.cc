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

class CudaGraph : public CapturedGraph {
 public:
  CudaGraph(std::unique_ptr<Graph> graph, Stream stream, int device)
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

class StreamEvent : public spindle::Event {
 public:
  explicit StreamEvent(Stream stream) : event_(create_event()) { record(event_, stream); }
  ~StreamEvent() override { destroy_event(event_); }
  void wait() override { synchronize(event_); }

 private:
  cuda::Event event_;
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

std::unique_ptr<spindle::Event> CudaKernels::record_event() {
  bind();
  ensure(!capturing(stream_), "[cuda] an event while capturing");
  return std::make_unique<StreamEvent>(stream_);
}

std::unique_ptr<CapturedGraph> CudaKernels::capture(const std::function<void()>& work) {
  bind();
  scratch_.hold();
  begin_capture(stream_);
  try {
    work();
  } catch (...) {
    abandon_capture(stream_);
    throw;
  }
  return std::make_unique<CudaGraph>(end_capture(stream_), stream_, device_);
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
  run(Cast{.y = rounded, .x = bias});
  return rounded;
}

// --- products

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

// --- convolutions

void CudaKernels::run(const Conv2dForward& op) {
  Call call(device_, op.kName, op.x, op.w.shape());
  bool behind = op.epilogue.per_image || op.epilogue.activation != Activation::None;
  libraries_.convolutions->forward(op.y, op.x, values_of(op.w),
                                   as_type(op.epilogue.bias, op.y.dtype()),
                                   behind ? Tensor() : op.epilogue.residual, op.args);
  if (behind)
    add_epilogue(op.y, op.y.dim(-1),
                 {.per_image = op.epilogue.per_image,
                  .residual = op.epilogue.residual,
                  .activation = op.epilogue.activation});
}

void CudaKernels::run(const Conv2dBackwardInput& op) {
  if (!op.dx) return;
  Call call(device_, op.kName, op.dy, op.w.shape());
  libraries_.convolutions->backward_input(op.dx, op.dy, values_of(op.w), op.args);
}

void CudaKernels::run(const Conv2dBackwardWeight& op) {
  Call call(device_, op.kName, op.dy, op.x);
  if (op.dw) libraries_.convolutions->backward_weight(op.dw, op.dy, op.x, op.args);
  if (op.db) sum_columns(op.db, op.dy, 1);
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

void CudaKernels::run(const AttentionForward& op) {
  Call call(device_, op.kName, op.q, op.k);
  attention_for(op.q, op.k, op.args, false).forward(op);
}

void CudaKernels::run(const AttentionBackward& op) {
  if (!op.dq && !op.dk && !op.dv) return;
  Call call(device_, op.kName, op.q, op.k);
  attention_for(op.q, op.k, op.args, true).backward(op);
}

}  // namespace spindle::cuda
