// The module. Rules of this boundary are in ts/native.ts.
#include "exports.h"

namespace {
Napi::Object init(Napi::Env env, Napi::Object exports) {
  using namespace spindle::addon;
  export_engine(env, exports);
  export_models(env, exports);
  export_sampling(env, exports);
  export_training(env, exports);
  export_images(env, exports);
  export_gpus(env, exports);
  return exports;
}
}  // namespace

NODE_API_MODULE(spindle, init)
