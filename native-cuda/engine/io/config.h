// A config.json being read: typed fields with errors that name file, field, expected and got. Keys
// are remembered as they are read, so that whoever reads a format of ours can refuse the ones that
// nobody read. null is a value: to booleans it is false, and elsewhere it is refused, since a
// library takes its default for an absent key only. Who takes null asks has() first.
#pragma once
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "io/json.h"

namespace spindle {

class Config {
 public:
  // `label` names the file or folder in errors.
  Config(Json object, std::string label);
  static Config parse(const std::string& text, const std::string& label);

  bool has(const std::string& key) const;
  double number(const std::string& key, std::optional<double> fallback = {}) const;
  int64_t integer(const std::string& key, std::optional<int64_t> fallback = {}) const;
  bool boolean(const std::string& key, std::optional<bool> fallback = {}) const;
  std::string string(const std::string& key, std::optional<std::string> fallback = {}) const;
  // A string out of a closed set.
  std::string choice(const std::string& key,
                     const std::vector<std::string>& allowed,
                     std::optional<std::string> fallback = {}) const;
  std::vector<int64_t> integers(const std::string& key) const;
  std::vector<double> numbers(const std::string& key) const;
  std::vector<std::string> strings(const std::string& key) const;
  Config nested(const std::string& key) const;
  // The raw value, for fields of mixed type; null when absent.
  const Json& raw(const std::string& key) const;

  // An option that only these values are supported of; absent is fine too, and so is null where
  // none or false is supported.
  void only(const std::string& key, const std::vector<Json>& supported) const;
  // A key that has no bearing on what is computed.
  void ignore(const std::string& key) const { read_.insert(key); }
  // Refuses, by name, the first key that was not read. Keys that start with "_" are the library's
  // own notes.
  void refuse_unread() const;

  const Json& json() const { return json_; }
  const std::string& label() const { return label_; }
  [[noreturn]] void refuse(const std::string& key, const std::string& expected) const;

 private:
  const Json* field(const std::string& key, bool needed, const char* expected) const;
  Json json_;
  std::string label_;
  mutable std::set<std::string> read_;
};

}  // namespace spindle
