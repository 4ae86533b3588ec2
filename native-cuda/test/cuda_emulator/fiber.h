// Stacks that are switched between: what the emulated threads of a block run on.
#pragma once
#include <cstddef>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace spindle::emulator {

// A function that runs on a stack of its own until it calls yield() or returns. Used again for
// other functions, one at a time.
class Fiber {
 public:
  static constexpr size_t kStackBytes = size_t(256) << 10;
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  // Begins at `entry`, which must not return but call finish().
  void prepare(void (*entry)());
  // From the scheduler: runs the fiber until it comes back.
  void resume();
  // From the fiber.
  void yield();

 private:
  std::byte* stack_;
#if defined(__x86_64__)
  void* own_ = nullptr;
  void* scheduler_ = nullptr;
#else
  ucontext_t own_{}, scheduler_{};
#endif
};

}  // namespace spindle::emulator
