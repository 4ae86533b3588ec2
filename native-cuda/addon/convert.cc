#include "convert.h"

#include <cmath>
#include <cstring>

#include "core/error.h"

namespace spindle::addon {

Tensor TensorData::upload(Device& device) const {
  Tensor tensor = device.empty(Shape(shape), DType::F32);
  device.upload(tensor, values.data());
  return tensor;
}

TensorData TensorData::download(Device& device, const Tensor& tensor) {
  ensure(tensor.dtype() == DType::F32, "[addon] expected a float32 result, got ",
         dtype_name(tensor.dtype()));
  return {device.download<float>(tensor), tensor.shape().dims()};
}

Fields::Fields(const Napi::Value& value, std::string where) : where_(std::move(where)) {
  require(value.IsObject(), where_, ": expected an object, got something else");
  object_ = value.As<Napi::Object>();
}

Napi::Value Fields::value(const char* key) const {
  Napi::Value value = object_.Get(key);
  require(!value.IsUndefined(), at(key), ": expected a value, got undefined");
  return value;
}

double Fields::number(const char* key) const { return to_number(value(key), at(key)); }
int64_t Fields::integer(const char* key) const { return to_integer(value(key), at(key)); }
uint64_t Fields::bigint(const char* key) const { return to_uint64(value(key), at(key)); }
std::string Fields::string(const char* key) const { return to_string(value(key), at(key)); }
TensorData Fields::tensor(const char* key, size_t rank) const {
  return to_tensor(value(key), at(key), rank);
}
std::optional<TensorData> Fields::optional_tensor(const char* key, size_t rank) const {
  if (is_null(key)) return {};
  return tensor(key, rank);
}
std::vector<double> Fields::numbers(const char* key) const {
  return to_numbers(value(key), at(key));
}

std::vector<uint64_t> Fields::bigints(const char* key) const {
  Napi::Value list = value(key);
  require(list.IsArray(), at(key), ": expected a list of bigints, got something else");
  std::vector<uint64_t> out;
  Napi::Array array = list.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); ++i)
    out.push_back(to_uint64(array.Get(i), cat(at(key), "[", i, "]")));
  return out;
}

double to_number(const Napi::Value& value, const std::string& where) {
  require(value.IsNumber(), where, ": expected a number, got something else");
  double x = value.As<Napi::Number>().DoubleValue();
  require(std::isfinite(x), where, ": expected a finite number, got ", x);
  return x;
}

int64_t to_integer(const Napi::Value& value, const std::string& where) {
  double x = to_number(value, where);
  require(x == std::floor(x) && std::abs(x) <= 0x1p53, where, ": expected an integer, got ", x);
  return int64_t(x);
}

uint64_t to_uint64(const Napi::Value& value, const std::string& where) {
  require(value.IsBigInt(), where, ": expected a bigint, got something else");
  bool lossless = false;
  uint64_t x = value.As<Napi::BigInt>().Uint64Value(&lossless);
  require(lossless, where, ": expected 0 to 2^64 - 1, got a bigint outside of it");
  return x;
}

std::string to_string(const Napi::Value& value, const std::string& where) {
  require(value.IsString(), where, ": expected a string, got something else");
  return value.As<Napi::String>().Utf8Value();
}

bool to_boolean(const Napi::Value& value, const std::string& where) {
  require(value.IsBoolean(), where, ": expected true or false, got something else");
  return value.As<Napi::Boolean>().Value();
}

std::vector<double> to_numbers(const Napi::Value& value, const std::string& where) {
  require(value.IsArray(), where, ": expected a list of numbers, got something else");
  std::vector<double> out;
  Napi::Array array = value.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); ++i)
    out.push_back(to_number(array.Get(i), cat(where, "[", i, "]")));
  return out;
}

std::vector<int32_t> to_ids(const Napi::Value& value, const std::string& where) {
  require(value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_int32_array,
          where, ": expected an Int32Array, got something else");
  Napi::Int32Array array = value.As<Napi::Int32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

TensorData to_tensor(const Napi::Value& value, const std::string& where, size_t rank) {
  Fields fields(value, where);
  TensorData tensor;
  Napi::Value data = fields.value("data");
  require(data.IsTypedArray() && data.As<Napi::TypedArray>().TypedArrayType() == napi_float32_array,
          where, ".data: expected a Float32Array, got something else");
  uint64_t count = 1;
  for (double d : fields.numbers("shape")) {
    require(d >= 1 && d == std::floor(d) && d < 0x1p31, where,
            ".shape: expected positive integers, got ", d);
    tensor.shape.push_back(int64_t(d));
    count *= uint64_t(d);
    require(count < uint64_t(1) << 40, where,
            ".shape: expected fewer than 2^40 elements, got more");
  }
  require(tensor.shape.size() == rank, where, ".shape: expected ", rank, " dimensions, got ",
          tensor.shape.size());
  Napi::Float32Array array = data.As<Napi::Float32Array>();
  require(array.ElementLength() == count, where, ".data: expected the ", count,
          " values of its shape, got ", array.ElementLength());
  tensor.values.assign(array.Data(), array.Data() + count);
  return tensor;
}

static LoraTarget to_lora_target(const Napi::Value& value, const std::string& where) {
  Fields fields(value, where);
  LoraTarget target{parse_component(fields.string("component"), fields.at("component")), {}};
  for (const std::string& name : to_strings(fields.value("components"), fields.at("components")))
    target.components.push_back(parse_component(name, fields.at("components")));
  return target;
}

ModelSource to_source(const Napi::Value& value, const std::string& where) {
  Fields fields(value, where);
  ModelSource source{fields.string("config"), {}, fields.string("label")};
  source.weights = to_strings(fields.value("weights"), fields.at("weights"));
  // What may be left out: most models have no adapters, and most adapters are the U-Net's alone.
  Napi::Value adapters = value.As<Napi::Object>().Get("adapters");
  if (adapters.IsUndefined()) return source;
  require(adapters.IsArray(), fields.at("adapters"), ": expected a list, got something else");
  Napi::Array array = adapters.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); ++i) {
    Napi::Value one = array.Get(i);
    Fields adapter(one, cat(fields.at("adapters"), "[", i, "]"));
    source.adapters.push_back({adapter.string("path"), adapter.number("scale")});
    Napi::Value target = one.As<Napi::Object>().Get("target");
    if (!target.IsUndefined())
      source.adapters.back().target = to_lora_target(target, adapter.at("target"));
  }
  return source;
}

