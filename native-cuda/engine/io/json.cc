#include "io/json.h"

#include <charconv>
#include <cmath>

#include "core/error.h"

namespace spindle {

namespace {
template <class T>
const T& get(
    const std::
        variant<std::monostate, bool, int64_t, double, std::string, Json::Array, Json::Object>&
            value,
    const Json& json,
    const char* expected) {
  const T* got = std::get_if<T>(&value);
  if (!got)
    throw Error(Code::InvalidArgument,
                cat("[json] expected ", expected, ", got ", json.describe()));
  return *got;
}

void write(std::string& out, const Json& json) {
  if (json.is_null()) {
    out += "null";
  } else if (json.is_bool()) {
    out += json.boolean() ? "true" : "false";
  } else if (json.is_integer()) {
    out += std::to_string(json.integer());
  } else if (json.is_number()) {
    double x = json.number();
    if (std::isnan(x))
      out += "NaN";
    else if (std::isinf(x))
      out += x < 0 ? "-Infinity" : "Infinity";
    else {
      char text[40];
      auto end = std::to_chars(text, text + sizeof(text), x).ptr;
      std::string_view digits(text, size_t(end - text));
      out += digits;
      if (digits.find_first_of(".e") == std::string_view::npos)
        out += ".0";  // stays a float when read again
    }
  } else if (json.is_string()) {
    out += json_quote(json.string());
  } else if (json.is_array()) {
    out += '[';
    bool first = true;
    for (const Json& item : json.items()) {
      if (!first) out += ',';
      first = false;
      write(out, item);
    }
    out += ']';
  } else {
    out += '{';
    bool first = true;
    for (const auto& [key, value] : json.members()) {
      if (!first) out += ',';
      first = false;
      out += json_quote(key);
      out += ':';
      write(out, value);
    }
    out += '}';
  }
}
}  // namespace

bool Json::boolean() const { return get<bool>(value_, *this, "true or false"); }
int64_t Json::integer() const { return get<int64_t>(value_, *this, "an integer"); }
double Json::number() const {
  return is_integer() ? double(integer()) : get<double>(value_, *this, "a number");
}
const std::string& Json::string() const { return get<std::string>(value_, *this, "a string"); }
const Json::Array& Json::items() const { return get<Array>(value_, *this, "a list"); }
const Json::Object& Json::members() const { return get<Object>(value_, *this, "an object"); }

const Json* Json::find(std::string_view key) const {
  for (const auto& [name, value] : members())
    if (name == key) return &value;
  return nullptr;
}

void Json::set(const std::string& key, Json value) {
  ensure(is_object(), "[json] set on a value that is not an object");
  Object& object = std::get<Object>(value_);
  for (auto& [name, old] : object)
    if (name == key) {
      old = std::move(value);
      return;
    }
  object.emplace_back(key, std::move(value));
}

bool Json::operator==(const Json& other) const {
  if (is_number() && other.is_number()) return number() == other.number();
  return value_ == other.value_;
}

std::string Json::dump() const {
  std::string out;
  write(out, *this);
  return out;
}

std::string Json::describe() const {
  std::string text = dump();
  if (text.size() <= 60) return text;
  size_t cut = 57;
  while (cut > 0 && (uint8_t(text[cut]) & 0xc0) == 0x80) --cut;  // not within a character
  return text.substr(0, cut) + "...";
}

std::string json_quote(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (uint8_t(c) < 0x20) {
          const char* hex = "0123456789abcdef";
          out += "\\u00";
          out += hex[uint8_t(c) >> 4];
          out += hex[c & 15];
        } else {
          out += c;
        }
    }
  }
  return out + '"';
}

size_t invalid_utf8(std::string_view s) {
  for (size_t i = 0; i < s.size();) {
    uint8_t c = uint8_t(s[i]);
    size_t length = c < 0x80 ? 1 : (c >> 5) == 6 ? 2 : (c >> 4) == 14 ? 3 : (c >> 3) == 30 ? 4 : 0;
    if (length == 0 || i + length > s.size()) return i;
    uint32_t code = length == 1 ? c : c & (0xffu >> (length + 1));
    for (size_t k = 1; k < length; ++k) {
      if ((uint8_t(s[i + k]) & 0xc0) != 0x80) return i;
      code = code << 6 | (uint8_t(s[i + k]) & 0x3f);
    }
    constexpr uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};  // longer than needed is not valid
    if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return i;
    i += length;
  }
  return std::string_view::npos;
}

}  // namespace spindle
