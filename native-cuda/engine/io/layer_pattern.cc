#include "io/layer_pattern.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace spindle {

namespace {
constexpr size_t kMaxStates = 20'000;  // bounds what nested counts such as ((a{99}){99}) cost
constexpr int kMaxDepth = 50;

std::bitset<256> range(int first, int last) {
  std::bitset<256> set;
  for (int c = first; c <= last; ++c) set.set(size_t(c));
  return set;
}
std::bitset<256> one(char c) { return range(uint8_t(c), uint8_t(c)); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
}  // namespace

// Recursive descent. Every construct is built backwards: from the state that follows it to the one
// that begins it.
class LayerPatternParser {
 public:
  LayerPatternParser(const std::string& text,
                     std::string where,
                     std::vector<LayerPattern::State>& states)
      : text_(text), where_(std::move(where)), states_(states) {
    for (char c : text)
      if (uint8_t(c) >= 0x80) refuse("letters outside of ASCII");
  }

  int parse() {
    int match = add({LayerPattern::Kind::Match});
    int first = build(alternatives(), match);
    if (at_ < text_.size()) refuse("a closing bracket without an opening one");
    return first;
  }

 private:
  using Kind = LayerPattern::Kind;
  struct Node {
    enum class Type : uint8_t { Bytes, Begin, End, Sequence, Choice, Repeat } type = Type::Sequence;
    std::bitset<256> bytes = {};
    std::vector<Node> parts = {};
    int least = 0, most = 0;  // of Repeat; most < 0: no limit
  };

  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(Code::InvalidArgument,
                cat(where_, ": ", text_, ": expected names, ., classes, groups, | and counts, got ",
                    what, ", which is not supported"));
  }

  bool more() const { return at_ < text_.size(); }
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : 0; }
  bool take(char c) {
    if (!more() || peek() != c) return false;
    ++at_;
    return true;
  }

  Node alternatives() {
    if (++depth_ > kMaxDepth) refuse("groups nested too deeply");
    Node choice{.type = Node::Type::Choice, .parts = {sequence()}};
    while (take('|')) choice.parts.push_back(sequence());
    --depth_;
    return choice;
  }

  Node sequence() {
    Node out;
    while (more() && peek() != '|' && peek() != ')') out.parts.push_back(repeated());
    return out;
  }

  Node repeated() {
    Node item = atom();
    int least = 0, most = -1;
    if (!count(least, most)) return item;
    if (item.type == Node::Type::Begin || item.type == Node::Type::End) refuse("a repeated anchor");
    if (peek() == '+') refuse("a possessive count");
    take('?');  // which of several matches is taken does not matter here
    int again = 0, limit = 0;
    size_t before = at_;
    if (count(again, limit)) {
      at_ = before;
      refuse("a count behind a count");
    }
    Node out{.type = Node::Type::Repeat, .least = least, .most = most};
    out.parts.push_back(std::move(item));
    return out;
  }

  // * + ? {n} {n,} {,m} {n,m}; other braces are letters, as in Python.
  bool count(int& least, int& most) {
    if (take('*')) return least = 0, most = -1, true;
    if (take('+')) return least = 1, most = -1, true;
    if (take('?')) return least = 0, most = 1, true;
    size_t begin = at_;
    if (!take('{')) return false;
    auto number = [&](int fallback) {
      if (!is_digit(peek())) return fallback;
      int value = 0;
      while (is_digit(peek())) {
        value = value * 10 + (text_[at_++] - '0');
        if (value > 999) refuse("a count above 999");
      }
      return value;
    };
    bool stated = is_digit(peek());
    least = number(0);
    bool comma = take(',');
    most = comma ? number(-1) : least;
    stated = stated || comma;
    if (!take('}') || !stated) {
      at_ = begin;
      return false;
    }
    if (most >= 0 && most < least) refuse("a count that ends before it begins");
    return true;
  }

  static Node bytes(const std::bitset<256>& set) {
    return {.type = Node::Type::Bytes, .bytes = set};
  }

  Node atom() {
    int least = 0, most = 0;
    if (count(least, most)) refuse("a count of nothing");
    char c = text_[at_++];
    switch (c) {
      case '.':
        return bytes(~one('\n'));
      case '^':
        return {.type = Node::Type::Begin};
      case '$':
        return {.type = Node::Type::End};
      case '(':
        return group();
      case '[':
        return bytes(klass());
      case '\\':
        return escaped();
      default:
        return bytes(one(c));
    }
  }

  Node group() {
    if (take('?') && !take(':')) refuse("a group with (?");
    Node inside = alternatives();
    if (!take(')')) refuse("an opening bracket without a closing one");
    return inside;
  }

  Node escaped() {
    if (peek() == 'A') return ++at_, Node{.type = Node::Type::Begin};
    if (peek() == 'Z') return ++at_, Node{.type = Node::Type::End};
    return bytes(escape());
  }

  std::bitset<256> escape() {
    if (!more()) refuse("a backslash at the end");
    char c = text_[at_++];
    const std::bitset<256> digits = range('0', '9'),
                           words = digits | range('a', 'z') | range('A', 'Z') | one('_'),
                           spaces = range('\t', '\r') | range(0x1c, 0x20);
    switch (c) {
      case 'd':
        return digits;
      case 'D':
        return ~digits;
      case 'w':
        return words;
      case 'W':
        return ~words;
      case 's':
        return spaces;
      case 'S':
        return ~spaces;
      default:
        if (is_letter(c) || is_digit(c)) refuse(std::string("\\") + c);
        return one(c);
    }
  }

  std::bitset<256> klass() {
    bool negated = take('^');
    std::bitset<256> set;
    for (bool first = true; first || peek() != ']'; first = false) {
      if (!more()) refuse("a class without its end");
      bool single = peek() != '\\' || (!is_letter(peek(1)) && !is_digit(peek(1)));
      std::bitset<256> from = class_member();
      if (!single || peek() != '-' || peek(1) == ']') {
        set |= from;
        continue;
      }
      ++at_;
      if (!more()) refuse("a class without its end");
      if (peek() == '\\' && (is_letter(peek(1)) || is_digit(peek(1)))) refuse("a range to a class");
      std::bitset<256> to = class_member();
      int low = lowest(from), high = lowest(to);
      if (high < low) refuse("a range that ends before it begins");
      set |= range(low, high);
    }
    ++at_;
    return negated ? ~set : set;
  }

  std::bitset<256> class_member() {
    char c = text_[at_++];
    if (c == '[' && peek() == ':') refuse("a class within a class");
    return c == '\\' ? escape() : one(c);
  }

  static int lowest(const std::bitset<256>& set) {
    int c = 0;
    while (!set.test(size_t(c))) ++c;
    return c;
  }

  int add(const LayerPattern::State& state) {
    if (states_.size() >= kMaxStates) refuse("counts that multiply");
    states_.push_back(state);
    return int(states_.size()) - 1;
  }
  int fork(int a, int b) { return add({.kind = Kind::Fork, .next = a, .other = b}); }

  // The state that begins `node` and goes on to `next`.
  int build(const Node& node, int next) {
    switch (node.type) {
      case Node::Type::Bytes:
        return add({.kind = Kind::Bytes, .bytes = node.bytes, .next = next});
      case Node::Type::Begin:
        return add({.kind = Kind::Begin, .next = next});
      case Node::Type::End:
        return add({.kind = Kind::End, .next = next});
      case Node::Type::Sequence:
        for (size_t i = node.parts.size(); i-- > 0;) next = build(node.parts[i], next);
        return next;
      case Node::Type::Choice: {
        int first = build(node.parts.back(), next);
        for (size_t i = node.parts.size() - 1; i-- > 0;)
          first = fork(build(node.parts[i], next), first);
        return first;
      }
      case Node::Type::Repeat:
        return build_repeat(node, next);
    }
    return next;
  }

  int build_repeat(const Node& node, int next) {
    const Node& item = node.parts.front();
    if (node.most < 0) {
      int loop = fork(-1, next), body = build(item, loop);
      states_[size_t(loop)].next = body;
      next = loop;
    } else {
      int after = next;
      for (int i = node.least; i < node.most; ++i) next = fork(build(item, next), after);
    }
    for (int i = 0; i < node.least; ++i) next = build(item, next);
    return next;
  }

  const std::string& text_;
  std::string where_;
  std::vector<LayerPattern::State>& states_;
  size_t at_ = 0;
  int depth_ = 0;
};

