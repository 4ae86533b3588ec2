// JSON values, a strict parser and a writer. The parser refuses duplicate keys, trailing text,
// invalid UTF-8 and deep nesting; it takes NaN, Infinity and -Infinity, which Python (and so
// diffusers' configs) write.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace spindle {

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;  // in the text's order

  Json() = default;
  Json(std::nullptr_t) {}                      // NOLINT: implicit on purpose, as the next ones
  Json(bool value) : value_(value) {}          // NOLINT
  Json(double value) : value_(value) {}        // NOLINT
  Json(int value) : value_(int64_t(value)) {}  // NOLINT
  Json(int64_t value) : value_(value) {}       // NOLINT
  Json(const char* value) : value_(std::string(value)) {}  // NOLINT
  Json(std::string value) : value_(std::move(value)) {}    // NOLINT
  Json(Array value) : value_(std::move(value)) {}          // NOLINT
  Json(Object value) : value_(std::move(value)) {}         // NOLINT

  // `where` (a file, usually) starts every error message.
  static Json parse(std::string_view text, const std::string& where);

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_integer() const { return std::holds_alternative<int64_t>(value_); }
  bool is_number() const { return is_integer() || std::holds_alternative<double>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }

  // Each throws when the value is of another kind; io/config.h reads fields with better messages.
  bool boolean() const;
  int64_t integer() const;
  double number() const;
  const std::string& string() const;
  const Array& items() const;
  const Object& members() const;

  // A member of an object; null when absent.
  const Json* find(std::string_view key) const;
  // Replaces or adds a member.
  void set(const std::string& key, Json value);

  bool operator==(const Json& other) const;
  // Compact, as Python's json.dumps(separators=(",", ":"), ensure_ascii=False) writes it.
  std::string dump() const;
  // dump(), cut to what fits in an error message.
  std::string describe() const;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

// The string in quotes, escaped.
std::string json_quote(std::string_view text);
// The position of the first byte that is not part of valid UTF-8; npos when there is none.
size_t invalid_utf8(std::string_view text);

}  // namespace spindle
