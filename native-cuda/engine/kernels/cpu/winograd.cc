// 3x3 convolutions of stride 1 by Winograd's F(2x2, 3x3) and F(4x4, 3x3): 2.25 and 4 times fewer
// multiplications than the direct sum. All arithmetic is float32, also between bfloat16 tensors,
// whose transformed values bfloat16 could not hold; there four times fewer float32 products beat
// bfloat16's own, unless the processor has matrix tiles. Between float32 tensors the small square
// is as exact as the direct sum (relative error 3e-7), the large one ten times less so (3e-6): it
// makes filters' gradients only, where sums over tiles bring it back to 2e-7.
//
// A tile is a square of output pixels. Sums over input channels run in the same order whatever
// tasks the tiles and columns are cut into, and which square suits an image depends on shapes of
// one image alone.
#include "kernels/cpu/winograd.h"

#include <algorithm>

#include "kernels/cpu/winograd_tiles.h"

namespace spindle::cpu {

namespace {
constexpr int64_t kTiles = 48;  // of a chunk; a multiple of every tile kernel's height
constexpr int64_t kLargeTiles =
    24;  // large ones, where the filter is in the second-level cache with them
constexpr int64_t kCachedFilter = 1 << 20;
constexpr int64_t kColumns = 64;  // of products that are transformed back together
constexpr int64_t kSharedFilter =
    4 << 20;  // transformed filters up to this size stay in the last-level cache
constexpr int64_t kTransformedInput =
    16 << 20;                         // of a group of chunks whose transformed input is shared
constexpr int64_t kMinChannels = 16;  // fewer are not worth the transforms
}  // namespace

int winograd_size(const CpuContext& cpu,
                  DType dtype,
                  const Shape& filter,
                  int64_t height,
                  int64_t width,
                  const Conv2dArgs& args) {
  bool float32 = dtype == DType::F32;
  // A filter is transformed in every call: a single image of 4 x 4 alone would rather not, but
  // batches of them gain more than it loses.
  if (!same_3x3(filter, args) || std::min(filter[0], filter[3]) < kMinChannels ||
      height * width < (float32 ? 16 : 64) || !cpu.float32_serves(dtype, filter, height * width))
    return 0;
  if (float32) return 2;
  return large_square_pays(filter, height, width) ? 4 : 0;
}

// The geometry of one call, and the steps that its tasks are made of.
namespace {
struct WinogradWork {
  CpuContext& cpu;
  const WinogradCall& c;
  int64_t slices;
  Packed direct, transformed;
  const std::byte* kept;
  PackSource source;
  Tiling tiling{c.batch, c.height, c.width, c.size};
  int64_t ld = round_up(c.in, direct.width),
          tiles = c.size == 4 && transformed.bytes() <= kCachedFilter ? kLargeTiles : kTiles,
          chunks = divide_up(tiling.tiles(), tiles);
  bool bf16 = c.dtype == DType::BF16;

  // Slices lie a line further apart than their rows need: else they would all fall into one set of
  // the cache.
  int64_t chunk_slice() const { return tiles * ld + kLineFloats; }
  int64_t chunk_floats() const { return slices * chunk_slice(); }
  int64_t count(int64_t chunk) const { return std::min(tiles, tiling.tiles() - chunk * tiles); }
  float* panel_of(std::byte* base, int64_t panel) const {
    return reinterpret_cast<float*>(base + transformed.panel_offset(panel));
  }
  int64_t tap_panel_bytes(int64_t panel) const {
    return kept ? 0 : direct.taps * direct.k_rows() * direct.row_bytes(panel);
  }

  // One panel of G g G^T, (slices, in, columns of the panel). `taps` has tap_panel_bytes.
  void transform_filter(float* out, std::byte* taps, int64_t panel) const {
    const std::byte* from = kept ? kept + direct.panel_offset(panel) : taps;
    if (!kept) cpu.packing.pack_panel(taps, direct, panel, source);
    cpu.simd.winograd_filter(out, from, c.in, direct.panel_width(panel), c.size, c.backward, bf16);
  }

  // B^T d B of a chunk's tiles, (slices, tiles, ld).
  void transform_input(float* out, int64_t chunk) const {
    tiling.runs(chunk * tiles, count(chunk), [&](const Tile& tile, int64_t t, int64_t n) {
      cpu.simd.winograd_input(out + t * ld, chunk_slice(), ld,
                              tile.squares(c.size + 2, -1, n, c.x, c.dtype, c.in), c.in, c.size,
                              bf16);
    });
  }

  // Panels whose products are transformed back and stored together: rows of fewer columns cost more
  // calls than arithmetic.
  int64_t together = std::max<int64_t>(1, kColumns / direct.panel),
          groups = divide_up(direct.panels(), together);
  int64_t first_panel(int64_t group) const { return group * together; }
  int64_t end_panel(int64_t group) const {
    return std::min(direct.panels(), (group + 1) * together);
  }
  int64_t columns(int64_t group) const {
    return (end_panel(group) - 1 - first_panel(group)) * direct.panel +
           direct.panel_width(end_panel(group) - 1);
  }
  float* filter_of(std::byte* base, int64_t group) const {
    return reinterpret_cast<float*>(base + transformed.panel_offset(first_panel(group)));
  }
  void transform_filters(float* out, std::byte* taps, int64_t group) const {
    for (int64_t panel = first_panel(group); panel < end_panel(group);
         ++panel, out += slices * c.in * direct.panel)
      transform_filter(out, taps, panel);
  }

