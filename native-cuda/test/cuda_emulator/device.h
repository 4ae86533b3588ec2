// CUDA's device language for a plain C++ compiler, enough of it for kernels/cuda. Blocks run one
// after another; the threads of a block are fibers once the first of them meets a barrier or a warp
// exchange, and a plain loop if it meets none. A kernel whose threads wait for different barriers,
// or leave without the others, is refused.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#include "core/dtype.h"
#include "kernels/cuda/runtime.h"

namespace spindle::emulator {

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

// Of the thread that runs.
extern Dim thread_index, block_index, block_size, grid_size;

void block_barrier();
void warp_barrier();
void* dynamic_shared();
// 64 bytes per lane of the running warp, for exchanges.
struct alignas(8) Slot {
  unsigned char bytes[64];
};
Slot* warp_slots();
inline unsigned lane() { return thread_index.x % 32; }

// What a device would refuse.
void check_launch(const char* name,
                  unsigned grid_x,
                  unsigned grid_y,
                  unsigned grid_z,
                  unsigned block,
                  size_t shared_bytes);
// All threads of a grid, now.
void run(const char* name,
         const Dim& grid,
         unsigned block,
         size_t shared_bytes,
         const std::function<void()>& thread);
// Puts work into a stream: it runs at once, or is kept for the graph that the stream captures.
// Device memory can be touched inside.
void enqueue(cuda::Stream stream, std::function<void()> work);

template <class T>
T exchange(T value, unsigned from) {
  static_assert(sizeof(T) <= sizeof(Slot));
  std::memcpy(&warp_slots()[lane()], &value, sizeof value);
  warp_barrier();
  T got;
  std::memcpy(&got, &warp_slots()[from], sizeof got);
  warp_barrier();
  return got;
}

}  // namespace spindle::emulator

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(type, name) \
  type* name = static_cast<type*>(::spindle::emulator::dynamic_shared())
#define threadIdx ::spindle::emulator::thread_index
#define blockIdx ::spindle::emulator::block_index
#define blockDim ::spindle::emulator::block_size
#define gridDim ::spindle::emulator::grid_size

inline void __syncthreads() { spindle::emulator::block_barrier(); }
inline void __syncwarp(unsigned = ~0u) { spindle::emulator::warp_barrier(); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int lanes) {
  return spindle::emulator::exchange(value, spindle::emulator::lane() ^ unsigned(lanes));
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return spindle::emulator::exchange(value, unsigned(lane) % 32);
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned by) {
  unsigned lane = spindle::emulator::lane();
  return spindle::emulator::exchange(value, lane + by < 32 ? lane + by : lane);
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t((uint64_t(a) * b) >> 32); }
using std::isfinite;
using std::isnan;
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }

namespace spindle::cuda {

// kernels/cuda/device_code.h says what these do.
void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void load_matrices(uint32_t (&r)[4], const void* row);
void load_matrices_transposed(uint32_t (&r)[4], const void* row);

}  // namespace spindle::cuda
