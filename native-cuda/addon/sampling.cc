// Drawing latents, and what sampling rests on: the generator and the schedulers.
#include "convert.h"
#include "core/rng.h"
#include "exports.h"
#include "handles.h"
#include "sample/sample.h"
#include "sample/scheduler.h"

namespace spindle::addon {

namespace {

// A SampleRequest as plain data.
struct Request {
  TensorData cond, uncond;
  std::optional<TensorData> cond_pooled, uncond_pooled;
  SampleRequest rest;
};

Request to_request(const Napi::Value& value) {
  Fields fields(value, "request");
  Request request;
  request.cond = fields.tensor("cond", 3);
  request.uncond = fields.tensor("uncond", 3);
  request.cond_pooled = fields.optional_tensor("condPooled", 2);
  request.uncond_pooled = fields.optional_tensor("uncondPooled", 2);
  for (double id : fields.numbers("timeIds")) request.rest.time_ids.push_back(float(id));
  request.rest.seeds = fields.bigints("seeds");
  request.rest.height = fields.integer("height");
  request.rest.width = fields.integer("width");
  request.rest.scheduler_config = fields.string("schedulerConfig");
  request.rest.steps = fields.integer("steps");
  if (std::optional<TensorData> images = fields.optional_tensor("images", 4))
    request.rest.images = std::move(images->values);
  request.rest.strength = fields.number("strength");
  request.rest.guidance_scale = fields.number("guidanceScale");
  request.rest.eta = fields.number("eta");
  request.rest.batch_size = fields.integer("batchSize");
  return request;
}

// One call of the caller's onStep. The function outlives it: messages arrive before the call that
// they belong to settles.
struct Progress : Message {
  Progress(Napi::FunctionReference& on_step, int64_t done, int64_t total)
      : on_step(on_step), done(done), total(total) {}
  void on_node(Napi::Env env) override {
    Napi::HandleScope scope(env);
    try {
      on_step.Call({from_number(env, double(done)), from_number(env, double(total))});
    } catch (const Napi::Error& e) {
      napi_fatal_exception(env, e.Value());  // an uncaught exception, as from any event listener
    }
  }
  Napi::FunctionReference& on_step;
  int64_t done, total;
};

struct Latents {
  TensorData latents;
  std::vector<Phase> phases;
};

Napi::Value sample_call(const Napi::CallbackInfo& info) {
  UnetHandle& unet = handle<UnetHandle>(info[0]);
  std::shared_ptr<Napi::FunctionReference> on_step;
  if (info[3].IsFunction())
    on_step =
        std::make_shared<Napi::FunctionReference>(Napi::Persistent(info[3].As<Napi::Function>()));
  // Raw pointers on the engine's thread; the settling function, which dies on Node's thread, keeps
  // them alive.
  auto work = [request = to_request(info[1]), engine = unet.engine.get(), step = on_step.get()](
                  Unet& u, const CancelToken* cancel) {
    SampleRequest r = request.rest;
    r.cond = request.cond.upload(u.device);
    r.uncond = request.uncond.upload(u.device);
    if (request.cond_pooled) r.cond_pooled = request.cond_pooled->upload(u.device);
    if (request.uncond_pooled) r.uncond_pooled = request.uncond_pooled->upload(u.device);
    SampleProgress progress;
    if (step)
      progress = [engine, step](int64_t done, int64_t total) {
        engine->send(std::make_unique<Progress>(*step, done, total));
      };
    SampleResult result = sample(u, r, cancel, progress);
    return Latents{TensorData::download(u.device, result.latents), std::move(result.phases)};
  };
  auto to_js = [engine = unet.engine, on_step](Napi::Env env, Latents& l) -> Napi::Value {
    return from_fields(
        env, {{"latents", from_tensor(env, l.latents)}, {"phases", from_phases(env, l.phases)}});
  };
  return unet.call(info.Env(), cancel_token(info[2]), std::move(work), std::move(to_js));
}

Napi::Value initial_noise(const Napi::CallbackInfo& info) {
  uint64_t seed = to_uint64(info[0], "seed");
  int64_t count = to_integer(info[1], "count");
  require(count >= 0 && count <= int64_t(1) << 30, "count: expected 0 to 2^30, got ", count);
  return from_floats(info.Env(), TorchGenerator(seed).randn(count));
}

Napi::Value scheduler_timesteps(const Napi::CallbackInfo& info) {
  std::unique_ptr<Scheduler> scheduler = make_scheduler(to_string(info[0], "schedulerConfig"));
  scheduler->set_timesteps(to_integer(info[1], "steps"));
  if (info[2].IsNumber()) scheduler->start_from_image(to_number(info[2], "strength"));
  return from_doubles(info.Env(), scheduler->timesteps());
}

}  // namespace

void export_sampling(Napi::Env env, Napi::Object& exports) {
  add<sample_call>(env, exports, "sample");
  add<initial_noise>(env, exports, "initialNoise");
  add<scheduler_timesteps>(env, exports, "schedulerTimesteps");
}

}  // namespace spindle::addon
