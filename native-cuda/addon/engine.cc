// The engine itself, its handles, and what is asked of it besides models: what it is, parity,
// speed, and a look at model files.
#include <fstream>

#include "bench/bench.h"
#include "bench/profile.h"
#include "convert.h"
#include "core/version.h"
#include "exports.h"
#include "handles.h"
#include "kernels/cuda_loader.h"

namespace spindle::addon {

namespace {

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name"))
      return line.substr(std::min(line.size(), line.find(':') + 2));
  return "unknown";
}

Napi::Value create_engine(const Napi::CallbackInfo& info) {
  Fields fields(info[0], "options");
  DeviceOptions options;
  options.backend = fields.string("backend");
  options.threads = int(fields.integer("threads"));
  options.isa = fields.string("isa");
  require(options.threads >= 0 && options.threads <= 1024,
          "options.threads: expected 0 to 1024, got ", options.threads);
  auto made = std::make_unique<EngineHandle>();
  made->engine = std::make_shared<EngineThread>(info.Env(), options);
  return to_js_handle(info.Env(), std::move(made));
}

Napi::Value engine_info(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  EngineHandle& engine = handle<EngineHandle>(info[0]);
  Device& device = engine.engine->device();
  Napi::Array backends = Napi::Array::New(env);
  backends.Set(0u, "cpu");
  backends.Set(1u, "reference");
  if (why_no_cuda().empty()) backends.Set(2u, "cuda");
  return from_fields(env, {{"version", from_string(env, kVersion)},
                           {"backend", from_string(env, device.backend())},
                           {"isa", from_string(env, device.isa())},
                           {"threads", from_number(env, device.threads().threads())},
                           {"cpu", from_string(env, cpu_name())},
                           {"backends", backends}});
}

Napi::Value create_cancel(const Napi::CallbackInfo& info) {
  return to_js_handle(info.Env(), std::make_unique<CancelHandle>());
}

Napi::Value cancel(const Napi::CallbackInfo& info) {
  handle<CancelHandle>(info[0]).token->cancel();
  return info.Env().Undefined();
}

Napi::Value release(const Napi::CallbackInfo& info) {
  any_handle(info[0], "a handle").release();
  return info.Env().Undefined();
}

Napi::Value parity_call(const Napi::CallbackInfo& info) {
  std::shared_ptr<EngineThread> engine = handle<EngineHandle>(info[0]).engine;
  return enqueue(
      info.Env(), engine, nullptr,
      [device = &engine->device(), directory = to_string(info[1], "directory"),
       precision = to_precision(info[2], "precision")](const CancelToken*) {
        return run_parity(directory, *device, precision);
      },
      [](Napi::Env env, std::vector<ParityLine>& lines) { return from_parity(env, lines); });
}

Napi::Value measure_precision_call(const Napi::CallbackInfo& info) {
  std::shared_ptr<EngineThread> engine = handle<EngineHandle>(info[0]).engine;
  return enqueue(
      info.Env(), engine, nullptr,
      [device = &engine->device()](const CancelToken*) { return measure_precision(*device); },
      [](Napi::Env env, PrecisionTimes& t) -> Napi::Value {
        return from_fields(env, {{"float32", from_number(env, t.float32)},
                                 {"bfloat16", from_number(env, t.bfloat16)}});
      });
}

Napi::Value bench_call(const Napi::CallbackInfo& info) {
  std::shared_ptr<EngineThread> engine = handle<EngineHandle>(info[0]).engine;
  Fields fields(info[1], "options");
  BenchOptions options{fields.string("task"),
                       fields.string("model"),
                       to_precision(fields.value("precision"), fields.at("precision")),
                       fields.integer("batch"),
                       fields.integer("steps"),
                       fields.integer("repeat"),
                       fields.integer("warmup"),
                       to_boolean(fields.value("checkpointing"), fields.at("checkpointing")),
                       to_boolean(fields.value("profile"), fields.at("profile"))};
  return enqueue(
      info.Env(), engine, nullptr,
      [device = &engine->device(), options = std::move(options)](const CancelToken*) {
        return run_bench(*device, options);
      },
      [](Napi::Env env, Json& result) -> Napi::Value {
        const Json* profile = result.find("profile");
        return from_fields(env,
                           {{"values", from_json(env, result)},
                            {"tables", from_string(env, profile ? profile_text(*profile) : "")}});
      });
}

// Headers only, so it may run on Node's thread, on a device of its own.
Napi::Value inspect(const Napi::CallbackInfo& info) {
  Device device({.backend = "reference", .threads = 1});
  int64_t parameters =
      inspect_model(device, to_string(info[0], "kind"), to_source(info[1], "source"));
  return from_fields(info.Env(), {{"parameters", from_number(info.Env(), double(parameters))}});
}

}  // namespace

void export_engine(Napi::Env env, Napi::Object& exports) {
  add<create_engine>(env, exports, "createEngine");
  add<engine_info>(env, exports, "engineInfo");
  add<create_cancel>(env, exports, "createCancel");
  add<cancel>(env, exports, "cancel");
  add<release>(env, exports, "release");
  add<parity_call>(env, exports, "parity");
  add<measure_precision_call>(env, exports, "measurePrecision");
  add<bench_call>(env, exports, "bench");
  add<inspect>(env, exports, "inspectModel");
}

}  // namespace spindle::addon
