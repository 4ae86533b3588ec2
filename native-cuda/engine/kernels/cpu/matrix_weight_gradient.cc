#include "kernels/cpu/matrix_weight_gradient.h"

// Gradients of a linear layer's weight and bias: dw[m][n] = sum over positions of dy[position][m] *
// x[position][n], db = sum of dy.
//
// A task has a piece of dw and a share of the positions, which it walks in groups: both sides of a
// group are packed into the second-level cache, for this piece alone, and multiplied from there,
// while the next group is fetched from memory. So packed forms never leave the cache. Where dw has
// too few pieces for the threads, positions are shared out too, and the shares' sums are added in
// their order. Pieces and shares depend on shapes alone, and so do the bytes.
#include <cstring>

namespace spindle::cpu {

namespace {
// A piece's sums and a group's packed sides fill two thirds of a second-level cache of 1 MiB.
constexpr int64_t kPieceRows = 192, kPieceColumns = 256;
constexpr int64_t kGroupBytes = 1024;  // of one row or column of a packed side
constexpr int64_t kFewestTasks = 16;
constexpr int64_t kLine = 64;
constexpr int64_t kDenseFloats = 256;  // shorter rows of float32 are read where they lie
// Bytes between packed positions: an odd number of lines, so that a column of them lies in all sets
// of the first-level cache.
int64_t spread(int64_t bytes) { return (divide_up(bytes, kLine) | 1) * kLine; }

struct MatrixGradient {
  CpuContext& cpu;
  const Tensor &dy, &x;
  bool pairs = is_bf16(dy), tiles = pairs && cpu.simd.outer_pairs_step > 2;
  int64_t size = pairs ? 2 : 4,
          step = pairs ? cpu.simd.outer_pairs_step : 1;  // positions that are multiplied together
  int64_t positions = dy.dim(0), m = dy.dim(1), n = x.dim(1);
  int64_t width = cpu.simd.width, panel = width * cpu.simd.max_vectors, ldn = round_up(n, width);
  int64_t tile =
      pairs ? cpu.simd.outer_pairs_rows
            : cpu.simd.rows_for[std::min<int64_t>(cpu.simd.max_vectors, divide_up(n, width))];
  int64_t row_piece = round_up(divide_up(m, divide_up(m, kPieceRows)), tile),
          row_pieces = divide_up(m, row_piece);
  int64_t panels = divide_up(n, panel),
          together =
              divide_up(panels, divide_up(panels, std::max<int64_t>(1, kPieceColumns / panel))),
          column_pieces = divide_up(panels, together);
  int64_t column_piece = std::min(ldn, together* panel);
  int64_t span = kGroupBytes / size, groups = divide_up(positions, span);
  int64_t shares = std::min(groups, divide_up(kFewestTasks, row_pieces* column_pieces));
  bool a_in_place = !pairs && m <= kDenseFloats,
       b_in_place = !pairs && n <= kDenseFloats && n % width == 0;
  int64_t a_step = a_in_place ? m
                              : spread(round_up(row_piece, width) * 4) /
                                    size;  // elements between packed positions, or pairs of them

  // A task's piece of dw and groups of positions.
  struct Task {
    int64_t share, row0, rows, n0, columns, first, last;
  };
  int64_t tasks() const { return shares * row_pieces * column_pieces; }
  Task task(int64_t i) const {
    int64_t share = i / (row_pieces * column_pieces),
            row0 = i / column_pieces % row_pieces * row_piece,
            n0 = i % column_pieces * together * panel;
    return {share,
            row0,
            std::min(row_piece, m - row0),
            n0,
            std::min(together * panel, n - n0),
            groups * share / shares,
            groups * (share + 1) / shares};
  }

  int64_t c_floats() const { return row_piece * column_piece; }
  int64_t a_bytes() const {
    return tiles ? row_piece * span * 2 : divide_up(span, pairs ? 2 : 1) * a_step * size;
  }
  int64_t b_bytes() const { return column_piece * span * size; }

