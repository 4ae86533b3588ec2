// Where a task's time goes, and how much work it does: every kernel call of a device is noted while
// a DeviceProfile lives.
#pragma once
#include <string>

#include "autograd/device.h"
#include "io/json.h"
#include "kernels/profiled/profiled_kernels.h"

namespace spindle {

// Work that does not depend on how fast or how busy a machine is.
struct WorkCounters {
  uint64_t launches = 0;  // kernel calls
  uint64_t reorders = 0;  // of them, those that only change the order of an image's values
  double flop = 0;
  double bytes = 0;    // inputs and outputs of kernels
  uint64_t packs = 0;  // weights brought into the backend's layout
  uint64_t packed_bytes = 0;
  uint64_t system_allocations =
      0;  // blocks that the device's pool and the backend asked of the system
};

class DeviceProfile {
 public:
  // Nothing else may use the device's kernels while this begins or ends.
  explicit DeviceProfile(Device& device);
  ~DeviceProfile();
  DeviceProfile(const DeviceProfile&) = delete;
  DeviceProfile& operator=(const DeviceProfile&) = delete;

  // Forgets what was noted so far: the warm-up.
  void restart();
  // Since the beginning or restart().
  WorkCounters work() const;
  // What `runs` runs cost that took `seconds` together, per run; measures the machine's peak now,
  // in the type that the task computes with. Keys in docs/PERFORMANCE.md.
  Json report(int64_t runs, double seconds, DType compute) const;

 private:
  uint64_t allocations() const;

  Device& device_;
  ProfiledKernels* kernels_;  // the device's, for now
  KernelCounters before_;
  uint64_t allocations_before_ = 0;
};

// A report as tables for people.
std::string profile_text(const Json& report);

}  // namespace spindle
