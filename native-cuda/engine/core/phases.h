// How long the parts of a call took.
#pragma once
#include <chrono>
#include <string>
#include <vector>

namespace spindle {

struct Phase {
  std::string name;
  double start_ms = 0;  // after the start of the call
  double duration_ms = 0;
};

// Started when built; phases are in the order in which they began.
class PhaseClock {
 public:
  // Runs `work` as one phase and returns what it returns. A name that comes again adds to its first
  // phase.
  template <class F>
  decltype(auto) time(const char* name, F&& work) {
    Stop stop{*this, name, now_ms()};
    return work();
  }
  const std::vector<Phase>& phases() const { return phases_; }

 private:
  struct Stop {
    PhaseClock& clock;
    const char* name;
    double start_ms;
    ~Stop() { clock.add(name, start_ms, clock.now_ms() - start_ms); }
  };
  double now_ms() const {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_)
        .count();
  }
  void add(const char* name, double start_ms, double duration_ms) {
    for (Phase& phase : phases_)
      if (phase.name == name) {
        phase.duration_ms += duration_ms;
        return;
      }
    phases_.push_back({name, start_ms, duration_ms});
  }

  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::vector<Phase> phases_;
};

}  // namespace spindle
