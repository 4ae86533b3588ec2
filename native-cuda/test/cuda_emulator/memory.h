// While emulated device memory is guarded, it can be read and written only as long as one of these lives.
#pragma once

namespace spindle::emulator {

struct DeviceAccess {
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
};

}  // namespace spindle::emulator
