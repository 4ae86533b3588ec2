// Attention by products of blocks: operands of one head as the tile kernels read them, and the
// scratch memory of a task. attention.cc has forward, attention_backward.cc backward.
#pragma once
#include <cmath>
#include <cstring>

#include "kernels/cpu/context.h"
#include "kernels/operands/attention.h"

namespace spindle::cpu {

// Carves arrays out of one scratch block; `bytes` is how much they need when there is no block yet.
struct Carve {
  std::byte* base = nullptr;
  int64_t bytes = 0;
  template <class T>
  T* take(int64_t n) {
    T* p = base ? reinterpret_cast<T*>(base + bytes) : nullptr;
    bytes += round_up(n * int64_t(sizeof(T)), 64);
    return p;
  }
};

// A task's named buffers, `Tile(carve, sizes)`, in its thread's scratch.
template <class Tile, class Sizes>
Tile tile_in_scratch(CpuContext& cpu, int thread, const Sizes& sizes) {
  Carve needed;
  Tile counted(needed, sizes);
  Carve memory{cpu.scratch(thread, needed.bytes)};
  return Tile(memory, sizes);
}

// Operands of one head, and products of them.
class HeadProducts {
 public:
  HeadProducts(const Simd& table, const Tensor& q, const AttentionArgs& args)
      : simd(table),
        bf16(is_bf16(q)),
        size(bf16 ? 2 : 4),
        c(q.dim(2)),
        d(c / args.heads),
        ld(round_up(d, simd.width)),
        panel(int64_t(simd.width) * simd.max_vectors) {
    scale = float(args.scale != 0 ? args.scale : 1.0 / std::sqrt(double(d)));
  }
  const Simd& simd;
  bool bf16;
  int64_t size;   // bytes of an element
  int64_t c, d;   // width of all heads, of one
  int64_t ld;     // of one, padded
  int64_t panel;  // columns of a full panel
  float scale;

  // A row of a (B, T, C) tensor's head.
  char* row(const Tensor& t, int64_t image, int64_t head, int64_t i) const {
    return at(t.raw(), (image * t.dim(1) + i) * c + head * d, t.dtype());
  }
  void point(const void** out, const void* first, int64_t stride, int64_t rows) const {
    for (int64_t i = 0; i < rows; ++i) {
      out[i] = static_cast<const char*>(first) + i * stride * size;
      __builtin_prefetch(out[i]);  // rows of a head lie apart: their misses overlap here
    }
  }
  // Bytes of a packed right-hand side, k by n.
  int64_t packed(int64_t k, int64_t n) const {
    return (bf16 ? (k + 1) / 2 : k) * round_up(n, simd.width) * 4;
  }
  // Rows of a head as the right-hand side whose k is the rows.
  void pack_rows(std::byte* to, const char* x, int64_t rows) const {
    for (int64_t p = 0; p < ld; p += panel) {
      int64_t width = std::min(panel, ld - p), n = std::min(width, d - p);
      if (bf16) {
        for (int64_t i = 0; i < rows; i += 2, to += width * 4) {
          const uint16_t* even = reinterpret_cast<const uint16_t*>(x) + i * c + p;
          simd.interleave(reinterpret_cast<uint16_t*>(to), even, i + 1 < rows ? even + c : nullptr,
                          n, width);
        }
      } else {
        for (int64_t i = 0; i < rows; ++i, to += width * 4) {
          std::memcpy(to, x + (i * c + p) * 4, size_t(n) * 4);
          std::memset(to + n * 4, 0, size_t(width - n) * 4);
        }
      }
    }
  }
  // Rows of a head as the right-hand side whose columns are the rows, and k the head's width.
  void pack_transposed(std::byte* to, const char* x, int64_t rows) const {
    int64_t padded = round_up(rows, simd.width), halves = size / 2;
    for (int64_t p = 0; p < padded; p += panel) {
      int64_t width = std::min(panel, padded - p);
      simd.transpose_pairs(reinterpret_cast<uint32_t*>(to), width,
                           reinterpret_cast<const uint16_t*>(x) + p * c * halves, c * halves,
                           std::min(width, rows - p), d * halves, width);
      to += packed(d, width);
    }
  }
  // out (rows, ldc) (+)= a (rows of pointers to k elements) * b, packed
  void multiply(float* out,
                int64_t ldc,
                const void* const* a,
                int64_t rows,
                int64_t k,
                const std::byte* b,
                int64_t columns,
                bool accumulate) const {
    auto gemm = bf16 ? simd.gemm_bf16 : simd.gemm_f32;
    for (int64_t p = 0; p < columns; p += panel) {
      int64_t width = std::min(panel, columns - p), vectors = width / simd.width,
              tile = tile_rows(simd, vectors, bf16);
      for (int64_t r = 0; r < rows; r += tile)
        gemm({a + r, 1, std::min(tile, rows - r), k, b, width, vectors, out + r * ldc + p, ldc,
              accumulate});
      b += packed(k, width);
    }
  }
  // dq (queries, ld) += dS^T (keys, ldq) transposed * K, packed by rows. Pairs of bfloat16 lie
  // along keys, so dS is transposed for them, into `t` with its rows at t_rows; float32 is summed
  // key by key as it lies.
  void add_to_queries(float* dq,
                      const std::byte* ds,
                      int64_t ldq,
                      int64_t keys,
                      int64_t queries,
                      const std::byte* k,
                      std::byte* t,
                      int64_t ldk,
                      const void* const* t_rows) const {
    if (bf16) {
      simd.transpose_bf16(reinterpret_cast<uint16_t*>(t), ldk,
                          reinterpret_cast<const uint16_t*>(ds), ldq, keys, queries);
      multiply(dq, ld, t_rows, queries, keys, k, ld, true);
      return;
    }
    for (int64_t p = 0; p < ld; p += panel) {
      int64_t width = std::min(panel, ld - p), vectors = width / simd.width,
              tile = simd.rows_for[vectors];
      for (int64_t r = 0; r < queries; r += tile) {
        OuterRun run{reinterpret_cast<const float*>(ds) + r, reinterpret_cast<const float*>(k),
                     keys};
        simd.outer_f32(
            {&run, 1, ldq, width, std::min(tile, queries - r), vectors, dq + r * ld + p, ld, true});
      }
      k += packed(keys, width);
    }
  }
  void store(const GradSlot& slot,
             const float* x,
             int64_t image,
             int64_t head,
             int64_t first,
             int64_t rows) const {
    for (int64_t i = 0; i < rows; ++i)
      simd.store_row({row(slot.tensor, image, head, first + i), x + i * ld, nullptr, nullptr,
                      nullptr, d, slot.accumulate},
                     bf16);
  }
};

}  // namespace spindle::cpu
