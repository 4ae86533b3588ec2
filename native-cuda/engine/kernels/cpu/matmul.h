// The matmul driver: rows of pointers against packed panels. Convolutions pass one pointer per
// filter tap (an indirect convolution: no im2col buffer), linear layers one pointer per row.
#pragma once
#include <algorithm>
#include <concepts>

#include "kernels/cpu/context.h"

namespace spindle::cpu {

// Rows of one task; a multiple of every tile height, so that tiles do not depend on where a task
// starts.
constexpr int64_t kTaskRows = 96;
// A block of the panel that stays in the second-level cache while a task's rows pass over it.
constexpr int64_t kBlockBytes = 256 << 10;

// Weights up to this size stay in the second-level cache, so a task takes its rows past all panels
// while they are warm; larger ones pass panel by panel over all rows. Too few tasks are split by
// panel.
constexpr int64_t kCachedWeights = 512 << 10;
constexpr int64_t kManyChunks = 8;
// Outputs from this size on leave the caches before anybody reads them: they are stored past them,
// which saves reading what is overwritten.
constexpr int64_t kStreamedBytes = 8 << 20;
constexpr int64_t kLineBytes = 64;

constexpr int64_t kMaxTileRows = 32;  // of any instruction set's tile kernels

// The left-hand side of a product, and where its result goes.
template <class R>
concept ProductRows =
    requires(const R& rows, const void** out, int64_t row, int64_t n, int64_t tap, int64_t k0) {
      // Rows of y; segments of a row and their length.
      { rows.count } -> std::convertible_to<int64_t>;
      { rows.taps } -> std::convertible_to<int64_t>;
      { rows.k } -> std::convertible_to<int64_t>;
      // Rows of an image; 1 where rows are not pixels.
      { rows.positions_per_image() } -> std::convertible_to<int64_t>;
      // out[(tap - tap0) * n + i] = input of row + i at tap, from element k0:
      // pointers(out, row, n, tap0, tap1, k0)
      rows.pointers(out, row, n, tap, tap, k0);
      // Where a tap lies in the packed panels.
      { rows.weight_tap(tap) } -> std::convertible_to<int64_t>;
      // weight_tap(t) == weight_tap(0) + t
      { rows.contiguous_taps } -> std::convertible_to<bool>;
      // Row `row` of y from column n0 on; the driver fills in the sums.
      { rows.output(row, n) } -> std::same_as<RowCall>;
      { rows.output_dtype } -> std::convertible_to<DType>;
      { rows.accumulate } -> std::convertible_to<bool>;
      // Row i + 1 of y lies right after row i; so does the input of row i + 1.
      { rows.dense() } -> std::convertible_to<bool>;
      { rows.contiguous_rows() } -> std::convertible_to<bool>;
    };

// Such stores are not ordered by what tells other threads that a task is done.
inline void finish_stores_past_caches() {
#if defined(__x86_64__)
  __builtin_ia32_sfence();
#endif
}

// work(panel, chunk, thread) for all of both.
template <class Work>
void run_products(CpuContext& cpu, const Packed& b, int64_t chunks, int64_t panels, Work&& work) {
  if (b.bytes() <= kCachedWeights && chunks >= kManyChunks) {
    cpu.threads.run(chunks, [&](int64_t chunk, int thread) {
      for (int64_t panel = 0; panel < panels; ++panel) work(panel, chunk, thread);
    });
  } else {
    cpu.threads.run(chunks * panels,
                    [&](int64_t task, int thread) { work(task / chunks, task % chunks, thread); });
  }
}

// y (+)= rows * b, with all that a row's output asks for.
template <ProductRows Rows>
void multiply(CpuContext& cpu, const Rows& rows, const Packed& b) {
  if (rows.count == 0) return;
  bool bf16 = b.dtype == DType::BF16;
  bool wide = !bf16 && sums_in_double(b.taps * b.k * b.n, rows.positions_per_image());
  auto gemm = bf16 ? cpu.simd.gemm_bf16 : wide ? cpu.simd.gemm_f32_wide : cpu.simd.gemm_f32;
  // Whole tiles go from registers to where they belong, where rows of y follow one another.
  auto gemm_store = rows.output_dtype != b.dtype || wide || !rows.dense() ? nullptr
                    : bf16                                                ? cpu.simd.gemm_bf16_store
                                                                          : cpu.simd.gemm_f32_store;
  int64_t chunks = divide_up(rows.count, kTaskRows), panels = b.panels();
  // In whole lines alone: a part of one would be a write of its own.
  int64_t row_size = b.n * int64_t(dtype_size(rows.output_dtype)),
          panel_size = b.panel * int64_t(dtype_size(rows.output_dtype));
  bool stream = !rows.accumulate && rows.count * row_size >= kStreamedBytes &&
                row_size % kLineBytes == 0 && panel_size % kLineBytes == 0;
  auto work = [&](int64_t panel, int64_t chunk, int thread) {
    int64_t row0 = chunk * kTaskRows, row1 = std::min(rows.count, row0 + kTaskRows);
    int64_t width = b.panel_width(panel), vectors = width / cpu.simd.width,
            tile = tile_rows(cpu.simd, vectors, bf16);
    int64_t n0 = panel * b.panel, columns = std::min(width, b.n - n0);
    int64_t row_bytes = b.row_bytes(panel), tap_bytes = b.k_rows() * row_bytes;
    int64_t tap_step =
        rows.contiguous_taps
            ? std::clamp<int64_t>(kBlockBytes / std::max<int64_t>(tap_bytes, 1), 1, rows.taps)
            : 1;
    int64_t k_step =
        tap_bytes <= kBlockBytes
            ? rows.k
            : std::max<int64_t>(kBlockBytes / row_bytes * (bf16 ? 2 : 1) & ~int64_t(1), 2);
    bool one_block = tap_step >= rows.taps && k_step >= rows.k;
    int64_t pointer_bytes = tap_step * tile * int64_t(sizeof(void*));
    std::byte* memory = cpu.scratch(thread, kTaskRows * width * 4 + pointer_bytes);
    float* c = reinterpret_cast<float*>(memory);
    const void** pointers = reinterpret_cast<const void**>(memory + kTaskRows * width * 4);
    auto store = [&](int64_t row, int64_t count, const float* from) {
      for (int64_t i = 0; i < count; ++i) {
        RowCall call = rows.output(row + i, n0);
        call.c = from + i * width;
        call.n = columns;
        call.stream = stream;
        cpu.simd.store_row(call, rows.output_dtype == DType::BF16);
      }
    };
    const int64_t row_input = rows.k * (bf16 ? 2 : 4);
    bool first = true;
    for (int64_t tap0 = 0; tap0 < rows.taps; tap0 += tap_step) {
      int64_t tap1 = std::min(rows.taps, tap0 + tap_step);
      for (int64_t k0 = 0; k0 < rows.k; k0 += k_step) {
        int64_t k1 = std::min(rows.k, k0 + k_step);
        for (int64_t row = row0; row < row1; row += tile) {
          int64_t count = std::min(tile, row1 - row);
          rows.pointers(pointers, row, count, tap0, tap1, k0);
          GemmCall call{pointers,
                        tap1 - tap0,
                        count,
                        k1 - k0,
                        b.block(panel, rows.weight_tap(tap0), k0),
                        width,
                        vectors,
                        c + (one_block ? 0 : (row - row0) * width),
                        width,
                        !first};
          if (one_block && gemm_store && count == tile) {
            RowCall out = rows.output(row, n0);
            // Rows of a matrix follow one another: all whole tiles of an image in one call, which
            // fetches the rows of the next tile.
            int64_t tiles = rows.taps == 1 && rows.contiguous_rows() ? (row1 - row) / tile : 1;
            while (tiles > 0 && out.per_image != rows.output(row + tiles * tile - 1, n0).per_image)
              --tiles;
            if (tiles > 0) {
              if (rows.taps == 1)
                call.fetch = {static_cast<const char*>(pointers[count - 1]) + row_input, tile * 4};
              gemm_store(call, {out.y, b.n, out.bias, out.per_image, out.residual, columns,
                                out.accumulate, stream, tiles, tile * row_input});
              row += (tiles - 1) * tile;
              continue;
            }
          }
          gemm(call);
          if (one_block) store(row, count, c);
        }
        first = false;
      }
    }
    if (!one_block) store(row0, row1 - row0, c);
    if (stream) finish_stores_past_caches();
  };
  run_products(cpu, b, chunks, panels, work);
}

}  // namespace spindle::cpu
