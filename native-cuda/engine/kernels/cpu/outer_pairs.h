// Gradients of weights in bfloat16: positions are summed in pairs, as the dot products of pairs want them.
//
// What `Runs` offers here: blocks(), positions(block) and m_base(block), as in outer.h, and
//   n_row(block, position, tap): the x row of a position at a tap, or null outside of the image
#pragma once
#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu_kernels.h"

namespace spindle::cpu {

// Positions between two visits of the sums, in groups of blocks: x's pairs then fill a part of the second-level cache.
constexpr int64_t kPairsGroup = 512;
// Rows of a task: each packs x anew, so few tall pieces, but enough tasks for balance. It depends on shapes alone.
constexpr int64_t kPairsRows = 384;
constexpr int64_t kPairsTasks = 8;

template <class Runs>
void CpuKernels::outer_product_pairs(const Runs& runs, int64_t m, int64_t n, int64_t taps, const GradSlot& dw, int64_t m_stride, int64_t tap_stride, int64_t n_stride) {
  ensure(n_stride == 1, "[outer_product_pairs] rows of dw are expected to be contiguous");
  const int64_t panel = int64_t(simd_.width) * simd_.max_vectors, panels = divide_up(n, panel);
  const int64_t step = simd_.outer_pairs_step, tile = simd_.outer_pairs_rows, blocks = runs.blocks();
  int64_t most = 0;
  for (int64_t block = 0; block < blocks; ++block) most = std::max(most, round_up(runs.positions(block), step));
  const int64_t group = std::max<int64_t>(1, kPairsGroup / std::max<int64_t>(most, 1)), groups = divide_up(blocks, group), pitch = group * most;
  // dy once for all tasks: [group][tile of m][positions of the group][row]
  const int64_t group_elements = round_up(m, simd_.outer_pairs_tile) * pitch;
  if (!pairs_buffer_ || int64_t(pairs_buffer_.bytes()) < groups * group_elements * 2) {
    pairs_buffer_ = Tensor();
    pairs_buffer_ = Tensor(packed_pool_, {groups * group_elements}, DType::BF16);
  }
  uint16_t* packed = pairs_buffer_.data<uint16_t>();
  threads_.run(blocks, [&](int64_t block, int) {
    int64_t before = 0;
    for (int64_t b = block / group * group; b < block; ++b) before += round_up(runs.positions(b), step);
    simd_.outer_pairs_pack(packed + block / group * group_elements + before * simd_.outer_pairs_tile, static_cast<const uint16_t*>(runs.m_base(block)), runs.positions(block), m, pitch);
  });
  const int64_t wanted = std::max(divide_up(m, kPairsRows), divide_up(kPairsTasks, panels * taps));
  const int64_t row_piece = round_up(divide_up(m, wanted), tile), row_pieces = divide_up(m, row_piece);
  threads_.run(panels * taps * row_pieces, [&](int64_t task, int thread) {
    const int64_t p = task / (taps * row_pieces), tap = task / row_pieces % taps, row0 = task % row_pieces * row_piece;
    const int64_t rows = std::min(row_piece, m - row0), n0 = p * panel, columns = std::min(panel, n - n0);
    const int64_t width = round_up(columns, simd_.width), vectors = width / simd_.width;
    std::byte* memory = scratch(thread, rows * width * 4 + pitch * width * 2);
    float* c = reinterpret_cast<float*>(memory);
    uint16_t* b = reinterpret_cast<uint16_t*>(c + rows * width);
    for (int64_t g = 0; g < groups; ++g) {
      int64_t filled = 0;
      for (int64_t block = g * group; block < std::min(blocks, (g + 1) * group); ++block) {
        const int64_t positions = runs.positions(block);
        for (int64_t i = 0; i < round_up(positions, step); i += 2, filled += 2) {
          const uint16_t *even = i < positions ? runs.n_row(block, i, tap) : nullptr, *odd = i + 1 < positions ? runs.n_row(block, i + 1, tap) : nullptr;
          simd_.interleave(b + filled * width, even ? even + n0 : nullptr, odd ? odd + n0 : nullptr, columns, width);
        }
      }
      const uint16_t* a = packed + g * group_elements + row0 * pitch;
      for (int64_t r = 0; r < rows; r += tile)
        simd_.outer_pairs({a + r * pitch, b, filled / 2, pitch, std::min(tile, rows - r), vectors, c + r * width, width, g > 0});
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* out = dw.tensor.f32() + (row0 + r) * m_stride + tap * tap_stride + n0;
      const float* from = c + r * width;
      if (!dw.accumulate) std::memcpy(out, from, size_t(columns) * 4);
      else
        for (int64_t j = 0; j < columns; ++j) out[j] += from[j];
    }
  });
}

}  // namespace spindle::cpu
