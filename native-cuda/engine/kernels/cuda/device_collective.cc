#include "kernels/cuda/device_collective.h"

#include <chrono>
#include <thread>
#include <utility>

#include "core/error.h"

namespace spindle::cuda {

namespace {

class DeviceCollective final : public Collective {
 public:
  DeviceCollective(std::unique_ptr<Collective> hosts,
                   std::unique_ptr<RankLink> link,
                   Stream compute)
      : hosts_(std::move(hosts)), link_(std::move(link)), compute_(compute) {
    stream_ = create_stream();
    try {
      event_ = create_event();
    } catch (...) {
      destroy_stream(stream_);
      throw;
    }
  }
  ~DeviceCollective() override {
    break_off();
    destroy_event(event_);
    destroy_stream(stream_);
  }

  int rank() const override { return hosts_->rank(); }
  int world_size() const override { return hosts_->world_size(); }
  double timeout_seconds() const override { return hosts_->timeout_seconds(); }

  void start_all_reduce(const std::vector<FloatRange>& ranges) override {
    follow_compute();
    link_->all_reduce(ranges, stream_);
  }

  void broadcast(FloatRange range, const CancelToken* cancel) override {
    follow_compute();
    link_->broadcast(range, stream_);
    wait(cancel);
  }

  void wait(const CancelToken* cancel) override {
    expect_group();
    try {
      record(event_, stream_);
      auto start = std::chrono::steady_clock::now();
      while (!reached(event_)) {
        check_cancelled(cancel);
        link_->check();
        if (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() >
            timeout_seconds())
          throw Error(Code::Unavailable,
                      cat("[ranks] ", name(), ": expected the others' values within ",
                          timeout_seconds(), " s, got none"));
        std::this_thread::yield();
      }
      link_->check();
      cuda::wait(compute_, event_);
    } catch (...) {
      break_off();
      throw;
    }
  }

  std::vector<std::string> gather(std::string_view mine, const CancelToken* cancel) override {
    return hosts_->gather(mine, cancel);
  }

 private:
  std::string name() const { return cat("rank ", rank(), " of ", world_size()); }

  void expect_group() const {
    if (!link_)
      throw Error(Code::Unavailable,
                  cat("[ranks] ", name(), ": expected a group, got one that was broken off"));
  }

  void follow_compute() {
    expect_group();
    link_->check();
    record(event_, compute_);
    cuda::wait(stream_, event_);
  }

  void break_off() noexcept {
    if (!link_) return;
    link_->abort();
    try {
      synchronize(stream_);
    } catch (const Error&) {
      // what went wrong is being thrown already
    }
    link_.reset();
  }

  std::unique_ptr<Collective> hosts_;
  std::unique_ptr<RankLink> link_;  // null once the group was broken off
  Stream compute_, stream_ = nullptr;
  Event event_ = nullptr;
};

}  // namespace

std::unique_ptr<Collective> make_device_collective(std::unique_ptr<Collective> hosts,
                                                   std::unique_ptr<RankLink> link,
                                                   Stream compute) {
  return std::make_unique<DeviceCollective>(std::move(hosts), std::move(link), compute);
}

}  // namespace spindle::cuda
