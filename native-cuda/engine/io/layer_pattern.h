// The keys of PEFT's rank_pattern and alpha_pattern: regular expressions of Python. PEFT asks
// re.match(rf"(.*\.)?({key})$", layer), so a key is a layer's whole name or its end. The syntax
// that names of layers need is matched as Python does it, in time that grows with the name alone;
// all else is refused by name.
#pragma once
#include <bitset>
#include <string>
#include <vector>

namespace spindle {

class LayerPattern {
 public:
  // `where` starts the message when the key is refused.
  LayerPattern(const std::string& key, const std::string& where);
  bool matches(const std::string& layer) const;

 private:
  enum class Kind : uint8_t { Bytes, Fork, Begin, End, Match };
  // Bytes: one byte of the set, then `next`. Fork: goes to both. Begin and End: only there.
  struct State {
    Kind kind = Kind::Match;
    std::bitset<256> bytes = {};
    int next = -1, other = -1;
  };
  friend class LayerPatternParser;
  bool matches_plain(const std::string& layer) const;

  // Most keys are a name as it is, perhaps behind ^: those need no states.
  bool plain_ = false, whole_ = false;
  std::string name_;
  std::vector<State> states_;
  int first_ = 0;
};

}  // namespace spindle
