// What device code is written against: CUDA under nvcc; under a plain C++ compiler with
// SPINDLE_CUDA_EMULATED, the emulator in test/cuda_emulator (threads of a block as fibers, so
// barriers and warp exchanges mean what they mean on a device).
//
// Kernels are started by launch(), never by <<<>>>. Dynamic shared memory is declared with
// DYNAMIC_SHARED. Element types are float and spindle::bf16 (its 16 bits); arithmetic is float:
// widen(x), narrow<T>(x).
#pragma once
#include <cstdint>
#include <type_traits>
#include <utility>

#include "core/dtype.h"
#include "core/error.h"
#include "kernels/cuda/runtime.h"

#if defined(SPINDLE_CUDA_EMULATED)
#include "cuda_emulator/device.h"
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#define DYNAMIC_SHARED(type, name)                                        \
  extern __shared__ __align__(16) unsigned char spindle_dynamic_shared[]; \
  type* name = reinterpret_cast<type*>(spindle_dynamic_shared)
#endif

namespace spindle::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

#if defined(SPINDLE_CUDA_EMULATED)

template <class... Parameters, class... Arguments>
void launch(const char* name,
            void (*kernel)(Parameters...),
            Grid grid,
            unsigned block,
            size_t shared_bytes,
            Stream stream,
            Arguments... arguments) {
  emulator::check_launch(name, grid.x, grid.y, grid.z, block, shared_bytes);
  emulator::enqueue(stream, [=] {
    emulator::run(name, {grid.x, grid.y, grid.z}, block, shared_bytes,
                  [=] { kernel(static_cast<Parameters>(arguments)...); });
  });
}

#elif defined(__CUDACC__)

// runtime.cu
void check_launch(const char* name, cudaError_t status);

template <class... Parameters, class... Arguments>
void launch(const char* name,
            void (*kernel)(Parameters...),
            Grid grid,
            unsigned block,
            size_t shared_bytes,
            Stream stream,
            Arguments... arguments) {
  if (shared_bytes > 48 * 1024)
    check_launch(name, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            int(shared_bytes)));
  kernel<<<dim3(grid.x, grid.y, grid.z), block, shared_bytes, stream>>>(
      static_cast<Parameters>(arguments)...);
  check_launch(name, cudaGetLastError());
}

#endif

// --- element types

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(bf16 x) {
#if defined(SPINDLE_CUDA_EMULATED)
  return to_float(x);
#else
  return __uint_as_float(uint32_t(x.bits) << 16);
#endif
}

template <class T>
__device__ __forceinline__ T narrow(float x) {
  if constexpr (std::is_same_v<T, bf16>) {
#if defined(SPINDLE_CUDA_EMULATED)
    return to_bf16(x);
#else
    return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#endif
  } else {
    return T(x);
  }
}

// Two floats as a pair of bfloat16 in one register, the first in the low half: operands of mma and
// ldmatrix.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  return uint32_t(narrow<bf16>(low).bits) | uint32_t(narrow<bf16>(high).bits) << 16;
}

// Neighbouring elements, read and written at once: 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};

// --- warp and block sums, in an order fixed by the block's size; `scratch` holds one value per
// warp

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
  return x;
}

// The same in every thread. The block is a multiple of a warp; scratch may be used again after the
// next barrier.
template <class T>
__device__ __forceinline__ T block_sum(T x, T* scratch) {
  x = warp_sum(x);
  int warp = int(threadIdx.x) / kWarp, warps = int(blockDim.x) / kWarp;
  if (threadIdx.x % kWarp == 0) scratch[warp] = x;
  __syncthreads();
  T sum = 0;
  for (int i = 0; i < warps; ++i) sum += scratch[i];
  __syncthreads();
  return sum;
}

// --- tensor cores

#if !defined(SPINDLE_CUDA_EMULATED)
// d (16, 8) = a (16, 16) b (16, 8) + d for one warp: bfloat16 operands, float32 sums (PTX
// mma.sync.m16n8k16). With g = lane / 4 and t = lane % 4, pairs along k from 2 t: a = rows g, g +
// 8, g, g + 8 at k 0, 0, 8, 8; b = column g at k 0, 8; d = row g columns 2 t, 2 t + 1, then row g
// + 8.
__device__ __forceinline__ void mma_16816(float (&d)[4],
                                          const uint32_t (&a)[4],
                                          const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8x8 matrices of bfloat16 from shared memory: lane l gives the address of row l % 8 of matrix
// l / 8 (16-byte aligned), and gets elements 2 (l % 4) and the next of row l / 4 of each;
// transposed: of column l / 4.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
  uint32_t address = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  uint32_t address = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
#endif

}  // namespace spindle::cuda
