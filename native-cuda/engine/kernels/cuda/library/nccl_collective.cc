#include "kernels/cuda/nccl_collective.h"

#include "core/error.h"

#if defined(SPINDLE_NCCL)
#include <nccl.h>

#include <chrono>
#include <thread>
#include <utility>

#include "kernels/cuda/library/check.h"

// `what` is an expression for the sizes; it is only evaluated after a failure.
#define SPINDLE_NCCL_CALL(expression, what)                                                                                                                                       \
  do {                                                                                                                                                                            \
    if (const ncclResult_t status_ = (expression); status_ != ncclSuccess && status_ != ncclInProgress) ::spindle::cuda::library_failed("NCCL", #expression, ncclGetErrorString(status_), what); \
  } while (0)

namespace spindle::cuda {

namespace {

class NcclCollective final : public Collective {
 public:
  NcclCollective(std::unique_ptr<Collective> hosts, cudaStream_t compute) : hosts_(std::move(hosts)), compute_(compute) {
    try {
      connect();
    } catch (...) {
      close();
      throw;
    }
  }
  ~NcclCollective() override { close(); }

  int rank() const override { return hosts_->rank(); }
  int world_size() const override { return hosts_->world_size(); }
  double timeout_seconds() const override { return hosts_->timeout_seconds(); }

  void start_all_reduce(const std::vector<FloatRange>& ranges) override {
    follow_compute();
    SPINDLE_NCCL_CALL(ncclGroupStart(), name());
    for (const FloatRange& r : ranges) SPINDLE_NCCL_CALL(ncclAllReduce(r.data, r.data, size_t(r.count), ncclFloat32, ncclSum, comm_, stream_), cat(name(), ", ", r.count, " values"));
    SPINDLE_NCCL_CALL(ncclGroupEnd(), name());
    settle();
  }

  void wait(const CancelToken* cancel) override {
    SPINDLE_CUDA_CALL(cudaEventRecord(event_, stream_), name());
    // A rank that is gone would keep the GPU waiting for ever: the host looks on, and breaks it off.
    auto start = std::chrono::steady_clock::now();
    for (;;) {
      cudaError_t state = cudaEventQuery(event_);
      if (state == cudaSuccess) break;
      if (state != cudaErrorNotReady) SPINDLE_CUDA_CALL(state, name());
      ncclResult_t failure = ncclSuccess;
      SPINDLE_NCCL_CALL(ncclCommGetAsyncError(comm_, &failure), name());
      bool late = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > timeout_seconds();
      bool failed = failure != ncclSuccess && failure != ncclInProgress;
      if (failed || late || (cancel && cancel->cancelled())) {
        close();
        check_cancelled(cancel);
        throw Error(Code::Unavailable, late && !failed ? cat("[ranks] ", name(), ": expected the others' gradients within ", timeout_seconds(), " s, got none") : cat("[ranks] ", name(), ": NCCL lost another rank: ", ncclGetErrorString(failure)));
      }
      std::this_thread::yield();
    }
    SPINDLE_CUDA_CALL(cudaStreamWaitEvent(compute_, event_, 0), name());
  }

  void broadcast(FloatRange range, const CancelToken* cancel) override {
    follow_compute();
    SPINDLE_NCCL_CALL(ncclBroadcast(range.data, range.data, size_t(range.count), ncclFloat32, 0, comm_, stream_), cat(name(), ", ", range.count, " values"));
    settle();
    wait(cancel);
  }

  std::vector<std::string> gather(std::string_view mine, const CancelToken* cancel) override { return hosts_->gather(mine, cancel); }

 private:
  std::string name() const { return cat("rank ", rank(), " of ", world_size()); }

  void connect() {
    ncclUniqueId id{};
    if (rank() == 0) SPINDLE_NCCL_CALL(ncclGetUniqueId(&id), name());
    std::string first = hosts_->gather(rank() == 0 ? std::string_view(id.internal, sizeof id.internal) : std::string_view(), nullptr)[0];
    ensure(first.size() == sizeof id.internal, "[ranks] NCCL's id: expected ", sizeof id.internal, " bytes, got ", first.size());
    std::copy(first.begin(), first.end(), id.internal);
    // Calls return at once, so that a rank that does not come can be given up.
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    SPINDLE_NCCL_CALL(ncclCommInitRankConfig(&comm_, world_size(), id, rank(), &config), name());
    settle();
    SPINDLE_CUDA_CALL(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), name());
    SPINDLE_CUDA_CALL(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), name());
  }

  // Calls that do not block are under way until NCCL says how they went.
  void settle() {
    auto start = std::chrono::steady_clock::now();
    for (;;) {
      ncclResult_t state = ncclSuccess;
      SPINDLE_NCCL_CALL(ncclCommGetAsyncError(comm_, &state), name());
      SPINDLE_NCCL_CALL(state, name());
      if (state != ncclInProgress) return;
      if (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > timeout_seconds())
        throw Error(Code::Unavailable, cat("[ranks] ", name(), ": expected NCCL to reach the others within ", timeout_seconds(), " s"));
      std::this_thread::yield();
    }
  }

  void follow_compute() {
    if (comm_ == nullptr) throw Error(Code::Unavailable, cat("[ranks] ", name(), ": expected a group, got one that was broken off"));
    SPINDLE_CUDA_CALL(cudaEventRecord(event_, compute_), name());
    SPINDLE_CUDA_CALL(cudaStreamWaitEvent(stream_, event_, 0), name());
  }

  void close() noexcept {
    // Aborting also ends kernels that wait for a rank that is gone.
    if (comm_) ncclCommAbort(std::exchange(comm_, nullptr));
    if (stream_) {
      cudaStreamSynchronize(stream_);
      cudaStreamDestroy(std::exchange(stream_, nullptr));
    }
    if (event_) cudaEventDestroy(std::exchange(event_, nullptr));
  }

  std::unique_ptr<Collective> hosts_;
  cudaStream_t compute_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t event_ = nullptr;
};

}  // namespace

std::unique_ptr<Collective> make_nccl_collective(std::unique_ptr<Collective> hosts, CUstream_st* compute) { return std::make_unique<NcclCollective>(std::move(hosts), compute); }

}  // namespace spindle::cuda

#else

namespace spindle::cuda {

std::unique_ptr<Collective> make_nccl_collective(std::unique_ptr<Collective>, CUstream_st*) {
  throw Error(Code::InvalidArgument, "[ranks] backend cuda: expected a build with NCCL for several ranks, got one without (docs/CUDA.md)");
}

}  // namespace spindle::cuda

#endif
