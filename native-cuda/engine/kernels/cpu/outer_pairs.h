// Gradients of weights in bfloat16: positions are summed in pairs, as the dot products of pairs want them.
//
// What `Runs` offers here: blocks(), positions(block), most_positions(), m_base(block), as in outer.h, and
//   n_row(block, position, tap): the x row of a position at a tap, or null outside of the image
#pragma once
#include <algorithm>

#include "kernels/cpu/cpu_kernels.h"

namespace spindle::cpu {

template <class Runs>
void CpuKernels::outer_product_pairs(const Runs& runs, int64_t m, int64_t n, int64_t taps, const GradSlot& dw, int64_t m_stride, int64_t tap_stride, int64_t n_stride) {
  int64_t panel = int64_t(simd_.width) * simd_.max_vectors, panels = divide_up(n, panel);
  int64_t most_pairs = divide_up(runs.most_positions(), 2);
  // dy in pairs of positions, once for all tasks: [block][pair][m][2]
  int64_t blocks = runs.blocks();
  int64_t block_elements = most_pairs * m * 2;
  if (!pairs_buffer_ || int64_t(pairs_buffer_.bytes()) < blocks * block_elements * 2) {
    pairs_buffer_ = Tensor();
    pairs_buffer_ = Tensor(packed_pool_, {blocks * block_elements}, DType::BF16);
  }
  uint16_t* dy_pairs = pairs_buffer_.data<uint16_t>();
  threads_.run(blocks, [&](int64_t block, int) {
    const uint16_t* base = static_cast<const uint16_t*>(runs.m_base(block));
    int64_t positions = runs.positions(block);
    for (int64_t i = 0; i < positions; i += 2)
      simd_.interleave(dy_pairs + block * block_elements + i * m, base + i * m, i + 1 < positions ? base + (i + 1) * m : nullptr, m, m);
  });
  // Tall pieces: each packs x anew.
  int64_t row_pieces = divide_up(m, 192), row_piece = divide_up(m, row_pieces);
  threads_.run(panels * taps * row_pieces, [&](int64_t task, int thread) {
    int64_t p = task / (taps * row_pieces), tap = task / row_pieces % taps, row0 = task % row_pieces * row_piece;
    int64_t rows = std::min(row_piece, m - row0), n0 = p * panel, columns = std::min(panel, n - n0);
    int64_t width = round_up(columns, simd_.width), vectors = width / simd_.width, tile = simd_.rows_for[vectors];
    std::byte* memory = scratch(thread, rows * width * 4 + most_pairs * width * 4);
    float* c = reinterpret_cast<float*>(memory);
    uint16_t* b = reinterpret_cast<uint16_t*>(c + rows * width);
    for (int64_t block = 0; block < blocks; ++block) {
      int64_t positions = runs.positions(block);
      for (int64_t i = 0; i < positions; i += 2) {
        const uint16_t *even = runs.n_row(block, i, tap), *odd = i + 1 < positions ? runs.n_row(block, i + 1, tap) : nullptr;
        simd_.interleave(b + i * width, even ? even + n0 : nullptr, odd ? odd + n0 : nullptr, columns, width);
      }
      for (int64_t r = 0; r < rows; r += tile)
        simd_.outer_pairs({dy_pairs + block * block_elements + (row0 + r) * 2, b, divide_up(positions, 2), m, std::min(tile, rows - r), vectors, c + r * width, width, block > 0});
    }
    float* out = dw.tensor.f32();
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < columns; ++j) {
        float& target = out[(row0 + r) * m_stride + tap * tap_stride + (n0 + j) * n_stride];
        target = dw.accumulate ? target + c[r * width + j] : c[r * width + j];
      }
  });
}

}  // namespace spindle::cpu
