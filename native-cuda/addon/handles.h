// Opaque handles: externals that own a C++ object. Freed by garbage collection, or at once by
// release().
#pragma once
#include <memory>
#include <string>

#include "call.h"
#include "models/aesthetic.h"
#include "models/image_reward.h"
#include "models/loaded.h"
#include "train/trainer.h"

namespace spindle::addon {

struct Handle {
  virtual ~Handle() = default;
  virtual void release() = 0;
};

struct EngineHandle : Handle {
  static constexpr const char* kName = "an engine";
  std::shared_ptr<EngineThread> engine;
  bool live() const { return engine != nullptr; }
  void release() override { engine.reset(); }
};

struct CancelHandle : Handle {
  static constexpr const char* kName = "a cancel handle";
  std::shared_ptr<CancelToken> token = std::make_shared<CancelToken>();
  bool live() const { return token != nullptr; }
  void release() override { token.reset(); }
};

// With the micro-batch that came early.
struct PrefetchingTrainer : Trainer {
  using Trainer::Trainer;
  std::optional<TrainBatch> prefetched;
};

// For errors.
template <class Model>
inline constexpr const char* model_name = nullptr;
template <>
inline constexpr const char* model_name<Unet> = "a U-Net";
template <>
inline constexpr const char* model_name<Vae> = "a VAE";
template <>
inline constexpr const char* model_name<ClipText> = "a CLIP text encoder";
template <>
inline constexpr const char* model_name<Clip> = "a CLIP model";
template <>
inline constexpr const char* model_name<ImageReward> = "an ImageReward model";
template <>
inline constexpr const char* model_name<Aesthetic> = "an aesthetic head";
template <>
inline constexpr const char* model_name<PrefetchingTrainer> = "a trainer";

// A model of one engine; its last reference goes on the engine's thread.
template <class Model>
struct ModelHandle : Handle {
  static constexpr const char* kName = model_name<Model>;
  std::shared_ptr<EngineThread> engine;
  std::shared_ptr<Model> model;

  ~ModelHandle() override { ModelHandle::release(); }
  bool live() const { return model != nullptr; }
  void release() override {
    if (model) engine->dispose(std::move(model));
    model.reset();
    engine.reset();
  }
  // Queues work(model, token) on the model's engine.
  template <class Work, class ToJs>
  Napi::Value call(Napi::Env env, std::shared_ptr<CancelToken> token, Work work, ToJs to_js) {
    return enqueue(
        env, engine, std::move(token),
        [model = model, work = std::move(work)](const CancelToken* t) mutable {
          return work(*model, t);
        },
        std::move(to_js));
  }
};

using UnetHandle = ModelHandle<Unet>;
using VaeHandle = ModelHandle<Vae>;
using ClipTextHandle = ModelHandle<ClipText>;
using ClipHandle = ModelHandle<Clip>;
using ImageRewardHandle = ModelHandle<ImageReward>;
using AestheticHandle = ModelHandle<Aesthetic>;
using TrainerHandle = ModelHandle<PrefetchingTrainer>;

// Marks externals as ours, so that another addon's is refused and not misread.
inline constexpr napi_type_tag kHandleTag = {0x5b1e6f0c2a9d4873, 0x91c7d4e8b3a2065f};

template <class H>
Napi::Value to_js_handle(Napi::Env env, std::unique_ptr<H> handle) {
  auto external = Napi::External<Handle>::New(env, handle.release(),
                                              [](Napi::BasicEnv, Handle* h) { delete h; });
  external.TypeTag(&kHandleTag);
  return external;
}

inline Handle& any_handle(const Napi::Value& value, const char* expected) {
  bool ours = value.IsExternal() && value.As<Napi::External<Handle>>().CheckTypeTag(&kHandleTag);
  require(ours, "[addon] handle: expected ", expected, ", got something else");
  return *value.As<Napi::External<Handle>>().Data();
}

template <class H>
H& handle(const Napi::Value& value) {
  H* h = dynamic_cast<H*>(&any_handle(value, H::kName));
  require(h != nullptr, "[addon] handle: expected ", H::kName, ", got another kind of handle");
  require(h->live(), "[addon] handle: expected ", H::kName, ", got one that was released");
  return *h;
}

// The token of a cancel handle; null for null.
inline std::shared_ptr<CancelToken> cancel_token(const Napi::Value& value) {
  if (value.IsNull() || value.IsUndefined()) return nullptr;
  return handle<CancelHandle>(value).token;
}

}  // namespace spindle::addon
