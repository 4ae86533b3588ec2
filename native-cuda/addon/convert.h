// Plain data across the boundary: copied, checked, with errors that name the field.
#pragma once
#include <napi.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "autograd/device.h"
#include "core/phases.h"
#include "io/json.h"
#include "io/model_source.h"
#include "parity/parity.h"

namespace spindle::addon {

// A dense float32 tensor outside of any device.
struct TensorData {
  std::vector<float> values;
  std::vector<int64_t> shape;

  // On the engine's thread.
  Tensor upload(Device& device) const;
  static TensorData download(Device& device, const Tensor& tensor);
};

// An object's fields; every one must be there.
class Fields {
 public:
  Fields(const Napi::Value& value, std::string where);
  Napi::Value value(const char* key) const;
  bool is_null(const char* key) const { return value(key).IsNull(); }
  double number(const char* key) const;
  int64_t integer(const char* key) const;
  uint64_t bigint(const char* key) const;
  std::string string(const char* key) const;
  TensorData tensor(const char* key, size_t rank) const;
  std::optional<TensorData> optional_tensor(const char* key, size_t rank) const;  // empty for null
  std::vector<double> numbers(const char* key) const;
  std::vector<uint64_t> bigints(const char* key) const;
  std::string at(const char* key) const { return where_ + "." + key; }

 private:
  Napi::Object object_;
  std::string where_;
};

double to_number(const Napi::Value& value, const std::string& where);
int64_t to_integer(const Napi::Value& value, const std::string& where);
uint64_t to_uint64(const Napi::Value& value, const std::string& where);
std::string to_string(const Napi::Value& value, const std::string& where);
bool to_boolean(const Napi::Value& value, const std::string& where);
std::vector<std::string> to_strings(const Napi::Value& value, const std::string& where);
std::vector<double> to_numbers(const Napi::Value& value, const std::string& where);
std::vector<int32_t> to_ids(const Napi::Value& value, const std::string& where);
TensorData to_tensor(const Napi::Value& value, const std::string& where, size_t rank);
ModelSource to_source(const Napi::Value& value, const std::string& where);
DType to_precision(const Napi::Value& value, const std::string& where);
std::map<std::string, std::string> to_string_map(const Napi::Value& value,
                                                 const std::string& where);
// RGB bytes of width * height pixels.
const uint8_t* to_rgb(const Napi::Value& value, int64_t width, int64_t height);

Napi::Value from_floats(Napi::Env env, const std::vector<float>& values);
Napi::Value from_doubles(Napi::Env env, const std::vector<double>& values);
Napi::Value from_bytes(Napi::Env env, const std::vector<uint8_t>& values);
Napi::Value from_tensor(Napi::Env env, const TensorData& tensor);
Napi::Value from_phases(Napi::Env env, const std::vector<Phase>& phases);
Napi::Value from_string_map(Napi::Env env, const std::map<std::string, std::string>& map);
Napi::Value from_json(Napi::Env env, const Json& json);
Napi::Value from_parity(Napi::Env env, const std::vector<ParityLine>& lines);

// An object of these fields, in this order.
struct Field {
  const char* key;
  Napi::Value value;
};
inline Napi::Object from_fields(Napi::Env env, std::initializer_list<Field> fields) {
  Napi::Object object = Napi::Object::New(env);
  for (const Field& field : fields) object.Set(field.key, field.value);
  return object;
}
inline Napi::Value from_number(Napi::Env env, double x) { return Napi::Number::New(env, x); }
inline Napi::Value from_string(Napi::Env env, const std::string& s) {
  return Napi::String::New(env, s);
}

}  // namespace spindle::addon
