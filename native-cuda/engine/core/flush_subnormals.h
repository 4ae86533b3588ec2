// Numbers below 2^-126 count as zero while this lives, and the thread's own mode is back after it.
// Where pairs saturate, gradients become subnormal numbers, and an operation on those takes an
// Intel processor up to forty times as long. No result of a training needs them.
#pragma once
#include <cstdint>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace spindle {

class FlushSubnormals {
 public:
  FlushSubnormals() { set(saved_ | kFlush); }
  ~FlushSubnormals() { set(saved_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

  // Whether results and operands of this thread are flushed.
  static bool on() { return (mode() & kFlush) == kFlush; }

 private:
#if defined(__x86_64__)
  using Mode = uint32_t;
  static constexpr Mode kFlush = 0x8040;  // MXCSR: FTZ for results, DAZ for operands
  static Mode mode() { return _mm_getcsr(); }
  static void set(Mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
  using Mode = uint64_t;
  static constexpr Mode kFlush = uint64_t(1) << 24;  // FPCR.FZ, for both
  static Mode mode() {
    Mode mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void set(Mode mode) { asm volatile("msr fpcr, %0" ::"r"(mode)); }
#else
  using Mode = uint32_t;
  static constexpr Mode kFlush = 0;
  static Mode mode() { return 0; }
  static void set(Mode) {}
#endif
  Mode saved_ = mode();
};

}  // namespace spindle
