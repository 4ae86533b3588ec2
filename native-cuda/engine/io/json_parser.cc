// Parses JSON text into Json.
#include <charconv>
#include <cmath>
#include <limits>
#include <unordered_set>

#include "core/error.h"
#include "io/json.h"

namespace spindle {

namespace {
constexpr int kMaxDepth = 64;

class Parser {
 public:
  Parser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Json document() {
    size_t bad = invalid_utf8(text_);
    if (bad != std::string_view::npos) fail(bad, "text that is not UTF-8");
    Json json = value(0);
    skip_space();
    if (at_ < text_.size()) fail(at_, "more text after the value");
    return json;
  }

 private:
  [[noreturn]] void fail(size_t position, const std::string& got) const {
    throw Error(Code::InvalidArgument,
                cat(where_, ": expected JSON, got ", got, " at byte ", position));
  }

  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
      ++at_;
  }

  char peek() const {
    if (at_ >= text_.size()) fail(at_, "the end of the text");
    return text_[at_];
  }

  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  void expect(char c) {
    if (peek() != c) fail(at_, cat("'", printable(text_[at_]), "' in the place of '", c, "'"));
    ++at_;
  }

  static std::string printable(char c) { return c >= 0x20 && c < 0x7f ? std::string(1, c) : "?"; }

  Json value(int depth) {
    if (depth > kMaxDepth) fail(at_, cat("lists and objects nested deeper than ", kMaxDepth));
    skip_space();
    switch (peek()) {
      case '{':
        return object(depth);
      case '[':
        return array(depth);
      case '"':
        return string();
      default:
        break;
    }
    if (take("null")) return {};
    if (take("true")) return true;
    if (take("false")) return false;
    if (take("NaN")) return std::numeric_limits<double>::quiet_NaN();
    if (take("Infinity")) return std::numeric_limits<double>::infinity();
    if (take("-Infinity")) return -std::numeric_limits<double>::infinity();
    return number();
  }

  Json object(int depth) {
    Json::Object members;
    std::unordered_set<std::string> keys;
    ++at_;
    skip_space();
    if (take("}")) return members;
    for (;;) {
      skip_space();
      size_t start = at_;
      if (peek() != '"') fail(at_, cat("'", printable(text_[at_]), "' in the place of a key"));
      std::string key = string();
      if (!keys.insert(key).second) fail(start, cat("the key ", json_quote(key), " twice"));
      skip_space();
      expect(':');
      members.emplace_back(std::move(key), value(depth + 1));
      skip_space();
      if (take("}")) return members;
      expect(',');
    }
  }

  Json array(int depth) {
    Json::Array items;
    ++at_;
    skip_space();
    if (take("]")) return items;
    for (;;) {
      items.push_back(value(depth + 1));
      skip_space();
      if (take("]")) return items;
      expect(',');
    }
  }

  size_t digits() {
    size_t start = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    return at_ - start;
  }

  Json number() {
    size_t start = at_;
    take("-");
    size_t first = at_, count = digits();
    if (count == 0) fail(start, cat("'", printable(text_[start]), "'"));
    if (count > 1 && text_[first] == '0') fail(start, "a number with a leading zero");
    bool integer = true;
    if (take(".")) {
      integer = false;
      if (digits() == 0) fail(at_, "a number without digits after its point");
    }
    if (take("e") || take("E")) {
      integer = false;
      if (!take("+")) take("-");
      if (digits() == 0) fail(at_, "a number without digits in its exponent");
    }
    const char *begin = text_.data() + start, *end = text_.data() + at_;
    if (integer) {
      int64_t whole = 0;
      if (std::from_chars(begin, end, whole).ec == std::errc()) return whole;
    }
    double x = 0;
    if (std::from_chars(begin, end, x).ec == std::errc::result_out_of_range)
      fail(start,
           cat("a number out of range, ", text_.substr(start, std::min<size_t>(at_ - start, 40))));
    return x;
  }

  uint32_t hex4() {
    uint32_t code = 0;
    if (at_ + 4 > text_.size()) fail(at_, "an unfinished \\u escape");
    auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + at_ + 4, code, 16);
    if (error != std::errc() || end != text_.data() + at_ + 4)
      fail(at_, "a \\u escape without four hex digits");
    at_ += 4;
    return code;
  }

  static void append_utf8(std::string& out, uint32_t code) {
    if (code < 0x80) {
      out += char(code);
    } else if (code < 0x800) {
      out += {char(0xc0 | code >> 6), char(0x80 | (code & 0x3f))};
    } else if (code < 0x10000) {
      out += {char(0xe0 | code >> 12), char(0x80 | (code >> 6 & 0x3f)), char(0x80 | (code & 0x3f))};
    } else {
      out += {char(0xf0 | code >> 18), char(0x80 | (code >> 12 & 0x3f)),
              char(0x80 | (code >> 6 & 0x3f)), char(0x80 | (code & 0x3f))};
    }
  }

  void escape(std::string& out) {
    size_t start = at_ - 1;
    char c = peek();
    ++at_;
    switch (c) {
      case '"':
      case '\\':
      case '/':
        out += c;
        return;
      case 'n':
        out += '\n';
        return;
      case 't':
        out += '\t';
        return;
      case 'r':
        out += '\r';
        return;
      case 'b':
        out += '\b';
        return;
      case 'f':
        out += '\f';
        return;
      case 'u':
        break;
      default:
        fail(start, "an unknown escape");
    }
    uint32_t code = hex4();
    if (code >= 0xd800 && code < 0xdc00) {
      if (!take("\\u")) fail(start, "half of a surrogate pair");
      uint32_t low = hex4();
      if (low < 0xdc00 || low >= 0xe000) fail(start, "half of a surrogate pair");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xdc00 && code < 0xe000) {
      fail(start, "half of a surrogate pair");
    }
    append_utf8(out, code);
  }

  std::string string() {
    std::string out;
    ++at_;
    for (;;) {
      char c = peek();
      if (uint8_t(c) < 0x20) fail(at_, "a control character in a string");
      ++at_;
      if (c == '"') return out;
      if (c == '\\')
        escape(out);
      else
        out += c;
    }
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
};
}  // namespace

Json Json::parse(std::string_view text, const std::string& where) {
  return Parser(text, where).document();
}

}  // namespace spindle
