#include "collective/socket_collective.h"

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "collective/rendezvous.h"
#include "core/flush_subnormals.h"

namespace spindle {

namespace {

enum class Kind : uint32_t { AllReduce = 1, Broadcast, Gather };

// Goes ahead of every operation, so that ranks that are not at the same one find out.
struct Header {
  uint32_t kind;
  uint32_t world_size;
  uint64_t number;
  uint64_t size;  // bytes of a rank's text in Gather, values in the others
};

class SocketCollective final : public Collective {
 public:
  SocketCollective(const RankGroup& group, const CancelToken* cancel)
      : group_(group), sockets_(meet(group, cancel)), thread_([this] { work(); }) {}

  ~SocketCollective() override {
    closing_ = true;
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  int rank() const override { return group_.rank; }
  int world_size() const override { return group_.world_size; }
  double timeout_seconds() const override { return group_.timeout_seconds; }

  void start_all_reduce(const std::vector<FloatRange>& ranges) override {
    start([this, ranges] { all_reduce(ranges); });
  }

  void wait(const CancelToken* cancel) override {
    std::unique_lock lock(mutex_);
    auto idle = [&] { return queue_.empty() && !busy_; };
    while (!changed_.wait_for(lock, std::chrono::milliseconds(50), idle)) {
      if (!cancel || !cancel->cancelled()) continue;
      // The ranges are the caller's again only once the thread has let go of them.
      closing_ = true;
      changed_.wait(lock, idle);
      check_cancelled(cancel);
    }
    if (failure_) std::rethrow_exception(failure_);
  }

  void broadcast(FloatRange range, const CancelToken* cancel) override {
    start([this, range] { send_from_first(range); });
    wait(cancel);
  }

  std::vector<std::string> gather(std::string_view mine, const CancelToken* cancel) override {
    std::vector<std::string> texts;
    start([this, text = std::string(mine), &texts] { texts = gather_texts(text); });
    wait(cancel);
    return texts;
  }

 private:
  void start(std::function<void()> operation) {
    {
      std::lock_guard lock(mutex_);
      if (failure_) std::rethrow_exception(failure_);
      queue_.push_back(std::move(operation));
    }
    changed_.notify_all();
  }

  void work() {
    FlushSubnormals flush;  // sums of ranks, as tasks add
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stop_ || !queue_.empty(); });
      if (stop_) return;
      std::function<void()> operation = std::move(queue_.front());
      queue_.pop_front();
      busy_ = true;
      lock.unlock();
      std::exception_ptr failure;
      try {
        operation();
      } catch (...) {
        failure = std::current_exception();
      }
      operation = nullptr;
      lock.lock();
      busy_ = false;
      if (failure) {
        // Nobody knows where the others are now: the group is over, and they are told by the end of
        // their connections.
        failure_ = failure;
        queue_.clear();
        sockets_.clear();
      }
      changed_.notify_all();
    }
  }

  std::string name(int rank) const { return cat("rank ", rank, " of ", group_.world_size); }
  Patience patience() const { return Patience(group_.timeout_seconds, nullptr, &closing_); }

  template <class F>
  void for_others(F&& f) {
    for (int r = 0; r < group_.world_size; ++r)
      if (r != group_.rank) f(r);
  }

  // Every other rank's size.
  std::vector<uint64_t> agree(Kind kind, uint64_t size) {
    Header mine{uint32_t(kind), uint32_t(group_.world_size), number_++, size};
    std::vector<Header> theirs(size_t(group_.world_size), mine);
    std::vector<Transfer> transfers;
    for_others([&](int r) {
      transfers.push_back({&sockets_[size_t(r)], name(r), reinterpret_cast<const char*>(&mine),
                           sizeof mine, reinterpret_cast<char*>(&theirs[size_t(r)]), sizeof mine});
    });
    exchange(transfers, patience());
    std::vector<uint64_t> sizes(size_t(group_.world_size), size);
    for_others([&](int r) {
      const Header& h = theirs[size_t(r)];
      ensure(h.kind == mine.kind && h.world_size == mine.world_size && h.number == mine.number &&
                 (kind == Kind::Gather || h.size == size),
             "[ranks] ", name(r), ": expected operation ", mine.number, " of kind ", mine.kind,
             " over ", size, " values, got ", h.number, " of kind ", h.kind, " over ", h.size);
      sizes[size_t(r)] = h.size;
    });
    return sizes;
  }