LayerPattern::LayerPattern(const std::string& key, const std::string& where)
    : whole_(key.starts_with('^')), name_(key.substr(whole_ ? 1 : 0)) {
  plain_ = std::all_of(name_.begin(), name_.end(),
                       [](char c) { return is_letter(c) || is_digit(c) || c == '_' || c == '.'; });
  if (plain_) return;
  int key_begins = LayerPatternParser(key, where, states_).parse();
  // What may stand before the key: nothing, or anything up to a dot.
  int dot = int(states_.size());
  states_.push_back({.kind = Kind::Bytes, .bytes = one('.'), .next = key_begins});
  int any = dot + 1, loop = dot + 2;
  states_.push_back({.kind = Kind::Bytes, .bytes = ~one('\n'), .next = loop});
  states_.push_back({.kind = Kind::Fork, .next = any, .other = dot});
  states_.push_back({.kind = Kind::Fork, .next = key_begins, .other = loop});
  first_ = loop + 1;
}

bool LayerPattern::matches_plain(const std::string& layer) const {
  if (layer.size() < name_.size()) return false;
  size_t before = layer.size() - name_.size();
  if (before > 0 && (whole_ || layer[before - 1] != '.')) return false;
  for (size_t i = 0; i < name_.size(); ++i)
    if (name_[i] != '.' && name_[i] != layer[before + i]) return false;  // a dot is any byte
  return true;
}

bool LayerPattern::matches(const std::string& layer) const {
  if (plain_) return matches_plain(layer);
  std::vector<int> now, next, pending;
  std::vector<size_t> seen(states_.size(), std::string::npos);
  bool matched = false;
  for (size_t at = 0; at <= layer.size(); ++at) {
    pending.assign(now.rbegin(), now.rend());
    if (at == 0) pending.push_back(first_);
    next.clear();
    while (!pending.empty()) {
      int index = pending.back();
      pending.pop_back();
      if (seen[size_t(index)] == at) continue;
      seen[size_t(index)] = at;
      const State& state = states_[size_t(index)];
      switch (state.kind) {
        case Kind::Fork:
          pending.push_back(state.other);
          pending.push_back(state.next);
          break;
        case Kind::Begin:
          if (at == 0) pending.push_back(state.next);
          break;
        case Kind::End:
          if (at == layer.size()) pending.push_back(state.next);
          break;
        case Kind::Bytes:
          if (at < layer.size() && state.bytes.test(uint8_t(layer[at]))) next.push_back(state.next);
          break;
        case Kind::Match:
          matched = matched || at == layer.size();
          break;
      }
    }
    now.swap(next);
  }
  return matched;
}

}  // namespace spindle
