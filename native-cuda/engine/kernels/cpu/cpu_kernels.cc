#include "kernels/cpu/cpu_kernels.h"

#include <cstring>

namespace spindle::cpu {

KernelCounters CpuKernels::counters() const {
  return {.packs = context_.packing.packs(),
          .packed_bytes = context_.packing.packed_bytes(),
          .system_allocations =
              context_.packing.system_allocations() + context_.pool.stats().system_allocations};
}

namespace {

bool has(const char* feature) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!std::strcmp(feature, "avx2"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (!std::strcmp(feature, "avx512")) return avx512;
  bool avx512_bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  if (!std::strcmp(feature, "avx512_bf16")) return avx512_bf16;
  if (!std::strcmp(feature, "amx")) return avx512_bf16 && amx_permitted();
  if (!std::strcmp(feature, "amx_emulated")) return avx512;
#endif
  return !std::strcmp(feature, "generic");
}

const Simd* table(const char* name) {
  if (!std::strcmp(name, "amx")) return simd_amx();
  if (!std::strcmp(name, "amx_emulated")) return simd_amx_emulated();
  if (!std::strcmp(name, "avx512_bf16")) return simd_avx512_bf16();
  if (!std::strcmp(name, "avx512")) return simd_avx512();
  if (!std::strcmp(name, "avx2")) return simd_avx2();
  if (!std::strcmp(name, "generic")) return simd_generic();
  return nullptr;
}

constexpr const char* kBestFirst[] = {"amx", "avx512_bf16", "avx512", "avx2", "generic"};

}  // namespace
}  // namespace spindle::cpu

namespace spindle {

const char* detect_isa() {
  for (const char* name : cpu::kBestFirst)
    if (cpu::has(name) && cpu::table(name)) return name;
  return "generic";
}

std::unique_ptr<Backend> make_cpu_kernels(ThreadPool& threads, const CpuOptions& options) {
  const char* name = std::strcmp(options.isa, "auto") ? options.isa : detect_isa();
  const cpu::Simd* simd = cpu::table(name);
  require(simd != nullptr,
          "[cpu] isa: expected auto, amx, avx512_bf16, avx512, avx2 or generic, got ", options.isa);
  require(cpu::has(name), "[cpu] isa: this processor, or its system, has no ", name,
          "; the best it has is ", detect_isa());
  return std::make_unique<cpu::CpuKernels>(threads, *simd);
}

}  // namespace spindle