  void all_reduce(const std::vector<FloatRange>& ranges) {
    int64_t count = 0;
    for (const FloatRange& range : ranges) count += range.count;
    agree(Kind::AllReduce, uint64_t(count));
    // One range is summed where it lies; several are gathered first.
    float* values = ranges.size() == 1 ? ranges[0].data : pack(ranges, count);
    int64_t world = group_.world_size;
    auto begin = [&](int64_t r) { return count * r / world; };
    int64_t mine = begin(group_.rank), part = begin(group_.rank + 1) - mine;
    incoming_.resize(size_t(part * world));
    std::vector<Transfer> transfers;
    for_others([&](int r) {
      transfers.push_back(
          {&sockets_[size_t(r)], name(r), reinterpret_cast<const char*>(values + begin(r)),
           size_t(begin(r + 1) - begin(r)) * sizeof(float),
           reinterpret_cast<char*>(incoming_.data() + r * part), size_t(part) * sizeof(float)});
    });
    exchange(transfers, patience());
    std::memcpy(incoming_.data() + group_.rank * part, values + mine, size_t(part) * sizeof(float));
    for (int64_t i = 0; i < part; ++i) {
      double sum = 0;
      for (int64_t r = 0; r < world; ++r) sum += double(incoming_[size_t(r * part + i)]);
      values[mine + i] = float(sum);
    }
    transfers.clear();
    for_others([&](int r) {
      transfers.push_back({&sockets_[size_t(r)], name(r),
                           reinterpret_cast<const char*>(values + mine),
                           size_t(part) * sizeof(float), reinterpret_cast<char*>(values + begin(r)),
                           size_t(begin(r + 1) - begin(r)) * sizeof(float)});
    });
    exchange(transfers, patience());
    if (ranges.size() > 1) unpack(ranges);
  }

  float* pack(const std::vector<FloatRange>& ranges, int64_t count) {
    packed_.resize(size_t(count));
    float* at = packed_.data();
    for (const FloatRange& range : ranges) at = std::copy_n(range.data, range.count, at);
    return packed_.data();
  }

  void unpack(const std::vector<FloatRange>& ranges) {
    const float* at = packed_.data();
    for (const FloatRange& range : ranges) {
      std::copy_n(at, range.count, range.data);
      at += range.count;
    }
  }

  void send_from_first(FloatRange range) {
    agree(Kind::Broadcast, uint64_t(range.count));
    size_t bytes = size_t(range.count) * sizeof(float);
    char* data = reinterpret_cast<char*>(range.data);
    std::vector<Transfer> transfers;
    if (group_.rank == 0)
      for_others([&](int r) { transfers.push_back({&sockets_[size_t(r)], name(r), data, bytes}); });
    else
      transfers.push_back({&sockets_[0], name(0), nullptr, 0, data, bytes});
    exchange(transfers, patience());
  }

  std::vector<std::string> gather_texts(const std::string& mine) {
    std::vector<uint64_t> sizes = agree(Kind::Gather, mine.size());
    std::vector<std::string> texts(size_t(group_.world_size), mine);
    std::vector<Transfer> transfers;
    for_others([&](int r) {
      std::string& text = texts[size_t(r)];
      text.resize(sizes[size_t(r)]);
      transfers.push_back(
          {&sockets_[size_t(r)], name(r), mine.data(), mine.size(), text.data(), text.size()});
    });
    exchange(transfers, patience());
    return texts;
  }

  const RankGroup group_;
  // The thread's own, once it runs.
  std::vector<Socket> sockets_;
  std::vector<float> packed_, incoming_;
  uint64_t number_ = 0;

  std::atomic<bool> closing_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  bool busy_ = false, stop_ = false;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Collective> connect_ranks(const RankGroup& group, const CancelToken* cancel) {
  return std::make_unique<SocketCollective>(group, cancel);
}

}  // namespace spindle
