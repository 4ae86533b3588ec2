// How many tile products a call of attention makes on AMX, counted on emulated tiles: no more than
// its shapes need. A tile that is not filled costs as much as a full one.
#include <algorithm>

#include "check.h"
#include "isas.h"
#include "kernels/cpu/elements.h"
#include "kernels/cpu/isa/simd.h"
#include "tensors.h"

using namespace spindle;
using cpu::divide_up;

namespace {

// A tile has 16 rows of a, 16 columns of b, and 32 values along k.
int64_t tiles(int64_t rows, int64_t columns, int64_t k) {
  return divide_up(rows, 16) * divide_up(columns, 16) * divide_up(k, 32);
}

template <class F>
int64_t products(F&& run) {
  const int64_t before = cpu::emulated_tile_products();
  run();
  return cpu::emulated_tile_products() - before;
}

}  // namespace

TEST("attention fills its tiles, forward and backward") {
  if (std::ranges::find(available_isas(), "amx_emulated") == available_isas().end()) return;
  // Of whole and of started blocks of queries and keys; a head of one tile, of less and of more.
  struct {
    int64_t images, queries, keys, heads, width;
  } const shapes[] = {
      {1, 96, 64, 1, 32}, {2, 64, 77, 2, 40}, {1, 100, 200, 1, 16}, {1, 300, 600, 2, 80}};
  for (int threads : {1, 3}) {
    Device device({.backend = "cpu", .threads = threads, .isa = "amx_emulated"});
    for (auto [images, queries, keys, heads, width] : shapes) {
      const int64_t c = heads * width, units = images * heads;
      auto tensor = [&](int64_t rows, uint64_t seed) {
        return uniform_tensor(device.pool(), {images, rows, c}, DType::BF16, seed);
      };
      Tensor q = tensor(queries, 1), k = tensor(keys, 2), v = tensor(keys, 3),
             d_o = tensor(queries, 4), o = tensor(queries, 5),
             lse = device.empty({images, heads, queries}, DType::F32);
      // Blocks start anew: the last one of each may be a started tile.
      auto sum = [](int64_t n, int64_t block, auto&& of) {
        int64_t total = 0;
        for (int64_t i = 0; i < n; i += block) total += of(std::min(block, n - i));
        return total;
      };
      const int64_t forward = sum(queries, 96, [&](int64_t rows) {
        return sum(keys, 512, [&](int64_t some) {
          return tiles(rows, some, width) + tiles(rows, width, some);
        });
      });
      CHECK_EQUAL(products([&] {
                    device.kernels().run(AttentionForward{
                        .o = o, .lse = lse, .q = q, .k = k, .v = v, .args = {.heads = heads}});
                  }),
                  units * forward);
      const int64_t backward = sum(queries, 128, [&](int64_t rows) {
        return sum(keys, 192, [&](int64_t some) {
          const int64_t scores = tiles(some, rows, width), to_keys = tiles(some, width, rows),
                        to_queries = tiles(rows, width, some);
          return 2 * (scores + to_keys) + to_queries;
        });
      });
      // Few heads are shared out among several threads in blocks, whose scores are made twice.
      if (threads > 1) continue;
      Tensor dq = device.empty(q.shape(), DType::BF16), dk = device.empty(k.shape(), DType::BF16),
             dv = device.empty(v.shape(), DType::BF16);
      CHECK_EQUAL(products([&] {
                    device.kernels().run(AttentionBackward{.dq = {dq, false},
                                                           .dk = {dk, false},
                                                           .dv = {dv, false},
                                                           .d_o = d_o,
                                                           .o = o,
                                                           .lse = lse,
                                                           .q = q,
                                                           .k = k,
                                                           .v = v,
                                                           .args = {.heads = heads}});
                  }),
                  units * backward);
    }
  }
}
