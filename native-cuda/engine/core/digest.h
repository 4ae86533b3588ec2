// Are these the same bytes? Quick, with no claim against malice.
#pragma once
#include <cstdint>
#include <cstring>

namespace spindle {

inline uint64_t digest_of(const void* data, size_t bytes) {
  constexpr uint64_t kPrime =
      0x9e3779b97f4a7c15;  // odd, so that each step is a bijection of the lane
  const char* at = static_cast<const char*>(data);
  uint64_t lanes[4] = {1, 2, 3, 4};
  size_t i = 0;
  auto mix = [](uint64_t lane, uint64_t word) {
    lane = (lane ^ word) * kPrime;
    return lane ^ (lane >> 29);
  };
  for (; i + 32 <= bytes; i += 32)
    for (size_t k = 0; k < 4; ++k) {
      uint64_t word;
      std::memcpy(&word, at + i + 8 * k, 8);
      lanes[k] = mix(lanes[k], word);
    }
  uint64_t digest = mix(bytes, 0);
  for (uint64_t lane : lanes) digest = mix(digest, lane);
  for (; i < bytes; ++i) digest = mix(digest, uint64_t(static_cast<unsigned char>(at[i])));
  return digest;
}

}  // namespace spindle
