// Gradients of weights: dw[m][tap][n] = sum over positions of dy[position][m] * x[position at
// tap][n].
//
// Positions come in blocks that fit the second-level cache. A task owns a piece of dw and walks all
// blocks in order, so the sum does not depend on threads. The side with more channels is read as
// vectors, the other broadcast.
#pragma once
#include <algorithm>
#include <cstring>

#include "kernels/cpu/outer_pairs.h"

namespace spindle::cpu {

constexpr int64_t kOuterPositions = 256;
constexpr int64_t kGroupColumns = 256;  // of one task
constexpr int64_t kDenseFloats = 256;   // a row of more is copied piece by piece

// `count` positions from `m` on the dy side and `n` on the x side of a block.
struct OuterSpan {
  int64_t m, n, count;
};

// What `Runs` offers: blocks(); positions(block) and n_positions(block), the rows of both sides
// that a block touches, and most_positions(), a bound on both; positions_per_image(), 1 where
// positions are not pixels; m_base and n_base, where they start; runs(out, block, tap); max_runs();
// m_step() and n_step(), positions between two of a run.
template <class Runs>
void CpuKernels::outer_product(const Runs& runs,
                               int64_t m,
                               int64_t n,
                               int64_t taps,
                               const GradSlot& dw,
                               int64_t m_stride,
                               int64_t tap_stride,
                               int64_t n_stride) {
  if (is_bf16(runs.dy) && is_bf16(runs.x) && n >= simd_.width) {
    outer_product_pairs(runs, m, n, taps, dw, m_stride, tap_stride, n_stride);
    return;
  }
  auto outer = sums_in_double(m * n * taps, runs.positions_per_image()) ? simd_.outer_f32_wide
                                                                        : simd_.outer_f32;
  bool swap =
      n < m &&
      n < simd_.width * simd_.max_vectors;  // vectors along m when n is too narrow to fill them
  int64_t rows_total = swap ? n : m, columns_total = swap ? m : n;
  DType row_dtype = swap ? runs.x.dtype() : runs.dy.dtype(),
        column_dtype = swap ? runs.dy.dtype() : runs.x.dtype();
  int64_t panel = int64_t(simd_.width) * simd_.max_vectors;
  int64_t panels = divide_up(columns_total, panel);
  // Pieces of both sides: as large as the cache allows, since what is read of one side is read
  // again for every piece of the other, and still enough tasks for balance.
  int64_t row_piece = std::min<int64_t>(rows_total, 192),
          group = divide_up(panels, divide_up(panels, std::max<int64_t>(kGroupColumns / panel, 1)));
  auto tasks = [&] { return divide_up(panels, group) * taps * divide_up(rows_total, row_piece); };
  while (group > 1 && tasks() < 8) group = divide_up(group, 2);
  while (row_piece > 48 && tasks() < 8) row_piece /= 2;
  int64_t row_pieces = divide_up(rows_total, row_piece);
  threads_.run(tasks(), [&](int64_t task, int thread) {
    int64_t p = task / (taps * row_pieces) * group, tap = task / row_pieces % taps,
            row0 = task % row_pieces * row_piece;
    int64_t rows = std::min(row_piece, rows_total - row0), n0 = p * panel,
            columns = std::min(group * panel, columns_total - n0);
    int64_t width = round_up(columns, simd_.width);
    // Rows that lie far apart share cache sets, and are read once per tile: a dense copy is
    // cheaper.
    bool copy_columns =
             column_dtype != DType::F32 || width != columns || columns_total > kDenseFloats,
         copy_rows = row_dtype != DType::F32 || rows_total > kDenseFloats;
    int64_t most = runs.most_positions();
    int64_t c_floats = rows * width, b_floats = copy_columns ? most * width : 0,
            a_floats = copy_rows ? most * rows : 0;
    std::byte* memory =
        scratch(thread, (c_floats + b_floats + a_floats) * 4 +
                            runs.max_runs() * int64_t(sizeof(OuterSpan) + sizeof(OuterRun)) + 64);
    float *c = reinterpret_cast<float*>(memory), *b_copy = c + c_floats,
          *a_copy = b_copy + b_floats;
    OuterSpan* spans = reinterpret_cast<OuterSpan*>(
        (reinterpret_cast<uintptr_t>(a_copy + a_floats) + 15) & ~uintptr_t(15));
    OuterRun* calls = reinterpret_cast<OuterRun*>(spans + runs.max_runs());
    bool first = true;
    for (int64_t block = 0; block < runs.blocks(); ++block) {
      int64_t count = runs.runs(spans, block, tap);
      if (count == 0) continue;
      const void* row_base = swap ? runs.n_base(block) : runs.m_base(block);
      const void* column_base = swap ? runs.m_base(block) : runs.n_base(block);
      int64_t row_positions = swap ? runs.n_positions(block) : runs.positions(block),
              column_positions = swap ? runs.positions(block) : runs.n_positions(block);
      ensure(row_positions <= most && column_positions <= most,
             "[outer_product] a block is larger than its scratch");
      const float* a = static_cast<const float*>(row_base) + row0;
      int64_t lda = rows_total;
      if (copy_rows) {
        for (int64_t i = 0; i < row_positions; ++i) {
          if (row_dtype == DType::BF16)
            simd_.to_f32(a_copy + i * rows,
                         static_cast<const uint16_t*>(row_base) + i * rows_total + row0, rows);
          else
            std::memcpy(a_copy + i * rows,
                        static_cast<const float*>(row_base) + i * rows_total + row0,
                        size_t(rows) * 4);
        }
        a = a_copy;
        lda = rows;
      }
      int64_t row_step = swap ? runs.n_step() : runs.m_step(),
              column_step = swap ? runs.m_step() : runs.n_step();
      // Panel by panel: j is where one starts in the group, and its copy lies behind those before
      // it.
      for (int64_t j = 0; j < columns; j += panel) {
        int64_t panel_columns = std::min(panel, columns - j),
                panel_width = round_up(panel_columns, simd_.width);
        int64_t vectors = panel_width / simd_.width, tile = simd_.rows_for[vectors];
        const float* b = static_cast<const float*>(column_base) + n0 + j;
        int64_t ldb = columns_total;
        if (copy_columns) {
          float* to = b_copy + j * most;
          for (int64_t i = 0; i < column_positions; ++i) {
            if (column_dtype == DType::BF16)
              simd_.to_f32(to + i * panel_width,
                           static_cast<const uint16_t*>(column_base) + i * columns_total + n0 + j,
                           panel_columns);
            else
              std::memcpy(to + i * panel_width,
                          static_cast<const float*>(column_base) + i * columns_total + n0 + j,
                          size_t(panel_columns) * 4);
            std::memset(to + i * panel_width + panel_columns, 0,
                        size_t(panel_width - panel_columns) * 4);
          }
          b = to;
          ldb = panel_width;
        }
        for (int64_t i = 0; i < count; ++i) {
          int64_t at_row = swap ? spans[i].n : spans[i].m,
                  at_column = swap ? spans[i].m : spans[i].n;
          calls[i] = {a + at_row * lda, b + at_column * ldb, spans[i].count};
        }
        for (int64_t r = 0; r < rows; r += tile) {
          int64_t height = std::min(tile, rows - r);
          if (r > 0)
            for (int64_t i = 0; i < count; ++i) calls[i].a += tile;
          outer({calls, count, lda * row_step, ldb * column_step, height, vectors,
                 c + r * width + j, width, !first});
        }
      }
      first = false;
    }
    float* out = dw.tensor.f32();
    int64_t row_stride = swap ? n_stride : m_stride, column_stride = swap ? m_stride : n_stride;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < columns; ++j) {
        float value = first ? 0.0f : c[r * width + j];
        float& target = out[(row0 + r) * row_stride + tap * tap_stride + (n0 + j) * column_stride];
        target = dw.accumulate ? target + value : value;
      }
  });
}

}  // namespace spindle::cpu
