// What each file adds to the module; together they are the interface NativeAddon of ts/native.ts.
#pragma once
#include "errors.h"

namespace spindle::addon {

template <Napi::Value (*Function)(const Napi::CallbackInfo&)>
void add(Napi::Env env, Napi::Object& exports, const char* name) {
  exports.Set(name, Napi::Function::New(env, guarded<Function>, name));
}

void export_engine(Napi::Env env, Napi::Object& exports);
void export_models(Napi::Env env, Napi::Object& exports);
void export_sampling(Napi::Env env, Napi::Object& exports);
void export_training(Napi::Env env, Napi::Object& exports);
void export_images(Napi::Env env, Napi::Object& exports);
void export_gpus(Napi::Env env, Napi::Object& exports);

}  // namespace spindle::addon