std::vector<std::string> to_strings(const Napi::Value& value, const std::string& where) {
  require(value.IsArray(), where, ": expected a list of strings, got something else");
  Napi::Array array = value.As<Napi::Array>();
  std::vector<std::string> out;
  for (uint32_t i = 0; i < array.Length(); ++i)
    out.push_back(to_string(array.Get(i), cat(where, "[", i, "]")));
  return out;
}

DType to_precision(const Napi::Value& value, const std::string& where) {
  std::string name = to_string(value, where);
  require(name == "float32" || name == "bfloat16", where, ": expected float32 or bfloat16, got ",
          name);
  return name == "bfloat16" ? DType::BF16 : DType::F32;
}

std::map<std::string, std::string> to_string_map(const Napi::Value& value,
                                                 const std::string& where) {
  require(value.IsObject(), where, ": expected an object of strings, got something else");
  Napi::Object object = value.As<Napi::Object>();
  Napi::Array keys = object.GetPropertyNames();
  std::map<std::string, std::string> out;
  for (uint32_t i = 0; i < keys.Length(); ++i) {
    std::string key = to_string(keys.Get(i), where);
    out[key] = to_string(object.Get(key), cat(where, ".", key));
  }
  return out;
}

const uint8_t* to_rgb(const Napi::Value& value, int64_t width, int64_t height) {
  require(value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array,
          "rgb: expected a Uint8Array, got something else");
  require(width >= 1 && height >= 1 && width < (1 << 16) && height < (1 << 16),
          "image: expected edges of 1 to 65535 pixels, got ", width, " x ", height);
  Napi::Uint8Array array = value.As<Napi::Uint8Array>();
  require(array.ElementLength() == size_t(width * height * 3), "rgb: expected ", width, " x ",
          height, " x 3 bytes, got ", array.ElementLength());
  return array.Data();
}

Napi::Value from_floats(Napi::Env env, const std::vector<float>& values) {
  Napi::Float32Array array = Napi::Float32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(float));
  return array;
}

Napi::Value from_doubles(Napi::Env env, const std::vector<double>& values) {
  Napi::Float64Array array = Napi::Float64Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(double));
  return array;
}

Napi::Value from_bytes(Napi::Env env, const std::vector<uint8_t>& values) {
  Napi::Uint8Array array = Napi::Uint8Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size());
  return array;
}

Napi::Value from_tensor(Napi::Env env, const TensorData& tensor) {
  Napi::Array shape = Napi::Array::New(env, tensor.shape.size());
  for (size_t i = 0; i < tensor.shape.size(); ++i) shape.Set(uint32_t(i), double(tensor.shape[i]));
  return from_fields(env, {{"data", from_floats(env, tensor.values)}, {"shape", shape}});
}

Napi::Value from_phases(Napi::Env env, const std::vector<Phase>& phases) {
  Napi::Array out = Napi::Array::New(env, phases.size());
  for (size_t i = 0; i < phases.size(); ++i) {
    const Phase& phase = phases[i];
    out.Set(uint32_t(i), from_fields(env, {{"name", from_string(env, phase.name)},
                                           {"startMs", from_number(env, phase.start_ms)},
                                           {"durationMs", from_number(env, phase.duration_ms)}}));
  }
  return out;
}

Napi::Value from_string_map(Napi::Env env, const std::map<std::string, std::string>& map) {
  Napi::Object out = Napi::Object::New(env);
  for (const auto& [key, value] : map) out.Set(key, value);
  return out;
}

Napi::Value from_json(Napi::Env env, const Json& json) {
  if (json.is_null()) return env.Null();
  if (json.is_bool()) return Napi::Boolean::New(env, json.boolean());
  if (json.is_number()) return from_number(env, json.number());
  if (json.is_string()) return from_string(env, json.string());
  if (json.is_array()) {
    Napi::Array array = Napi::Array::New(env, json.items().size());
    for (size_t i = 0; i < json.items().size(); ++i)
      array.Set(uint32_t(i), from_json(env, json.items()[i]));
    return array;
  }
  Napi::Object object = Napi::Object::New(env);
  for (const auto& [key, value] : json.members()) object.Set(key, from_json(env, value));
  return object;
}

Napi::Value from_parity(Napi::Env env, const std::vector<ParityLine>& lines) {
  Napi::Array out = Napi::Array::New(env, lines.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    const ParityLine& line = lines[i];
    out.Set(uint32_t(i), from_fields(env, {{"fixture", from_string(env, line.fixture)},
                                           {"kind", from_string(env, line.kind)},
                                           {"tensor", from_string(env, line.tensor)},
                                           {"relL2", from_number(env, line.relL2)},
                                           {"maxAbs", from_number(env, line.maxAbs)},
                                           {"ok", Napi::Boolean::New(env, line.ok)}}));
  }
  return out;
}

}  // namespace spindle::addon
