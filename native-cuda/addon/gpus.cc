// What GPUs this machine has and what the CUDA backend runs with. Needs no engine.
#include "convert.h"
#include "exports.h"
#include "kernels/gpu_report.h"

namespace spindle::addon {

namespace {

Napi::Value gpus(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const GpuReport report = read_gpus();
  const CudaBackendReport backend = read_cuda_backend();
  Napi::Array devices = Napi::Array::New(env), libraries = Napi::Array::New(env);
  for (const GpuDevice& gpu : report.devices)
    devices.Set(
        devices.Length(),
        from_fields(
            env, {{"index", from_number(env, gpu.index)},
                  {"name", from_string(env, gpu.name)},
                  {"computeCapability", from_string(env, cat(gpu.major, ".", gpu.minor))},
                  {"multiprocessors", from_number(env, gpu.multiprocessors)},
                  {"totalBytes", from_number(env, double(gpu.total_bytes))},
                  {"freeBytes",
                   gpu.free_bytes < 0 ? env.Null() : from_number(env, double(gpu.free_bytes))}}));
  for (const CudaBackendReport::Library& library : backend.libraries)
    libraries.Set(libraries.Length(),
                  from_fields(env, {{"name", from_string(env, library.name)},
                                    {"version", from_string(env, library.version)}}));
  auto text_or_null = [&](const std::string& text) -> Napi::Value {
    return text.empty() ? env.Null() : from_string(env, text);
  };
  return from_fields(
      env,
      {{"problem", text_or_null(report.problem)},
       {"driver", text_or_null(report.driver)},
       {"cuda", report.cuda > 0 ? from_string(env, cuda_version_text(report.cuda)) : env.Null()},
       {"devices", devices},
       {"backend", from_fields(env, {{"problem", text_or_null(backend.problem)},
                                     {"path", from_string(env, backend.path)},
                                     {"libraries", libraries}})}});
}

}  // namespace

void export_gpus(Napi::Env env, Napi::Object& exports) { add<gpus>(env, exports, "gpus"); }

}  // namespace spindle::addon
