// The instruction sets that tests run over.
#pragma once
#include <cstdio>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace spindle {

// Those that this processor has, from the plainest to the best, and AMX over emulated tiles.
inline const std::vector<std::string>& available_isas() {
  static const std::vector<std::string> available = [] {
    std::vector<std::string> names;
    ThreadPool threads(1);
    for (const char* name : {"generic", "avx2", "avx512", "avx512_bf16", "amx", "amx_emulated"})
      try {
        make_cpu_kernels(threads, {.isa = name});
        names.push_back(name);
      } catch (const Error& error) {
        std::printf("%s\n", error.what());
      }
    return names;
  }();
  return available;
}

}  // namespace spindle
