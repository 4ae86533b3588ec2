// Images: resizing and preprocessing. Fast enough to run on Node's thread.
#include "convert.h"
#include "exports.h"
#include "io/image_preprocess.h"

namespace spindle::addon {

namespace {

std::array<double, 3> to_channels(const Fields& fields, const char* key) {
  std::vector<double> values = fields.numbers(key);
  require(values.size() == 3, fields.at(key), ": expected 3 numbers, got ", values.size());
  return {values[0], values[1], values[2]};
}

Napi::Value preprocess(const Napi::CallbackInfo& info) {
  int64_t width = to_integer(info[1], "width"), height = to_integer(info[2], "height");
  const uint8_t* rgb = to_rgb(info[0], width, height);
  Fields fields(info[3], "spec");
  ImagePreprocess spec{.resize = fields.integer("resize"),
                       .crop_height = fields.integer("cropHeight"),
                       .crop_width = fields.integer("cropWidth"),
                       .mean = to_channels(fields, "mean"),
                       .std = to_channels(fields, "std"),
                       .method = parse_preprocess_method(fields.string("method")),
                       .filter = parse_resize_filter(fields.string("filter")),
                       .rescale = fields.number("rescale")};
  return from_floats(info.Env(), preprocess_image({rgb, width, height}, spec));
}

Napi::Value resize(const Napi::CallbackInfo& info) {
  int64_t width = to_integer(info[1], "width"), height = to_integer(info[2], "height");
  const uint8_t* rgb = to_rgb(info[0], width, height);
  Fields fields(info[3], "to"), window(fields.value("window"), "to.window");
  ResizeTo to{fields.integer("width"),
              fields.integer("height"),
              parse_resize_filter(fields.string("filter")),
              {window.integer("left"), window.integer("top"), window.integer("width"),
               window.integer("height")}};
  return from_bytes(info.Env(), resize_image({rgb, width, height}, to).pixels);
}

}  // namespace

void export_images(Napi::Env env, Napi::Object& exports) {
  add<preprocess>(env, exports, "preprocessImage");
  add<resize>(env, exports, "resizeImage");
}

}  // namespace spindle::addon
