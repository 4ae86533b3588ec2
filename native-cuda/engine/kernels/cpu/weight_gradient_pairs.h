// Gradients of weights in bfloat16: positions are summed in pairs, as the dot products of pairs
// want them.
//
// Both sides are packed once per call. The taps of a filter see shifted copies of x: one copy per
// shift along a row (and per phase of the stride) serves all taps above one another, since those
// differ by whole rows. Where a block's positions do not fill whole steps of such a copy, each task
// packs x for itself.
#pragma once
#include <algorithm>
#include <concepts>
#include <cstring>

#include "kernels/cpu/context.h"

namespace spindle::cpu {

// Positions between two visits of the sums, in groups of blocks: x's pairs then fill a part of the
// second-level cache.
constexpr int64_t kPairsGroup = 512;
// Rows of a task: sums and dy stay in the second-level cache. Fewer where there would be too few
// tasks to share out; either depends on shapes alone.
constexpr int64_t kPairsRows = 192;
constexpr int64_t kPairsTasks = 8;
// Pairs of x that a packing task takes.
constexpr int64_t kPackedPairs = 256;

// Where a weight's gradient goes: dw[m * m_stride + tap * tap_stride + n * n_stride], of m output
// and n input channels.
struct WeightGradient {
  const GradSlot& dw;
  int64_t m, n, taps;
  int64_t m_stride, tap_stride, n_stride;
};

// Positions that are summed in pairs.
template <class R>
concept GradientPairs = requires(const R& runs, int64_t block, int64_t position, int64_t tap) {
  { runs.dy } -> std::convertible_to<const Tensor&>;
  { runs.x } -> std::convertible_to<const Tensor&>;
  { runs.blocks() } -> std::convertible_to<int64_t>;
  // Rows of dy in a block, and where they start.
  { runs.positions(block) } -> std::convertible_to<int64_t>;
  { runs.m_base(block) } -> std::convertible_to<const void*>;
  // The x row of a position at a tap, or null outside of the image.
  { runs.n_row(block, position, tap) } -> std::convertible_to<const uint16_t*>;
  // Shifted copies of x, the positions of one, and the x row there, or null: copied(copy, position)
  { runs.copies() } -> std::convertible_to<int64_t>;
  { runs.copy_positions() } -> std::convertible_to<int64_t>;
  { runs.copied(tap, position) } -> std::convertible_to<const uint16_t*>;
  // The copy in which a block's positions at a tap follow one another, and from where.
  { runs.copy_of(tap) } -> std::convertible_to<int64_t>;
  { runs.copy_start(block, tap) } -> std::convertible_to<int64_t>;
};

template <GradientPairs Runs>
bool copies_serve(const Runs& runs, int64_t taps, int64_t step) {
  for (int64_t block = 0; block < runs.blocks(); ++block)
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t start = runs.copy_start(block, tap), positions = runs.positions(block);
      if (start % 2 != 0 || (positions % step != 0 && start + positions != runs.copy_positions()))
        return false;
    }
  return true;
}

