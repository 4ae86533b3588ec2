// Ranks over NCCL, one GPU each.
#include "core/error.h"
#include "kernels/cuda/rank_link.h"

#if defined(SPINDLE_NCCL)
#include <nccl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "kernels/cuda/library/check.h"

// `what` is an expression for the sizes; it is only evaluated after a failure.
#define SPINDLE_NCCL_CALL(expression, what)                                                    \
  do {                                                                                         \
    if (const ncclResult_t status_ = (expression);                                             \
        status_ != ncclSuccess && status_ != ncclInProgress)                                   \
      ::spindle::cuda::library_failed("NCCL", #expression, ncclGetErrorString(status_), what); \
  } while (0)

namespace spindle::cuda {

namespace {

// NCCL chooses the order of a sum by the number of ranks, the machine and the size: the same from
// run to run on one machine, but a bucket of another size may round differently.
class NcclLink final : public RankLink {
 public:
  explicit NcclLink(Collective& hosts) : hosts_(hosts) {
    try {
      connect();
    } catch (...) {
      abort();
      throw;
    }
  }
  ~NcclLink() override { abort(); }

  void all_reduce(const std::vector<FloatRange>& ranges, Stream stream) override {
    SPINDLE_NCCL_CALL(ncclGroupStart(), name());
    for (const FloatRange& r : ranges)
      SPINDLE_NCCL_CALL(
          ncclAllReduce(r.data, r.data, size_t(r.count), ncclFloat32, ncclSum, comm_, stream),
          cat(name(), ", ", r.count, " values"));
    SPINDLE_NCCL_CALL(ncclGroupEnd(), name());
    settle();
  }

  void broadcast(FloatRange range, Stream stream) override {
    SPINDLE_NCCL_CALL(
        ncclBroadcast(range.data, range.data, size_t(range.count), ncclFloat32, 0, comm_, stream),
        cat(name(), ", ", range.count, " values"));
    settle();
  }

  void check() override {
    ncclResult_t state = ncclSuccess;
    SPINDLE_NCCL_CALL(ncclCommGetAsyncError(comm_, &state), name());
    if (state != ncclSuccess && state != ncclInProgress)
      throw Error(Code::Unavailable,
                  cat("[ranks] ", name(), ": NCCL lost another rank: ", ncclGetErrorString(state)));
  }

  // Also ends kernels that wait for a rank that is gone.
  void abort() noexcept override {
    if (comm_) ncclCommAbort(std::exchange(comm_, nullptr));
  }

 private:
  std::string name() const { return cat("rank ", hosts_.rank(), " of ", hosts_.world_size()); }

  // The machine and the GPU in it. NCCL's own words for two ranks on one GPU do not say which.
  void expect_own_gpu() {
    char host[256] = {}, bus[32] = {};
    gethostname(host, sizeof host - 1);
    int device = 0;
    SPINDLE_CUDA_CALL(cudaGetDevice(&device), name());
    SPINDLE_CUDA_CALL(cudaDeviceGetPCIBusId(bus, sizeof bus, device), name());
    const std::vector<std::string> all = hosts_.gather(cat(host, " ", bus), nullptr);
    const std::string& mine = all[size_t(hosts_.rank())];
    for (size_t r = 0; r < all.size(); ++r)
      require(int(r) == hosts_.rank() || all[r] != mine, "[ranks] ", name(),
              ": expected a GPU of its own, got that of rank ", r, " (", mine,
              "): SPINDLE_BACKEND=cuda:N or CUDA_VISIBLE_DEVICES gives each rank another");
  }

  void connect() {
    expect_own_gpu();
    ncclUniqueId id{};
    if (hosts_.rank() == 0) SPINDLE_NCCL_CALL(ncclGetUniqueId(&id), name());
    std::string first = hosts_.gather(
        hosts_.rank() == 0 ? std::string_view(id.internal, sizeof id.internal) : std::string_view(),
        nullptr)[0];
    ensure(first.size() == sizeof id.internal, "[ranks] NCCL's id: expected ", sizeof id.internal,
           " bytes, got ", first.size());
    std::copy(first.begin(), first.end(), id.internal);
    // Calls return at once, so that a rank that does not come can be given up.
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    SPINDLE_NCCL_CALL(
        ncclCommInitRankConfig(&comm_, hosts_.world_size(), id, hosts_.rank(), &config), name());
    settle();
  }

  // Calls that do not block are under way until NCCL says how they went.
  void settle() {
    auto start = std::chrono::steady_clock::now();
    for (;;) {
      ncclResult_t state = ncclSuccess;
      SPINDLE_NCCL_CALL(ncclCommGetAsyncError(comm_, &state), name());
      if (state == ncclSuccess) return;
      if (state != ncclInProgress)
        throw Error(Code::Unavailable,
                    cat("[ranks] ", name(), ": NCCL cannot go on: ", ncclGetErrorString(state)));
      if (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() >
          hosts_.timeout_seconds())
        throw Error(Code::Unavailable,
                    cat("[ranks] ", name(), ": expected NCCL to reach the others within ",
                        hosts_.timeout_seconds(), " s"));
      std::this_thread::yield();
    }
  }

  Collective& hosts_;
  ncclComm_t comm_ = nullptr;
};

}  // namespace

std::unique_ptr<RankLink> make_nccl_link(Collective& hosts) {
  return std::make_unique<NcclLink>(hosts);
}

}  // namespace spindle::cuda

#else

namespace spindle::cuda {

std::unique_ptr<RankLink> make_nccl_link(Collective&) { return nullptr; }

}  // namespace spindle::cuda

#endif
