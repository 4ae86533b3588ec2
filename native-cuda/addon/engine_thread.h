// One device and the thread that computes on it. Calls wait in a queue; what they give is handed
// back to Node's event loop.
//
// Rule of the house: models and tensors live and die on the engine's thread, JavaScript values on
// Node's. An EngineThread is owned by handles and by calls in flight, so its last owner goes on
// Node's thread, when the queue is empty.
#pragma once
#include <napi.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "autograd/device.h"
#include "core/cancel.h"

namespace spindle::addon {

// Something for Node's thread.
struct Message {
  virtual ~Message() = default;
  virtual void on_node(Napi::Env env) = 0;
};

// A call: computed on the engine's thread, settled on Node's.
struct Job : Message {
  virtual void on_engine() noexcept = 0;
  // Lets go, unrun, of what must die on the engine's thread.
  virtual void drop() noexcept = 0;
  std::shared_ptr<CancelToken> token;
};

class EngineThread {
 public:
  EngineThread(Napi::Env env, const DeviceOptions& options);
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  Device& device() { return device_; }

  // On Node's thread. While calls are in flight the process does not end by itself.
  void enqueue(Napi::Env env, std::unique_ptr<Job> job);
  void finished(Napi::Env env);
  // The last reference to a model, to be dropped where it was made.
  void dispose(std::shared_ptr<void> model);
  // On the engine's thread.
  void send(std::unique_ptr<Message> message);

 private:
  struct Loop {};
  static void deliver(Napi::Env env, Napi::Function, Loop*, Message* message);
  using ToNode = Napi::TypedThreadSafeFunction<Loop, Message, deliver>;

  static void on_exit(void* self);
  void work();
  // Cancels what is in flight and joins. Also called when Node shuts down with calls in flight.
  void shutdown();

  Device device_;
  napi_env env_;
  ToNode to_node_;
  int64_t in_flight_ = 0;  // Node's thread only
  bool down_ = false;      // Node's thread only

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Job>> queue_;
  std::vector<std::shared_ptr<void>> disposed_;
  std::shared_ptr<CancelToken> running_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace spindle::addon
