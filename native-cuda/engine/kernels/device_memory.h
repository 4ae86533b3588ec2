// The memory that a backend's tensors lie in, and the order of the work on it. The host may not
// touch it unless host_visible(): upload() and download() go between.
#pragma once
#include <functional>
#include <memory>

#include "collective/collective.h"
#include "core/pool.h"
#include "core/tensor.h"

namespace spindle {

// Work that was captured, to be done again.
class CapturedGraph {
 public:
  virtual ~CapturedGraph() = default;
  virtual void launch() = 0;
};

// A point in the order of a backend's work.
class Event {
 public:
  virtual ~Event() = default;
  virtual void wait() = 0;  // until all that was asked for before it is done
};

class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  // Where pools get their blocks from.
  virtual std::shared_ptr<BlockSource> blocks() { return host_blocks(); }
  virtual bool host_visible() const { return true; }
  // All of y's bytes; `host` may change once this returns.
  virtual void upload(const Tensor& y, const void* host) = 0;
  // All of x's bytes, once all work before is done.
  virtual void download(void* host, const Tensor& x) = 0;
  virtual void copy(const Tensor& y, const Tensor& x) = 0;
  virtual void clear(const Tensor& y) = 0;  // zeros
  // Waits until all that was asked for is done.
  virtual void finish() {}
  // Here; null where calls return when their work is done.
  virtual std::unique_ptr<Event> record_event() { return nullptr; }
  // Captures what `work` asks for, without doing it, and gives it as one. Tensors that it takes
  // must stay; it may not download. Null where a backend does not capture: nothing was called then.
  virtual std::unique_ptr<CapturedGraph> capture(const std::function<void()>& /*work*/) {
    return nullptr;
  }
  // What connects ranks over this memory, from what connects them over the host's. To be used by
  // the thread that computes.
  virtual std::unique_ptr<Collective> connect_memory(std::unique_ptr<Collective> hosts) {
    return hosts;
  }
};

}  // namespace spindle
