// The squares of output pixels that Winograd's convolutions and their gradients work on.
#pragma once
#include <algorithm>

#include "kernels/cpu/context.h"

namespace spindle::cpu {

constexpr int64_t kLineFloats = 16;

struct Tile {
  int64_t height, width, image, y0, x0;  // of its first output pixel

  // The element of its first pixel, moved by `shift` both ways; may lie outside of the image.
  int64_t first(int64_t shift, int64_t channels) const {
    return ((image * height + y0 + shift) * width + x0 + shift) * channels;
  }
  // Its square of side * side pixels from `shift` on and those of the tiles to its right, `size`
  // apart.
  SquareRow squares(int64_t side,
                    int64_t shift,
                    int64_t count,
                    const void* x,
                    DType dtype,
                    int64_t channels) const {
    return {.first = at(x, first(shift, channels), dtype),
            .row = width * channels,
            .pixel = channels,
            .squares = count,
            .top = int(std::max<int64_t>(0, -(y0 + shift))),
            .bottom = int(std::min(side, height - y0 - shift)),
            .left = -(x0 + shift),
            .right = width - x0 - shift};
  }
};

struct Tiling {
  int64_t batch, height, width, size;
  int64_t rows() const { return divide_up(height, size); }
  int64_t columns() const { return divide_up(width, size); }
  int64_t tiles() const { return batch * rows() * columns(); }
  // Runs f(tile, t, n) over the tiles [first + t, first + t + n) that are neighbours in a row, for
  // t in [0, count).
  template <class F>
  void runs(int64_t first, int64_t count, F&& f) const {
    Tile tile = at(first);
    for (int64_t t = 0, n; t < count; t += n) {
      n = std::min(count - t, columns() - tile.x0 / size);
      f(tile, t, n);
      tile.x0 = 0;
      if ((tile.y0 += size) >= height) tile.y0 = 0, ++tile.image;
    }
  }
  Tile at(int64_t tile) const {
    return {height, width, tile / (rows() * columns()), tile / columns() % rows() * size,
            tile % columns() * size};
  }
};

// Many pixels for each weight: the filter of the large square is four times as large as the direct
// one.
inline bool large_square_pays(const Shape& filter, int64_t height, int64_t width) {
  return height * width >= 256 || filter[0] * filter[3] <= 128 * 128;
}

}  // namespace spindle::cpu
