// Whether this process may use AMX's tiles: the system hands them out on request.
#include "kernels/cpu/isa/simd.h"
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace spindle::cpu {

// Linux hands the tiles' registers out on request only (Documentation/arch/x86/xstate.rst). The
// permission is the process's: threads that run already have it too. An older kernel, or one that
// was told to refuse, leaves the processor's other instructions.
bool amx_permitted() {
#if defined(__x86_64__) && defined(__linux__)
  static const bool permitted = [] {
    constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & kAmxBf16) == 0 ||
        (edx & kAmxTile) == 0)
      return false;
    constexpr long kRequestPermission = 0x1023,
                   kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return permitted;
#else
  return false;
#endif
}

}  // namespace spindle::cpu
