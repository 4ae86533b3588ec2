// A promise for something that is computed on the engine's thread.
#pragma once
#include <optional>
#include <utility>

#include "engine_thread.h"
#include "errors.h"

namespace spindle::addon {

// What a call without a result returns.
struct Nothing {};
inline Napi::Value nothing_to_js(Napi::Env env, Nothing&) { return env.Undefined(); }

// `Work` is called with the token on the engine's thread and returns plain data; `ToJs` makes a
// value of it on Node's.
template <class Work, class ToJs>
class Call final : public Job {
 public:
  Call(Napi::Env env,
       std::shared_ptr<EngineThread> engine,
       const std::shared_ptr<CancelToken>& cancel,
       Work work,
       ToJs to_js)
      : deferred_(env),
        engine_(std::move(engine)),
        work_(std::move(work)),
        to_js_(std::move(to_js)) {
    token = cancel;
  }
  Napi::Value promise() const { return deferred_.Promise(); }

  void on_engine() noexcept override {
    try {
      check_cancelled(token.get());
      result_.emplace((*work_)(token.get()));
    } catch (...) {
      failure_ = current_failure();
    }
    work_.reset();
  }
  void drop() noexcept override { work_.reset(); }

  void on_node(Napi::Env env) override {
    try {
      if (failure_)
        deferred_.Reject(to_js_error(env, *failure_).Value());
      else
        deferred_.Resolve(to_js_(env, *result_));
    } catch (const Napi::Error& e) {
      deferred_.Reject(e.Value());
    }
    engine_->finished(env);
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::shared_ptr<EngineThread> engine_;
  std::optional<Work> work_;
  ToJs to_js_;
  std::optional<std::invoke_result_t<Work&, const CancelToken*>> result_;
  std::optional<Failure> failure_;
};

// Without a token of the caller's, the call gets one of its own: shutting down cancels it.
template <class Work, class ToJs>
Napi::Value enqueue(Napi::Env env,
                    const std::shared_ptr<EngineThread>& engine,
                    std::shared_ptr<CancelToken> token,
                    Work work,
                    ToJs to_js) {
  if (!token) token = std::make_shared<CancelToken>();
  auto call = std::make_unique<Call<Work, ToJs>>(env, engine, std::move(token), std::move(work),
                                                 std::move(to_js));
  Napi::Value promise = call->promise();
  engine->enqueue(env, std::move(call));
  return promise;
}

}  // namespace spindle::addon
