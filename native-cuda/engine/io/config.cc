#include "io/config.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace spindle {

Config::Config(Json object, std::string label)
    : json_(std::move(object)), label_(std::move(label)) {
  if (!json_.is_object())
    throw Error(Code::InvalidArgument,
                cat(label_, ": expected a JSON object, got ", json_.describe()));
}

Config Config::parse(const std::string& text, const std::string& label) {
  return {Json::parse(text, label), label};
}

void Config::refuse(const std::string& key, const std::string& expected) const {
  const Json* got = json_.find(key);
  throw Error(Code::InvalidArgument, cat(label_, ": ", key, ": expected ", expected, ", got ",
                                         got ? got->describe() : "nothing"));
}

const Json* Config::field(const std::string& key, bool needed, const char* expected) const {
  read_.insert(key);
  const Json* value = json_.find(key);
  if (value && (!value->is_null() || expected[0] == '\0')) return value;
  if (needed || value) refuse(key, expected);
  return nullptr;
}

bool Config::has(const std::string& key) const {
  const Json* value = json_.find(key);
  return value && !value->is_null();
}

double Config::number(const std::string& key, std::optional<double> fallback) const {
  const Json* value = field(key, !fallback, "a number");
  if (!value) return *fallback;
  if (!value->is_number()) refuse(key, "a number");
  return value->number();
}

int64_t Config::integer(const std::string& key, std::optional<int64_t> fallback) const {
  const Json* value = field(key, !fallback, "an integer");
  if (!value) return *fallback;
  if (value->is_integer()) return value->integer();
  // 1.0 is an integer to Python too.
  if (!value->is_number() || !std::isfinite(value->number()) ||
      value->number() != double(int32_t(std::clamp(value->number(), -2e9, 2e9))))
    refuse(key, "an integer");
  return int64_t(value->number());
}

bool Config::boolean(const std::string& key, std::optional<bool> fallback) const {
  const Json* value = field(key, false, "");
  if (!value && !fallback) refuse(key, "true or false");
  if (!value) return *fallback;
  // None is false in Python, also where an absent key would be true.
  if (value->is_null()) return false;
  if (!value->is_bool()) refuse(key, "true or false");
  return value->boolean();
}

std::string Config::string(const std::string& key, std::optional<std::string> fallback) const {
  const Json* value = field(key, !fallback, "a string");
  if (!value) return *fallback;
  if (!value->is_string()) refuse(key, "a string");
  return value->string();
}

std::string Config::choice(const std::string& key,
                           const std::vector<std::string>& allowed,
                           std::optional<std::string> fallback) const {
  std::string value = string(key, std::move(fallback));
  if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
    std::string expected;
    for (size_t i = 0; i < allowed.size(); ++i)
      expected += (i == 0 ? "" : i + 1 == allowed.size() ? " or " : ", ") + allowed[i];
    refuse(key, expected);
  }
  return value;
}

namespace {
template <class T, class Convert>
std::vector<T> list(const Config& config,
                    const std::string& key,
                    const Json* value,
                    const char* expected,
                    Convert convert) {
  if (!value->is_array()) config.refuse(key, expected);
  std::vector<T> out;
  for (const Json& item : value->items())
    if (!convert(item, out)) config.refuse(key, expected);
  return out;
}
}  // namespace

std::vector<int64_t> Config::integers(const std::string& key) const {
  constexpr const char* expected = "a list of integers";
  return list<int64_t>(*this, key, field(key, true, expected), expected,
                       [](const Json& item, auto& out) {
                         if (item.is_integer()) out.push_back(item.integer());
                         return item.is_integer();
                       });
}

std::vector<double> Config::numbers(const std::string& key) const {
  constexpr const char* expected = "a list of numbers";
  return list<double>(*this, key, field(key, true, expected), expected,
                      [](const Json& item, auto& out) {
                        if (item.is_number()) out.push_back(item.number());
                        return item.is_number();
                      });
}

std::vector<std::string> Config::strings(const std::string& key) const {
  constexpr const char* expected = "a list of strings";
  return list<std::string>(*this, key, field(key, true, expected), expected,
                           [](const Json& item, auto& out) {
                             if (item.is_string()) out.push_back(item.string());
                             return item.is_string();
                           });
}

Config Config::nested(const std::string& key) const {
  const Json* value = field(key, true, "an object");
  if (!value->is_object()) refuse(key, "an object");
  return {*value, cat(label_, ": ", key)};
}

const Json& Config::raw(const std::string& key) const {
  static const Json absent;
  const Json* value = field(key, false, "");
  return value ? *value : absent;
}

void Config::only(const std::string& key, const std::vector<Json>& supported) const {
  const Json* value = field(key, false, "");
  auto supports = [&](const Json& item) {
    return std::find(supported.begin(), supported.end(), item) != supported.end();
  };
  if (!value || supports(*value)) return;
  if (value->is_null() && (supported.empty() || supports(false))) return;
  std::string expected;
  for (const Json& item : supported) expected += (expected.empty() ? "" : " or ") + item.dump();
  refuse(key, (expected.empty() ? "null" : expected) + " (other values are not supported)");
}

void Config::refuse_unread() const {
  for (const auto& [key, value] : json_.members())
    if (!key.starts_with('_') && !read_.contains(key))
      throw Error(Code::InvalidArgument,
                  cat(label_, ": ", key, ": expected a known key, got this one with value ",
                      value.describe()));
}

}  // namespace spindle
