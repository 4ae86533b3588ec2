// Gradients of 3x3 filters by the adjoint of Winograd's convolution (winograd.cc): dU = sum over
// tiles of (A dY A^T) * (B^T d B), an outer product in each slice, then dw = G^T dU G.
//
// The sums of a filter are as large as its transformed form, and every group of tiles adds to all
// of them. Small filters are cut into blocks whose sums stay in a core's second-level cache, with
// the transformed tiles of a group beside them; a task owns a block and a part of the tiles, and
// nothing that it makes leaves its core before it is done. Large filters would have the same tiles
// transformed for too many blocks: there a group is transformed once for all, and tasks own slices.
//
// Blocks and parts depend on shapes alone, and the parts are added in order, so that bytes do not
// depend on threads.
#include "kernels/cpu/winograd.h"
#include "kernels/cpu/winograd_tiles.h"

namespace spindle::cpu {

namespace {
constexpr int64_t kMinChannels = 32;
constexpr int64_t kBlockBytes = 704 << 10;  // of a task's sums
constexpr int64_t kBlockTiles = 24;         // transformed at a time
constexpr int64_t kMostBlocks = 4;
constexpr int64_t kTasks = 16;        // at most, where a block is cut into parts
constexpr int64_t kPartTiles = 256;   // at least; each part costs another pass over the sums
constexpr int64_t kGroupTiles = 128;  // of a group that is transformed for all
constexpr int64_t kPieceRows = 48;    // output channels of a task then

// Floats between rows of n: where a column of them would fall into few of the cache's sets, an odd
// number of lines.
int64_t spread_rows(int64_t n) { return n < 256 ? round_up(n, 16) : (divide_up(n, 16) | 1) * 16; }

// A filter's sums, cut both ways.
struct Blocks {
  int64_t rows, columns;  // channels of a block: outputs and inputs
  int64_t down, across;
};
Blocks blocks_of(int64_t out, int64_t in, int64_t slices, int64_t width) {
  Blocks b{out, round_up(in, width), 1, 1};
  while (slices * b.rows * b.columns * 4 > kBlockBytes) {
    if (b.columns >= b.rows)
      b.columns = round_up(divide_up(in, ++b.across), width);
    else
      b.rows = divide_up(out, ++b.down);
  }
  b.across = divide_up(in, b.columns), b.down = divide_up(out, b.rows);
  return b;
}
}  // namespace

int winograd_weight_gradient_size(const CpuContext& cpu, const Conv2dBackwardWeight& op) {
  const Tensor &dy = op.dy, &x = op.x;
  const Shape& filter = op.dw.tensor.shape();
  int64_t height = x.dim(1), width = x.dim(2);
  if (x.dtype() != dy.dtype() || !same_3x3(filter, op.args) ||
      std::min(filter[0], filter[3]) < kMinChannels ||
      !cpu.float32_serves(x.dtype(), filter, height * width))
    return 0;
  // Enough tiles have to be added to each sum.
  bool many = Tiling{x.dim(0), height, width, 4}.tiles() >= 64;
  if (many && height * width >= 16 && large_square_pays(filter, height, width)) return 4;
  return x.dtype() == DType::F32 && height * width >= 64 ? 2 : 0;
}

// One call's tensors, and the two ways to its sums.
namespace {
struct WinogradGradient {
  CpuContext& cpu;
  const Tensor &dy, &x;
  int size;
  int64_t out = dy.dim(3), in = x.dim(3), slices = int64_t(size + 2) * (size + 2);
  Tiling tiling{x.dim(0), x.dim(1), x.dim(2), size};
  int64_t width = cpu.simd.width, panel = width * cpu.simd.max_vectors;

  // B^T d B of tiles and some of their channels, (slices, tiles, ld), slices `stride` apart.
  void transform_inputs(float* to,
                        int64_t stride,
                        int64_t ld,
                        int64_t first,
                        int64_t count,
                        int64_t channel,
                        int64_t channels) const {
    tiling.runs(first, count, [&](const Tile& tile, int64_t t, int64_t n) {
      cpu.simd.winograd_input(
          to + t * ld, stride, ld,
          tile.squares(size + 2, -1, n, at(x.raw(), channel, x.dtype()), x.dtype(), in), channels,
          size, is_bf16(x));
    });
  }
  // A dY A^T.
  void transform_gradients(float* to,
                           int64_t stride,
                           int64_t ld,
                           int64_t first,
                           int64_t count,
                           int64_t channel,
                           int64_t channels) const {
    tiling.runs(first, count, [&](const Tile& tile, int64_t t, int64_t n) {
      cpu.simd.winograd_gradient(
          to + t * ld, stride, ld,
          tile.squares(size, 0, n, at(dy.raw(), channel, dy.dtype()), dy.dtype(), out), channels,
          size, is_bf16(dy));
    });
  }
  // du[row][column] (+)= the products of `count` tiles, over rows and a panel of columns.
  void add_products(float* du,
                    int64_t ldu,
                    const float* gradients,
                    int64_t ld_gradients,
                    const float* inputs,
                    int64_t ld_inputs,
                    int64_t count,
                    int64_t rows,
                    int64_t columns,
                    bool add) const {
    int64_t vectors = divide_up(columns, width), height = cpu.simd.rows_for[vectors];
    for (int64_t row = 0; row < rows; row += height) {
      OuterRun run{gradients + row, inputs, count};
      cpu.simd.outer_f32({&run, 1, ld_gradients, ld_inputs, std::min(height, rows - row), vectors,
                          du + row * ldu, ldu, add});
    }
  }

