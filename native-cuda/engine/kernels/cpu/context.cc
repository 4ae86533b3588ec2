#include "kernels/cpu/context.h"

#include <mutex>

namespace spindle::cpu {

CpuContext::CpuContext(ThreadPool& threads, const Simd& simd)
    : threads(threads),
      simd(simd),
      packing(threads, simd),
      scratch_(size_t(threads.threads())),
      zeros_(size_t(64) << 10) {}

std::byte* CpuContext::grow(Tensor& buffer, int64_t bytes) {
  if (!buffer || int64_t(buffer.bytes()) < bytes) {
    static std::mutex growing;  // the pool serves one thread at a time
    std::lock_guard lock(growing);
    buffer = Tensor();
    pool.trim();  // a smaller block would never be used again
    buffer = Tensor(pool, {round_up(bytes, 4096) / 4}, DType::F32);
  }
  return static_cast<std::byte*>(buffer.raw());
}

const std::byte* CpuContext::zeros(int64_t bytes, const char* what) const {
  ensure(bytes <= int64_t(zeros_.size()), "[cpu] ", what, ": expected a row of at most ",
         zeros_.size(), " bytes, got ", bytes);
  return zeros_.data();
}

}  // namespace spindle::cpu
