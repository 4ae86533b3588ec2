// Ranks whose values go through pinned host memory and the host's own connections: where there is
// no NCCL, and on the emulated device.
#include <algorithm>
#include <exception>
#include <mutex>

#include "kernels/cuda/rank_link.h"

namespace spindle::cuda {

namespace {

constexpr int64_t kBroadcastValues = int64_t(8) << 20;  // at once

class StagedLink final : public RankLink {
 public:
  explicit StagedLink(Collective& hosts) : hosts_(hosts) {}
  ~StagedLink() override {
    if (pinned_) pinned_free(pinned_);
  }

  void all_reduce(const std::vector<FloatRange>& ranges, Stream stream) override {
    int64_t count = 0;
    for (const FloatRange& range : ranges) count += range.count;
    through_host(ranges, count, stream, [this, count] {
      hosts_.start_all_reduce({{pinned_, count}});
      hosts_.wait(&aborted_);
    });
  }

  void broadcast(FloatRange range, Stream stream) override {
    for (int64_t first = 0; first < range.count; first += kBroadcastValues) {
      int64_t count = std::min(kBroadcastValues, range.count - first);
      through_host({{range.data + first, count}}, count, stream,
                   [this, count] { hosts_.broadcast({pinned_, count}, &aborted_); });
    }
  }

  void check() override {
    std::lock_guard lock(mutex_);
    if (failure_) std::rethrow_exception(failure_);
  }

  void abort() noexcept override { aborted_.cancel(); }

 private:
  // One buffer serves all: the stream brings its values, exchanges them and takes them away before
  // it comes to the next ones.
  template <class F>
  void through_host(const std::vector<FloatRange>& ranges,
                    int64_t count,
                    Stream stream,
                    F&& exchange) {
    if (count > held_) {
      synchronize(stream);
      if (pinned_) pinned_free(pinned_);
      pinned_ = nullptr;
      pinned_ = static_cast<float*>(pinned_allocate(size_t(count) * sizeof(float)));
      held_ = count;
    }
    auto each = [&](auto&& copy) {
      float* at = pinned_;
      for (const FloatRange& range : ranges) {
        copy(at, range.data, size_t(range.count) * sizeof(float));
        at += range.count;
      }
    };
    each([&](float* host, float* device, size_t bytes) {
      copy_to_host(host, device, bytes, stream);
    });
    call_host([this, exchange] { guarded(exchange); }, stream);
    each([&](float* host, float* device, size_t bytes) {
      copy_to_device(device, host, bytes, stream);
    });
  }

  // After a failure the values mean nothing, and the group is of no use.
  template <class F>
  void guarded(F&& exchange) noexcept {
    {
      std::lock_guard lock(mutex_);
      if (failure_) return;
    }
    try {
      exchange();
    } catch (...) {
      std::lock_guard lock(mutex_);
      failure_ = std::current_exception();
    }
  }

  Collective& hosts_;
  float* pinned_ = nullptr;
  int64_t held_ = 0;
  CancelToken aborted_;
  std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace

std::unique_ptr<RankLink> make_staged_link(Collective& hosts) {
  return std::make_unique<StagedLink>(hosts);
}

}  // namespace spindle::cuda
