#include "kernels/profiled/peak.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>

#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace spindle {

namespace {

constexpr int kChains = 12;  // independent sums: latency 4 to 6 times two or three units

// Runs `rounds` rounds and returns how many operations that was. The sums are given away, so that
// no compiler drops them.
using Work = double (*)(int64_t rounds, float* sums);

// What the "generic" set compiles to: the compiler's own vectors, multiply and add apart.
double plain_f32(int64_t rounds, float* sums) {
  typedef float V __attribute__((vector_size(16)));
  V a = {1, 1, 1, 1}, b = {1e-7f, 1e-7f, 1e-7f, 1e-7f}, s[kChains] = {};
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (V& x : s) x = x * a + b;
#pragma GCC unroll 12
    for (V& x : s) asm volatile("" : "+x"(x));  // one round is not folded into the next
  }
  for (int c = 1; c < kChains; ++c) s[0] += s[c];
  std::memcpy(sums, &s[0], sizeof(V));
  return double(rounds) * kChains * 4 * 2;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) double avx2_f32(int64_t rounds, float* sums) {
  __m256 a = _mm256_set1_ps(1), b = _mm256_set1_ps(1e-7f), s[kChains];
  for (__m256& x : s) x = _mm256_setzero_ps();
  for (int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (__m256& x : s) x = _mm256_fmadd_ps(x, a, b);
  for (int c = 1; c < kChains; ++c) s[0] = _mm256_add_ps(s[0], s[c]);
  _mm256_storeu_ps(sums, s[0]);
  return double(rounds) * kChains * 8 * 2;
}

__attribute__((target("avx512f"))) double avx512_f32(int64_t rounds, float* sums) {
  __m512 a = _mm512_set1_ps(1), b = _mm512_set1_ps(1e-7f), s[kChains];
  for (__m512& x : s) x = _mm512_setzero_ps();
  for (int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (__m512& x : s) x = _mm512_fmadd_ps(x, a, b);
  for (int c = 1; c < kChains; ++c) s[0] = _mm512_add_ps(s[0], s[c]);
  _mm512_storeu_ps(sums, s[0]);
  return double(rounds) * kChains * 16 * 2;
}

__attribute__((target("avx512f,avx512bf16"))) double avx512_bf16(int64_t rounds, float* sums) {
  __m512i pairs = _mm512_set1_epi32(0x3f803f80);  // ones
  __m512bh a;
  std::memcpy(&a, &pairs, sizeof(a));
  __m512 s[kChains];
  for (__m512& x : s) x = _mm512_setzero_ps();
  for (int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (__m512& x : s) x = _mm512_dpbf16_ps(x, a, a);
  for (int c = 1; c < kChains; ++c) s[0] = _mm512_add_ps(s[0], s[c]);
  _mm512_storeu_ps(sums, s[0]);
  return double(rounds) * kChains * 16 * 2 * 2;
}

// Four sums of 16 × 16 from two by two tiles of 16 rows of 32, as a product would hold them.
__attribute__((target("amx-tile,amx-bf16"))) double amx_bf16(int64_t rounds, float* sums) {
  struct alignas(64) Config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  static_assert(sizeof(Config) == 64);
  alignas(64) uint16_t ones[512];
  std::fill(ones, ones + 512, uint16_t(0x3f80));
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, ones, 64);
  _tile_loadd(5, ones, 64);
  _tile_loadd(6, ones, 64);
  _tile_loadd(7, ones, 64);
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, ones, 64);
  _tile_release();
  std::memcpy(sums, ones, sizeof(float));
  return double(rounds) * 4 * 16 * 16 * 32 * 2;
}

// The system asks processes to say that they want the tiles; asking again is allowed.
bool may_use_amx() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

struct Choice {
  const char* instruction;
  Work work;
};

Choice choose([[maybe_unused]] const std::string& isa, [[maybe_unused]] DType dtype) {
#if defined(__x86_64__)
  if (dtype == DType::BF16 && isa.find("amx") != std::string::npos && may_use_amx())
    return {"AMX bfloat16 tiles", amx_bf16};
  if (dtype == DType::BF16 &&
      (isa.find("bf16") != std::string::npos || isa.find("amx") != std::string::npos))
    return {"AVX-512 bfloat16 dot products", avx512_bf16};
  if (isa.starts_with("avx512") || isa.find("amx") != std::string::npos)
    return {"AVX-512 float32 multiply-adds", avx512_f32};
  if (isa.starts_with("avx2")) return {"AVX2 float32 multiply-adds", avx2_f32};
#endif
  return {"float32 multiplies and adds of 16 bytes", plain_f32};
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double operations_per_second(ThreadPool& threads, Work work) {
  struct alignas(64) Part {
    float sums[16];
    double operations;
  };
  std::vector<Part> parts(size_t(threads.threads()));
  double best = 0;
  int64_t rounds = 1 << 12;
  // Rounds grow until a run takes some 10 ms: a shorter one is all wake-up.
  for (int measured = 0; measured < 5;) {
    auto start = std::chrono::steady_clock::now();
    threads.run(int64_t(parts.size()), [&](int64_t i, int) {
      parts[size_t(i)].operations = work(rounds, parts[size_t(i)].sums);
    });
    double seconds = seconds_since(start), operations = 0;
    for (const Part& part : parts) operations += part.operations;
    if (seconds < 0.01) {
      rounds *= 2;
      continue;
    }
    best = std::max(best, operations / seconds);
    ++measured;
  }
  return best;
}

double bytes_per_second(ThreadPool& threads) {
  constexpr size_t kBytes = size_t(128) << 20, kPart = size_t(1) << 20;
  std::unique_ptr<std::byte[]> from(new std::byte[kBytes]), to(new std::byte[kBytes]);
  std::memset(from.get(), 1, kBytes);  // pages are made before they are timed
  std::memset(to.get(), 2, kBytes);
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    auto start = std::chrono::steady_clock::now();
    threads.run(int64_t(kBytes / kPart), [&](int64_t part, int) {
      std::memcpy(to.get() + size_t(part) * kPart, from.get() + size_t(part) * kPart, kPart);
    });
    best = std::max(best, 2 * double(kBytes) / seconds_since(start));
  }
  return best;
}

}  // namespace

Peak measure_peak(ThreadPool& threads, const std::string& isa, DType dtype) {
  Choice choice = choose(isa, dtype);
  return {choice.instruction, operations_per_second(threads, choice.work) / 1e9,
          bytes_per_second(threads) / 1e9};
}

}  // namespace spindle