template <GradientPairs Runs>
void weight_gradient_pairs(CpuContext& cpu, const Runs& runs, const WeightGradient& to) {
  const int64_t m = to.m, n = to.n, taps = to.taps;
  ensure(to.n_stride == 1, "[weight_gradient_pairs] rows of dw are expected to be contiguous");
  const int64_t panel = int64_t(cpu.simd.width) * cpu.simd.max_vectors,
                panels = divide_up(n, panel), padded_n = round_up(n, cpu.simd.width);
  const int64_t step = cpu.simd.outer_pairs_step, tile = cpu.simd.outer_pairs_rows,
                blocks = runs.blocks();
  int64_t most = 1;
  for (int64_t block = 0; block < blocks; ++block)
    most = std::max(most, round_up(runs.positions(block), step));
  const int64_t group = std::max<int64_t>(1, kPairsGroup / most), groups = divide_up(blocks, group),
                pitch = group * most;
  const bool shared = copies_serve(runs, taps, step);
  // dy: [group][tile of m][positions of the group][row]; x: [copy][panel][pair][column][2]
  const int64_t dy_group = round_up(m, cpu.simd.outer_pairs_tile) * pitch,
                dy_elements = round_up(groups * dy_group, 32);
  const int64_t x_positions = round_up(runs.copy_positions(), step),
                x_copy = x_positions * padded_n;
  const int64_t elements = dy_elements + (shared ? runs.copies() * x_copy : 0);
  uint16_t *dy_packed =
               reinterpret_cast<uint16_t*>(cpu.packing.room(Packing::Room::Pairs, elements * 2)),
           *x_packed = dy_packed + dy_elements;
  cpu.threads.run(blocks, [&](int64_t block, int) {
    int64_t before = 0;
    for (int64_t b = block / group * group; b < block; ++b)
      before += round_up(runs.positions(b), step);
    cpu.simd.outer_pairs_pack(
        dy_packed + block / group * dy_group + before * cpu.simd.outer_pairs_tile,
        static_cast<const uint16_t*>(runs.m_base(block)), runs.positions(block), m, m, pitch);
  });
  if (shared) {
    const int64_t pieces_of_copy = divide_up(x_positions / 2, kPackedPairs);
    cpu.threads.run(runs.copies() * pieces_of_copy, [&](int64_t task, int) {
      const int64_t copy = task / pieces_of_copy, pair0 = task % pieces_of_copy * kPackedPairs,
                    pair1 = std::min(x_positions / 2, pair0 + kPackedPairs);
      for (int64_t pair = pair0; pair < pair1; ++pair) {
        const int64_t p = 2 * pair;
        const uint16_t *even = p < runs.copy_positions() ? runs.copied(copy, p) : nullptr,
                       *odd = p + 1 < runs.copy_positions() ? runs.copied(copy, p + 1) : nullptr;
        for (int64_t n0 = 0; n0 < n; n0 += panel) {
          const int64_t columns = std::min(panel, n - n0),
                        width = round_up(columns, cpu.simd.width);
          cpu.simd.interleave(x_packed + copy * x_copy + n0 * x_positions + p * width,
                              even ? even + n0 : nullptr, odd ? odd + n0 : nullptr, columns, width);
        }
      }
    });
  }
  const int64_t wanted = std::max(divide_up(m, kPairsRows), divide_up(kPairsTasks, panels * taps));
  const int64_t row_piece = round_up(divide_up(m, wanted), tile),
                row_pieces = divide_up(m, row_piece);
  cpu.threads.run(panels * taps * row_pieces, [&](int64_t task, int thread) {
    const int64_t p = task / (taps * row_pieces), tap = task / row_pieces % taps,
                  row0 = task % row_pieces * row_piece;
    const int64_t rows = std::min(row_piece, m - row0), n0 = p * panel,
                  columns = std::min(panel, n - n0);
    const int64_t width = round_up(columns, cpu.simd.width), vectors = width / cpu.simd.width;
    std::byte* memory = cpu.scratch(
        thread, rows * width * 4 + pitch * width * 2 + group * int64_t(sizeof(OuterPairsRun)));
    float* c = reinterpret_cast<float*>(memory);
    uint16_t* own = reinterpret_cast<uint16_t*>(c + rows * width);
    OuterPairsRun* b = reinterpret_cast<OuterPairsRun*>(own + pitch * width);
    for (int64_t g = 0; g < groups; ++g) {
      uint16_t* free = own;
      int64_t count = 0;
      for (int64_t block = g * group; block < std::min(blocks, (g + 1) * group); ++block, ++count) {
        const int64_t positions = runs.positions(block), padded = round_up(positions, step);
        if (shared) {
          b[count] = {x_packed + runs.copy_of(tap) * x_copy + n0 * x_positions +
                          runs.copy_start(block, tap) * width,
                      padded / 2};
          continue;
        }
        b[count] = {free, padded / 2};
        for (int64_t i = 0; i < padded; i += 2, free += 2 * width) {
          const uint16_t *even = i < positions ? runs.n_row(block, i, tap) : nullptr,
                         *odd = i + 1 < positions ? runs.n_row(block, i + 1, tap) : nullptr;
          cpu.simd.interleave(free, even ? even + n0 : nullptr, odd ? odd + n0 : nullptr, columns,
                              width);
        }
      }
      const uint16_t* a = dy_packed + g * dy_group + row0 * pitch;
      for (int64_t r = 0; r < rows; r += tile)
        cpu.simd.outer_pairs({a + r * pitch, 2 * cpu.simd.outer_pairs_tile, b, count, pitch,
                              std::min(tile, rows - r), vectors, c + r * width, width, g > 0});
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* out = to.dw.tensor.f32() + (row0 + r) * to.m_stride + tap * to.tap_stride + n0;
      const float* from = c + r * width;
      if (!to.dw.accumulate)
        std::memcpy(out, from, size_t(columns) * 4);
      else
        for (int64_t j = 0; j < columns; ++j) out[j] += from[j];
    }
  });
}

}  // namespace spindle::cpu