  void pack_rows(std::byte* a, int64_t p0, int64_t count, int64_t row0, int64_t rows) const {
    const char* from = at(dy.raw(), p0 * m + row0, dy.dtype());
    if (a_in_place) return;
    if (tiles)
      return cpu.simd.outer_pairs_pack(reinterpret_cast<uint16_t*>(a),
                                       reinterpret_cast<const uint16_t*>(from), count, rows, m,
                                       span);
    pack(a, a_step * size, from, m * size, count, rows, rows);
  }
  // Positions one after the other, or pairs of them element by element, zero up to `padded`
  // columns.
  void pack(std::byte* to,
            int64_t step_bytes,
            const char* from,
            int64_t stride,
            int64_t count,
            int64_t columns,
            int64_t padded) const {
    if (pairs) {
      for (int64_t i = 0; i < round_up(count, step); i += 2, from += 2 * stride, to += step_bytes)
        cpu.simd.interleave(
            reinterpret_cast<uint16_t*>(to),
            reinterpret_cast<const uint16_t*>(i < count ? from : nullptr),
            reinterpret_cast<const uint16_t*>(i + 1 < count ? from + stride : nullptr), columns,
            padded);
      return;
    }
    for (int64_t i = 0; i < count; ++i, from += stride, to += step_bytes) {
      std::memcpy(to, from, size_t(columns) * 4);
      std::memset(to + columns * 4, 0, size_t(padded - columns) * 4);
    }
  }
  void pack_columns(std::byte* b, int64_t p0, int64_t count, int64_t n0, int64_t columns) const {
    if (b_in_place) return;
    for (int64_t j = 0; j < columns; j += panel) {
      int64_t have = std::min(panel, columns - j), wide = round_up(have, width);
      pack(b, wide * 4, at(x.raw(), p0 * n + n0 + j, x.dtype()), n * size, count, have, wide);
      b += wide * span * size;
    }
  }
  // What of a group that comes next the products of one tile ask memory for: one line of every
  // position (or of the first or second of every pair). Tiles share out the lines of both sides.
  Fetch fetch(const Task& t, int64_t group, int64_t part) const {
    int64_t phases = pairs ? 2 : 1, phase = part % phases, line = part / phases;
    for (auto [side, first, count] : {Side{dy, t.row0, t.rows}, Side{x, t.n0, t.columns}}) {
      const char* from = at(side.raw(), (group * span + phase) * side.dim(1) + first, side.dtype());
      if (int64_t lines = divide_up(count * size, kLine); line < lines)
        return {from + line * kLine, phases * side.dim(1) * size};
      else
        line -= lines;
    }
    return {};
  }
  struct Side {
    const Tensor& t;
    int64_t first, count;
  };
  void multiply(float* c,
                int64_t ldc,
                const std::byte* a,
                const std::byte* b,
                const Task& now,
                int64_t group,
                const Task& next,
                int64_t next_group) const {
    int64_t p0 = group * span, count = std::min(span, positions - p0), part = 0;
    auto [share, row0, rows, n0, columns, first_group, last_group] = now;
    bool first = group == first_group;
    for (int64_t j = 0; j < columns; j += panel) {
      int64_t wide = std::min(panel, round_up(columns - j, width)), vectors = wide / width;
      OuterRun run{nullptr, reinterpret_cast<const float*>(b), count};
      OuterPairsRun pairs_run{reinterpret_cast<const uint16_t*>(b), round_up(count, step) / 2};
      for (int64_t r = 0; r < rows; r += tile, ++part) {
        int64_t height = std::min(tile, rows - r);
        Fetch wanted = fetch(next, next_group, part);
        if (pairs) {
          cpu.simd.outer_pairs({reinterpret_cast<const uint16_t*>(a) + r * (tiles ? span : 2),
                                a_step, &pairs_run, 1, span, height, vectors, c + r * ldc + j, ldc,
                                !first, wanted});
        } else {
          run.a = a_in_place ? dy.f32() + p0 * m + row0 + r : reinterpret_cast<const float*>(a) + r;
          if (b_in_place) run.b = x.f32() + p0 * n + n0 + j;
          cpu.simd.outer_f32({&run, 1, a_step, b_in_place ? n : wide, height, vectors,
                              c + r * ldc + j, ldc, !first, wanted});
        }
      }
      b += wide * span * size;
    }
  }
};

}  // namespace

void matrix_weight_gradient(CpuContext& cpu, const LinearBackwardWeight& op) {
  const GradSlot &dw = op.dw, &db = op.db;
  const Tensor& dy = op.dy;
  MatrixGradient g{cpu, dy, op.x};
  // Sums of the shares: of dw unless there is one share alone, and of db.
  int64_t share_floats = g.shares > 1 ? g.row_pieces * g.row_piece * g.ldn : 0,
          bias_sums = db ? g.m : 0;
  double* bias =
      reinterpret_cast<double*>(cpu.shared_scratch(g.shares * (bias_sums * 8 + share_floats * 4)));
  float* sums = reinterpret_cast<float*>(bias + g.shares * bias_sums);
  cpu.threads.run(g.tasks(), [&](int64_t i, int thread) {
    // While threads are equally fast, the thread's next task is as many on as there are threads.
    auto task = g.task(i), after = g.task(std::min(i + cpu.threads.threads(), g.tasks() - 1));
    auto [share, row0, rows, n0, columns, first, last] = task;
    bool with_bias = db && n0 == 0;
    std::byte* memory =
        cpu.scratch(thread, g.a_bytes() + g.b_bytes() + (g.shares > 1 ? 0 : g.c_floats() * 4) +
                                g.row_piece * 4);
    std::byte* b = memory + g.a_bytes();
    float* column_sums = reinterpret_cast<float*>(b + g.b_bytes());
    float* c =
        g.shares > 1 ? sums + share * share_floats + row0 * g.ldn + n0 : column_sums + g.row_piece;
    int64_t ldc = g.shares > 1 ? g.ldn : g.column_piece;
    if (with_bias) std::fill_n(bias + share * g.m + row0, rows, 0.0);
    for (int64_t group = first; group < last; ++group) {
      int64_t p0 = group * g.span, count = std::min(g.span, g.positions - p0);
      g.pack_rows(memory, p0, count, row0, rows);
      g.pack_columns(b, p0, count, n0, columns);
      if (with_bias) {
        std::fill_n(column_sums, rows, 0.0f);
        if (g.pairs && !g.tiles)
          cpu.simd.pair_sums(column_sums, reinterpret_cast<const uint16_t*>(memory),
                             divide_up(count, 2), rows, g.a_step);
        else
          cpu.simd.column_sums(column_sums, at(dy.raw(), p0 * g.m + row0, dy.dtype()), count, rows,
                               g.m, g.pairs);
        for (int64_t r = 0; r < rows; ++r) bias[share * g.m + row0 + r] += double(column_sums[r]);
      }
      if (group + 1 < last)
        g.multiply(c, ldc, memory, b, task, group, task, group + 1);
      else
        g.multiply(c, ldc, memory, b, task, group, after, after.first);
    }
    if (g.shares > 1) return;
    for (int64_t r = 0; r < rows; ++r) {
      float* out = dw.tensor.f32() + (row0 + r) * g.n + n0;
      if (dw.accumulate)
        cpu.simd.add(out, out, c + r * ldc, columns, false);
      else
        std::memcpy(out, c + r * ldc, size_t(columns) * 4);
    }
  });
  if (g.shares > 1)
    cpu.pieces(g.m, 16, [&](int64_t row0, int64_t row1, int) {
      for (int64_t row = row0; row < row1; ++row) {
        float *out = dw.tensor.f32() + row * g.n, *from = sums + row * g.ldn;
        for (int64_t share = 1; share < g.shares; ++share)
          cpu.simd.add(from, from, from + share * share_floats, g.n, false);
        if (dw.accumulate)
          cpu.simd.add(out, out, from, g.n, false);
        else
          std::memcpy(out, from, size_t(g.n) * 4);
      }
    });
  if (!db) return;
  float* out = db.tensor.f32();
  for (int64_t j = 0; j < g.m; ++j) {
    double total = 0;
    for (int64_t share = 0; share < g.shares; ++share) total += bias[share * g.m + j];
    out[j] = (db.accumulate ? out[j] : 0.0f) + float(total);
  }
}

}  // namespace spindle::cpu
