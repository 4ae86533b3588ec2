// Work that is asked for again and again with the same shapes and the same tensors: done as it is
// the first time, when libraries choose their plans, captured the second time, and replayed from
// then on. On the host's backends it is just done.
#pragma once
#include <map>
#include <string>

#include "autograd/device.h"

namespace spindle {

class GraphedStep {
 public:
  explicit GraphedStep(Device& device) : device_(device), pool_(device.memory().blocks()) {}
  ~GraphedStep() { reset(); }
  GraphedStep(const GraphedStep&) = delete;

  // `work` may not read device memory, and everything that it reads from or leaves to outside lies
  // in tensors that stay. Tensors that it makes come from a pool that only this work uses. Works of
  // different keys are done one after another, never mixed. Returns false when it was replayed:
  // nothing was called then.
  template <class F>
  bool run(const std::string& key, F&& work) {
    if (device_.host_visible()) {
      work();
      return true;
    }
    Known& known = known_[key];
    if (known.captured) {
      known.captured->launch();
      return false;
    }
    PoolScope scope(device_, pool_);
    if (known.runs++ > 0) {
      pool_.hold();
      known.captured = device_.memory().capture(work);
    }
    if (known.captured)
      known.captured->launch();
    else
      work();
    return true;
  }

  // Work that is not to be captured, with the memory of that which is.
  template <class F>
  void eager(F&& work) {
    if (device_.host_visible()) return work();
    PoolScope scope(device_, pool_);
    work();
  }

  // Where shapes or tensors changed: the next runs begin anew.
  void reset() {
    if (known_.empty()) return;
    device_.memory().finish();
    known_.clear();
    pool_.hold(false);
    pool_.trim();
  }

 private:
  struct Known {
    int64_t runs = 0;
    std::unique_ptr<CapturedGraph> captured;
  };
  Device& device_;
  BufferPool pool_;
  std::map<std::string, Known> known_;
};

}  // namespace spindle
