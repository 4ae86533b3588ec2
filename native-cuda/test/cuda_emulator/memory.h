// Emulated device memory can be read and written only while one of these lives.
#pragma once

namespace spindle::emulator {

struct DeviceAccess {
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
};

}  // namespace spindle::emulator
