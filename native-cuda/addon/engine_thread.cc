#include "engine_thread.h"

#include "core/flush_subnormals.h"

namespace spindle::addon {

void EngineThread::on_exit(void* self) { static_cast<EngineThread*>(self)->shutdown(); }

EngineThread::EngineThread(Napi::Env env, const DeviceOptions& options)
    : device_(options), env_(env) {
  to_node_ = ToNode::New(env, "spindle engine", 0, 1);
  to_node_.Unref(env);
  // Hooks run last in, first out: ours comes before the function's own, so that the thread is gone
  // when the function goes.
  napi_add_env_cleanup_hook(env_, on_exit, this);
  thread_ = std::thread([this] { work(); });
}

EngineThread::~EngineThread() {
  if (!down_) napi_remove_env_cleanup_hook(env_, on_exit, this);
  shutdown();
}

void EngineThread::deliver(Napi::Env env, Napi::Function, Loop*, Message* message) {
  std::unique_ptr<Message> owned(message);
  if (env != nullptr) owned->on_node(env);  // null while Node shuts down
}

void EngineThread::enqueue(Napi::Env env, std::unique_ptr<Job> job) {
  if (in_flight_++ == 0) to_node_.Ref(env);
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
  }
  wake_.notify_one();
}

void EngineThread::finished(Napi::Env env) {
  if (--in_flight_ == 0) to_node_.Unref(env);
}

void EngineThread::dispose(std::shared_ptr<void> model) {
  if (down_) return;  // no thread is left to race with
  {
    std::lock_guard lock(mutex_);
    disposed_.push_back(std::move(model));
  }
  wake_.notify_one();
}

void EngineThread::send(std::unique_ptr<Message> message) {
  // Node has it from then on.
  if (to_node_.NonBlockingCall(message.get()) == napi_ok) static_cast<void>(message.release());
}

void EngineThread::work() {
  FlushSubnormals flush;  // also between the pool's runs
  for (;;) {
    std::unique_ptr<Job> job;
    std::vector<std::shared_ptr<void>> disposed;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || !queue_.empty() || !disposed_.empty(); });
      disposed.swap(disposed_);
      if (!stop_ && !queue_.empty()) {
        job = std::move(queue_.front());
        queue_.pop_front();
        running_ = job->token;
      } else if (stop_ && disposed.empty()) {
        for (auto& waiting : queue_) waiting->drop();
        return;
      }
    }
    if (!disposed.empty()) {
      disposed.clear();
      device_.pool().trim();
    }
    if (!job) continue;
    job->on_engine();
    {
      std::lock_guard lock(mutex_);
      running_.reset();
    }
    send(std::move(job));
  }
}

void EngineThread::shutdown() {
  if (down_) return;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    if (running_) running_->cancel();
  }
  wake_.notify_one();
  thread_.join();
  to_node_.Release();
  down_ = true;
  queue_.clear();
}

}  // namespace spindle::addon
