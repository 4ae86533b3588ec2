// The instruction sets that tests run over.
#pragma once
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace spindle {

// Those that this processor has, from the plainest to the best.
inline std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const char* name : {"generic", "avx2", "avx512", "avx512_bf16"}) {
    names.push_back(name);
    if (names.back() == detect_isa()) return names;
  }
  names.push_back(detect_isa());  // one that is newer than this list
  return names;
}

}  // namespace spindle
