// A fixed set of threads that run numbered tasks. What a task computes depends on its number alone,
// never on the thread that runs it or on how many there are: so results do not depend on the number
// of threads. Subnormal numbers are zero within every task, the caller's share included.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "core/flush_subnormals.h"

namespace spindle {

class ThreadPool {
 public:
  // `threads` includes the calling one; 0 means all processors that this process may use.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return int(workers_.size()) + 1; }
  // Runs task(i, thread) for i in [0, count); returns when all are done. The first exception is
  // thrown again here.
  template <class F>
  void run(int64_t count, F&& task) {
    if (count <= 0) return;
    FlushSubnormals flush;
    if (count == 1 || workers_.empty()) {
      for (int64_t i = 0; i < count; ++i) task(i, 0);
      return;
    }
    using Fn = std::remove_reference_t<F>;
    run_erased(
        count, [](void* f, int64_t i, int thread) { (*static_cast<Fn*>(f))(i, thread); },
        const_cast<void*>(static_cast<const void*>(&task)));
  }

  static int available_processors();

 private:
  using Invoke = void (*)(void*, int64_t, int);
  void run_erased(int64_t count, Invoke invoke, void* task);
  void work(int thread);
  void drain(int thread);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> busy_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<bool> stop_{false};
  int64_t count_ = 0;
  Invoke invoke_ = nullptr;
  void* task_ = nullptr;
  std::exception_ptr failure_;
};

}  // namespace spindle