  int64_t product_slice(int64_t width) const { return tiles * width + kLineFloats; }
  int64_t product_floats(int64_t width) const { return slices * product_slice(width); }
  // Products of a chunk and a group of panels, transformed back and stored. `memory` has
  // product_floats.
  void multiply(const float* input,
                const float* filter,
                int64_t chunk,
                int64_t group,
                float* memory) const {
    int64_t width = columns(group), have = count(chunk), n0 = first_panel(group) * direct.panel;
    for (int64_t j = 0; j < width; j += direct.panel) {
      int64_t panel_width = std::min(direct.panel, width - j);
      cpu.simd.winograd_products({input, chunk_slice(), ld, filter, panel_width, c.in, memory + j,
                                  product_slice(width), width, slices, have,
                                  panel_width / cpu.simd.width});
      filter += slices * c.in * panel_width;
    }
    tiling.runs(chunk * tiles, have, [&](const Tile& tile, int64_t t, int64_t n) {
      int64_t first = tile.first(0, c.out) + n0;
      cpu.simd.winograd_output(
          memory + t * width, product_slice(width), width,
          {.y = at(c.y, first, c.dtype),
           .residual = c.residual ? at(c.residual, first, c.dtype) : nullptr,
           .row = c.width * c.out,
           .pixel = c.out,
           .rows = std::min<int64_t>(c.size, c.height - tile.y0),
           .columns = std::min(n * c.size, c.width - tile.x0),
           .bias = c.bias ? c.bias + n0 : nullptr,
           .per_image = c.per_image ? at(c.per_image, tile.image * c.out + n0, c.dtype) : nullptr,
           .n = std::min(width, c.out - n0),
           .accumulate = c.accumulate},
          c.size, bf16);
    });
  }
};

}  // namespace

void winograd(CpuContext& cpu, const WinogradCall& call, const Weight& w) {
  const Shape& f = w.shape();
  PackKind kind = call.backward ? PackKind::Backward : PackKind::Forward;
  const std::byte* kept = cpu.packing.kept(w, kind);
  int64_t slices = int64_t(call.size + 2) * (call.size + 2);
  WinogradWork work{cpu,
                    call,
                    slices,
                    cpu.packing.layout(9, call.in, call.out, call.dtype),
                    cpu.packing.layout(slices, call.in, call.out, DType::F32),
                    kept,
                    kept ? PackSource{} : pack_source(w, kind, {.n = f[0], .taps = 9, .k = f[3]})};
  if (!kept) cpu.packing.count(work.transformed.bytes());
  int64_t panels = work.direct.panels(), groups = work.groups, width = work.columns(0),
          tap_floats = divide_up(work.tap_panel_bytes(0), 4),
          product_floats = work.product_floats(width);
  if (work.transformed.bytes() <= kSharedFilter) {
    // Small filters: transformed once; a task takes its tiles past all panels.
    std::byte* filter = cpu.packing.room(Packing::Room::Weight, work.transformed.bytes());
    cpu.threads.run(panels, [&](int64_t panel, int thread) {
      work.transform_filter(work.panel_of(filter, panel), cpu.scratch(thread, tap_floats * 4),
                            panel);
    });
    cpu.threads.run(work.chunks, [&](int64_t chunk, int thread) {
      float* input =
          reinterpret_cast<float*>(cpu.scratch(thread, (work.chunk_floats() + product_floats) * 4));
      work.transform_input(input, chunk);
      for (int64_t group = 0; group < groups; ++group)
        work.multiply(input, work.filter_of(filter, group), chunk, group,
                      input + work.chunk_floats());
    });
    return;
  }
  // Large filters: the input is transformed for all; a task takes one group of panels past its
  // share of the tiles, transforming it on the way.
  int64_t span = std::max<int64_t>(1, kTransformedInput / (work.chunk_floats() * 4)),
          filter_floats = slices * call.in * width;
  for (int64_t first = 0; first < work.chunks; first += span) {
    int64_t last = std::min(work.chunks, first + span),
            pieces = groups < 8 ? std::min<int64_t>(2, last - first) : 1;
    float* input = reinterpret_cast<float*>(
        cpu.packing.room(Packing::Room::Inputs, span * work.chunk_floats() * 4));
    cpu.threads.run(last - first, [&](int64_t i, int) {
      work.transform_input(input + i * work.chunk_floats(), first + i);
    });
    cpu.threads.run(groups * pieces, [&](int64_t task, int thread) {
      int64_t group = task / pieces, piece = task % pieces;
      float* filter = reinterpret_cast<float*>(
          cpu.scratch(thread, (filter_floats + product_floats + tap_floats) * 4));
      float* products = filter + filter_floats;
      work.transform_filters(filter, reinterpret_cast<std::byte*>(products + product_floats),
                             group);
      for (int64_t chunk = first + (last - first) * piece / pieces;
           chunk < first + (last - first) * (piece + 1) / pieces; ++chunk)
        work.multiply(input + (chunk - first) * work.chunk_floats(), filter, chunk, group,
                      products);
    });
  }
}

}  // namespace spindle::cpu