  void by_blocks(const GradSlot& dw, const Blocks& b) const {
    int64_t tiles = tiling.tiles(), blocks = b.down * b.across,
            parts = std::max<int64_t>(1, std::min(divide_up(kTasks, blocks), tiles / kPartTiles));
    int64_t slice = b.rows * b.columns, block_floats = slices * slice + kLineFloats;
    int64_t rows_ld = round_up(b.rows, width), input_slice = kBlockTiles * b.columns + kLineFloats,
            gradient_slice = kBlockTiles * rows_ld + kLineFloats;
    float* du = reinterpret_cast<float*>(
        cpu.packing.room(Packing::Room::Weight, parts * blocks * block_floats * 4));
    cpu.threads.run(parts * blocks, [&](int64_t task, int thread) {
      int64_t part = task / blocks, row0 = task % blocks / b.across * b.rows,
              column0 = task % b.across * b.columns;
      int64_t rows = std::min(b.rows, out - row0), columns = std::min(b.columns, in - column0);
      float *sums = du + task * block_floats,
            *inputs = reinterpret_cast<float*>(
                cpu.scratch(thread, slices * (input_slice + gradient_slice) * 4)),
            *gradients = inputs + slices * input_slice;
      int64_t begin = tiles * part / parts, end = tiles * (part + 1) / parts;
      for (int64_t first = begin; first < end; first += kBlockTiles) {
        int64_t count = std::min(kBlockTiles, end - first);
        transform_inputs(inputs, input_slice, b.columns, first, count, column0, columns);
        transform_gradients(gradients, gradient_slice, rows_ld, first, count, row0, rows);
        for (int64_t s = 0; s < slices; ++s)
          for (int64_t j = 0; j < columns; j += panel)
            add_products(sums + s * slice + j, b.columns, gradients + s * gradient_slice, rows_ld,
                         inputs + s * input_slice + j, b.columns, count, rows,
                         std::min(panel, columns - j), first > begin);
      }
    });
    cpu.threads.run(out * b.across, [&](int64_t task, int) {
      int64_t row = task / b.across, across = task % b.across, column0 = across * b.columns;
      const float* from =
          du + (row / b.rows * b.across + across) * block_floats + row % b.rows * b.columns;
      cpu.simd.winograd_filter_gradient(dw.tensor.f32() + row * 9 * in + column0, in,
                                        {from, slice, blocks * block_floats, parts},
                                        std::min(b.columns, in - column0), size, dw.accumulate);
    });
  }

  void by_slices(const GradSlot& dw) const {
    int64_t ld_out = spread_rows(out), ld_in = spread_rows(in), padded_in = round_up(in, width),
            panels = divide_up(in, panel), pieces = divide_up(out, kPieceRows);
    int64_t slice_rows = out * ld_in, most = std::min(kGroupTiles, tiling.tiles());
    float* du =
        reinterpret_cast<float*>(cpu.packing.room(Packing::Room::Weight, slices * slice_rows * 4));
    float* inputs = reinterpret_cast<float*>(
        cpu.packing.room(Packing::Room::Inputs, slices * most * (ld_in + ld_out) * 4));
    float* gradients = inputs + slices * most * ld_in;
    for (int64_t first = 0; first < tiling.tiles(); first += most) {
      int64_t count = std::min(most, tiling.tiles() - first);
      cpu.pieces(count, 16, [&](int64_t t0, int64_t t1, int) {
        transform_inputs(inputs + t0 * ld_in, most * ld_in, ld_in, first + t0, t1 - t0, 0, in);
        transform_gradients(gradients + t0 * ld_out, most * ld_out, ld_out, first + t0, t1 - t0, 0,
                            out);
      });
      cpu.threads.run(slices * panels * pieces, [&](int64_t task, int) {
        int64_t s = task / (panels * pieces), n0 = task / pieces % panels * panel,
                row0 = task % pieces * kPieceRows;
        add_products(du + s * slice_rows + row0 * ld_in + n0, ld_in,
                     gradients + s * most * ld_out + row0, ld_out, inputs + s * most * ld_in + n0,
                     ld_in, count, std::min(kPieceRows, out - row0),
                     std::min(panel, padded_in - n0), first > 0);
      });
    }
    cpu.threads.run(out, [&](int64_t row, int) {
      cpu.simd.winograd_filter_gradient(dw.tensor.f32() + row * 9 * in, in,
                                        {du + row * ld_in, slice_rows, 0, 1}, in, size,
                                        dw.accumulate);
    });
  }
};

}  // namespace

void winograd_weight_gradient(CpuContext& cpu, const Conv2dBackwardWeight& op, int size) {
  WinogradGradient work{cpu, op.dy, op.x, size};
  Blocks blocks = blocks_of(work.out, work.in, work.slices, work.width);
  if (blocks.down * blocks.across <= kMostBlocks)
    work.by_blocks(op.dw, blocks);
  else
    work.by_slices(op.dw);
}

}  // namespace spindle::cpu
