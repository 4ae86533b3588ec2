// While emulated device memory is guarded, it can be read and written only as long as one of these
// lives.
#pragma once

#include <cstdint>

namespace spindle::emulator {

// What was asked of streams since the last call of spindle_emulator_counts().
struct Counts {
  uint64_t captures = 0, replays = 0, others = 0,
           waits = 0;  // captured work, work outside of it, waits for a stream
};

struct DeviceAccess {
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
};

}  // namespace spindle::emulator
