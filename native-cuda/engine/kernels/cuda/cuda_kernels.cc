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

}  // namespace spindle::cuda
