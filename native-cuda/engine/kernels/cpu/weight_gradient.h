// Gradients of weights: dw[m][tap][n] = sum over positions of dy[position][m] * x[position at
// tap][n].
//
// Positions come in blocks that fit the second-level cache. A task owns a piece of dw and walks all
// blocks in order, so the sum does not depend on threads. The side with more channels is read as
// vectors, the other broadcast.
#pragma once
#include <algorithm>
#include <cstring>

#include "kernels/cpu/weight_gradient_pairs.h"

namespace spindle::cpu {

constexpr int64_t kGradientPositions = 256;
constexpr int64_t kGroupColumns = 256;  // of one task
constexpr int64_t kDenseFloats = 256;   // a row of more is copied piece by piece

// `count` positions from `m` on the dy side and `n` on the x side of a block.
struct GradientSpan {
  int64_t m, n, count;
};

// Positions of both sides, in blocks.
template <class R>
concept GradientRuns =
    GradientPairs<R> && requires(const R& runs, GradientSpan* out, int64_t block, int64_t tap) {
      // The x side's rows that a block touches, as positions(block) is dy's; a bound on both.
      { runs.n_positions(block) } -> std::convertible_to<int64_t>;
      { runs.most_positions() } -> std::convertible_to<int64_t>;
      // 1 where positions are not pixels.
      { runs.positions_per_image() } -> std::convertible_to<int64_t>;
      // Where the x side's rows of a block start.
      { runs.n_base(block) } -> std::convertible_to<const void*>;
      // Writes the spans of a block at a tap; how many there are, and may be.
      { runs.runs(out, block, tap) } -> std::convertible_to<int64_t>;
      { runs.max_runs() } -> std::convertible_to<int64_t>;
      // Positions between two of a span.
      { runs.m_step() } -> std::convertible_to<int64_t>;
      { runs.n_step() } -> std::convertible_to<int64_t>;
    };

template <GradientRuns Runs>
void weight_gradient(CpuContext& cpu, const Runs& runs, const WeightGradient& to) {
  const int64_t m = to.m, n = to.n, taps = to.taps;
  if (is_bf16(runs.dy) && is_bf16(runs.x) && n >= cpu.simd.width)
    return weight_gradient_pairs(cpu, runs, to);
  auto outer = sums_in_double(m * n * taps, runs.positions_per_image()) ? cpu.simd.outer_f32_wide
                                                                        : cpu.simd.outer_f32;
  bool swap =
      n < m && n < cpu.simd.width *
                       cpu.simd.max_vectors;  // vectors along m when n is too narrow to fill them
  int64_t rows_total = swap ? n : m, columns_total = swap ? m : n;
  DType row_dtype = swap ? runs.x.dtype() : runs.dy.dtype(),
        column_dtype = swap ? runs.dy.dtype() : runs.x.dtype();
  int64_t panel = int64_t(cpu.simd.width) * cpu.simd.max_vectors;
  int64_t panels = divide_up(columns_total, panel);
  // Pieces of both sides: as large as the cache allows, since what is read of one side is read
  // again for every piece of the other, and still enough tasks for balance.
  int64_t row_piece = std::min<int64_t>(rows_total, 192),
          group = divide_up(panels, divide_up(panels, std::max<int64_t>(kGroupColumns / panel, 1)));
  auto tasks = [&] { return divide_up(panels, group) * taps * divide_up(rows_total, row_piece); };
  while (group > 1 && tasks() < 8) group = divide_up(group, 2);
  while (row_piece > 48 && tasks() < 8) row_piece /= 2;
  int64_t row_pieces = divide_up(rows_total, row_piece);
  cpu.threads.run(tasks(), [&](int64_t task, int thread) {
    int64_t p = task / (taps * row_pieces) * group, tap = task / row_pieces % taps,
            row0 = task % row_pieces * row_piece;
    int64_t rows = std::min(row_piece, rows_total - row0), n0 = p * panel,
            columns = std::min(group * panel, columns_total - n0);
    int64_t width = round_up(columns, cpu.simd.width);
    // Rows that lie far apart share cache sets, and are read once per tile: a dense copy is
    // cheaper.
    bool copy_columns =
             column_dtype != DType::F32 || width != columns || columns_total > kDenseFloats,
         copy_rows = row_dtype != DType::F32 || rows_total > kDenseFloats;
    int64_t most = runs.most_positions();
    int64_t c_floats = rows * width, b_floats = copy_columns ? most * width : 0,
            a_floats = copy_rows ? most * rows : 0;
    std::byte* memory = cpu.scratch(
        thread, (c_floats + b_floats + a_floats) * 4 +
                    runs.max_runs() * int64_t(sizeof(GradientSpan) + sizeof(OuterRun)) + 64);
    float *c = reinterpret_cast<float*>(memory), *b_copy = c + c_floats,
          *a_copy = b_copy + b_floats;
    std::byte* rest = reinterpret_cast<std::byte*>(a_copy + a_floats);
    rest += (16 - reinterpret_cast<uintptr_t>(rest) % 16) % 16;
    GradientSpan* spans = reinterpret_cast<GradientSpan*>(rest);
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
             "[weight_gradient] a block is larger than its scratch");
      const float* a = static_cast<const float*>(row_base) + row0;
      int64_t lda = rows_total;
      if (copy_rows) {
        for (int64_t i = 0; i < row_positions; ++i) {
          if (row_dtype == DType::BF16)
            cpu.simd.to_f32(a_copy + i * rows,
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
                panel_width = round_up(panel_columns, cpu.simd.width);
        int64_t vectors = panel_width / cpu.simd.width, tile = cpu.simd.rows_for[vectors];
        const float* b = static_cast<const float*>(column_base) + n0 + j;
        int64_t ldb = columns_total;
        if (copy_columns) {
          float* to = b_copy + j * most;
          for (int64_t i = 0; i < column_positions; ++i) {
            if (column_dtype == DType::BF16)
              cpu.simd.to_f32(
                  to + i * panel_width,
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
    float* out = to.dw.tensor.f32();
    int64_t row_stride = swap ? to.n_stride : to.m_stride,
            column_stride = swap ? to.m_stride : to.n_stride;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < columns; ++j) {
        float value = first ? 0.0f : c[r * width + j];
        float& target =
            out[(row0 + r) * row_stride + tap * to.tap_stride + (n0 + j) * column_stride];
        target = to.dw.accumulate ? target + value : value;
      }
  });
}

}  // namespace spindle::cpu
