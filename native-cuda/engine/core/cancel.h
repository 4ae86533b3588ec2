// A flag that long calls read between steps.
#pragma once
#include <atomic>

#include "core/error.h"

namespace spindle {

class CancelToken {
 public:
  void cancel() { flag_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return flag_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> flag_{false};
};

inline void check_cancelled(const CancelToken* token) {
  if (token && token->cancelled()) throw Error(Code::Cancelled, "the call was cancelled");
}

}  // namespace spindle
