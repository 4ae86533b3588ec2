#include "io/image_resize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numbers>

#include "core/error.h"

namespace spindle {

namespace {
constexpr int kPrecisionBits = 32 - 8 - 2;  // Pillow's
constexpr int64_t kMaxEdge = 65535;
constexpr int64_t kChannels = 3;

double sinc(double x) {
  if (x == 0) return 1;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

// Of x that are not negative. Operations are in Pillow's order: another one rounds differently.
double bicubic(double x) {
  constexpr double a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

double hamming(double x) {
  if (x == 0) return 1;
  if (x >= 1) return 0;
  x *= std::numbers::pi;
  return std::sin(x) / x * (double(0.54f) + double(0.46f) * std::cos(x));
}

// Costella's magic kernel, sharpened: https://johncostella.com/magic
double mks2013(double x) {
  if (x < 0.5) return 17.0 / 16 - 7.0 / 4 * (x * x);
  if (x < 1.5) return (1 - x) * (7.0 / 4 - x);
  return x < 2.5 ? -1.0 / 8 * ((x - 5.0 / 2) * (x - 5.0 / 2)) : 0;
}

double mks2021(double x) {
  if (x < 0.5) return 577.0 / 576 - 239.0 / 144 * (x * x);
  if (x < 1.5) return 35.0 / 36 * (x - 1) * (x - 239.0 / 140);
  if (x < 2.5) return 1.0 / 6 * (x - 2) * (65.0 / 24 - x);
  if (x < 3.5) return 1.0 / 36 * (x - 3) * (x - 15.0 / 4);
  return x < 4.5 ? -1.0 / 288 * ((x - 9.0 / 2) * (x - 9.0 / 2)) : 0;
}

double weight(ResizeFilter filter, double x) {
  switch (filter) {
    case ResizeFilter::Nearest:
      break;  // reads single pixels
    case ResizeFilter::Box:
      return x > -0.5 && x <= 0.5 ? 1 : 0;
    case ResizeFilter::Bilinear:
      return std::abs(x) < 1 ? 1 - std::abs(x) : 0;
    case ResizeFilter::Hamming:
      return hamming(std::abs(x));
    case ResizeFilter::Bicubic:
      return bicubic(std::abs(x));
    case ResizeFilter::Lanczos:
      return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0;
    case ResizeFilter::Mks2013:
      return mks2013(std::abs(x));
    case ResizeFilter::Mks2021:
      return mks2021(std::abs(x));
  }
  return 0;
}

constexpr std::array<const char*, 8> kNames = {"nearest", "lanczos", "bilinear", "bicubic",
                                               "box",     "hamming", "mks2013",  "mks2021"};
constexpr std::array<double, 8> kSupport = {0, 3, 1, 2, 0.5, 1, 2.5, 4.5};

// One dimension of a resize: of `to` pixels made of `from`, the `size` from `begin` on.
struct Line {
  int64_t from, to, begin, size;
};

struct Range {
  int64_t first, end;
};

// What pixels are made of: output i of inputs [first[i], first[i] + count[i]).
struct Taps {
  int64_t reach = 0;  // weights of one output lie so far from those of the next
  std::vector<int64_t> first, count;
  std::vector<int32_t> weights;

  Range inputs() const { return {first.front(), first.back() + count.back()}; }
};

Taps taps_of(const Line& line, ResizeFilter filter) {
  double scale = double(line.from) / double(line.to), filter_scale = std::max(scale, 1.0),
         support = kSupport[size_t(filter)] * filter_scale;
  Taps taps;
  taps.reach = int64_t(std::ceil(support)) * 2 + 1;
  taps.weights.resize(size_t(line.size * taps.reach));
  std::vector<double> weights(static_cast<size_t>(taps.reach));
  for (int64_t i = 0; i < line.size; ++i) {
    double center = (double(line.begin + i) + 0.5) * scale, sum = 0;
    // NOLINTBEGIN(bugprone-incorrect-roundings): the reference rounds so, to the last bit.
    int64_t first = std::max<int64_t>(0, int64_t(center - support + 0.5)),
            count = std::min(line.from, int64_t(center + support + 0.5)) - first;
    // NOLINTEND(bugprone-incorrect-roundings)
    for (int64_t k = 0; k < count; ++k) {
      double w = weight(filter, (double(k + first) - center + 0.5) * (1 / filter_scale));
      weights[size_t(k)] = w;
      sum += w;
    }
    for (int64_t k = 0; k < count; ++k) {
      double w = weights[size_t(k)];
      if (sum != 0) w /= sum;
      taps.weights[size_t(i * taps.reach + k)] =
          int32_t((w < 0 ? -0.5 : 0.5) + w * double(1 << kPrecisionBits));
    }
    taps.first.push_back(first);
    taps.count.push_back(count);
  }
  return taps;
}

// Rows of bytes that are weighed and added: row k begins at in + k * stride.
struct Rows {
  const uint8_t* in;
  int64_t stride;
  const int32_t* weights;
  int64_t count;
};

constexpr int64_t kTile = 48;  // sums that fit into the vector registers

[[gnu::always_inline]] inline void blend_tile(const Rows& rows, int64_t size, uint8_t* out) {
  int32_t sums[kTile];
  for (int64_t c = 0; c < size; ++c) sums[c] = 1 << (kPrecisionBits - 1);
  const uint8_t* in = rows.in;
  for (int64_t k = 0; k < rows.count; ++k, in += rows.stride)
    for (int64_t c = 0; c < size; ++c) sums[c] += in[c] * rows.weights[k];
  for (int64_t c = 0; c < size; ++c)
    out[c] = uint8_t(std::clamp(sums[c] >> kPrecisionBits, 0, 255));
}

[[gnu::always_inline]] inline void blend_any(Rows rows, int64_t size, uint8_t* out) {
  for (; size >= kTile; size -= kTile, rows.in += kTile, out += kTile) blend_tile(rows, kTile, out);
  if (size > 0) blend_tile(rows, size, out);
}

// out (size) = the weighed sum of the rows' first `size` bytes.
using Blend = void (*)(const Rows& rows, int64_t size, uint8_t* out);

void blend_generic(const Rows& rows, int64_t size, uint8_t* out) { blend_any(rows, size, out); }

#if defined(__x86_64__)
// The same sums in wider vectors.
__attribute__((target("avx2"))) void blend_avx2(const Rows& rows, int64_t size, uint8_t* out) {
  blend_any(rows, size, out);
}
#endif

Blend choose_blend() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return blend_avx2;
#endif
  return blend_generic;
}

const Blend kBlend = choose_blend();

// Image rows whose columns are resized together: a column of them is one row of bytes to blend.
constexpr int64_t kTogether = 16;
constexpr int64_t kColumn = kTogether * kChannels;

// `rows` rows of `from` -> of (rows, taps, 3). `from` begins at the pixel `origin` of its line, and
// its rows are `stride` bytes apart.
void resize_columns(const uint8_t* from,
                    int64_t stride,
                    int64_t rows,
                    int64_t origin,
                    const Taps& taps,
                    uint8_t* to) {
  auto [begin, end] = taps.inputs();
  int64_t width = int64_t(taps.first.size());
  std::vector<uint8_t> columns(size_t((end - begin) * kColumn));
  std::array<uint8_t, kColumn> column;
  constexpr int64_t kStrip = 256;  // stays in the nearest cache
  for (int64_t top = 0; top < rows; top += kTogether) {
    int64_t count = std::min(kTogether, rows - top);
    for (int64_t left = begin; left < end; left += kStrip)
      for (int64_t r = 0; r < count; ++r) {
        const uint8_t* x = from + (top + r) * stride + (left - origin) * kChannels;
        uint8_t* y = columns.data() + (left - begin) * kColumn + r * kChannels;
        for (int64_t i = std::min(kStrip, end - left); i > 0; --i, x += kChannels, y += kColumn)
          std::memcpy(y, x, kChannels);
      }
    for (int64_t i = 0; i < width; ++i) {
      kBlend({columns.data() + (taps.first[size_t(i)] - begin) * kColumn, kColumn,
              taps.weights.data() + i * taps.reach, taps.count[size_t(i)]},
             count * kChannels, column.data());
      for (int64_t r = 0; r < count; ++r)
        std::memcpy(to + ((top + r) * width + i) * kChannels, column.data() + r * kChannels,
                    kChannels);
    }
  }
}

// Rows of `size` bytes, `stride` apart, of which `from` is number `origin` -> (taps, size).
void resize_rows(const uint8_t* from,
                 int64_t stride,
                 int64_t size,
                 int64_t origin,
                 const Taps& taps,
                 uint8_t* to) {
  for (int64_t i = 0; i < int64_t(taps.first.size()); ++i)
    kBlend({from + (taps.first[size_t(i)] - origin) * stride, stride,
            taps.weights.data() + i * taps.reach, taps.count[size_t(i)]},
           size, to + i * size);
}

std::vector<uint8_t> pixels_of(int64_t width, int64_t height) {
  return std::vector<uint8_t>(size_t(width * height * kChannels));
}

std::vector<uint8_t> crop(const ImageView& image, const Window& window) {
  std::vector<uint8_t> out = pixels_of(window.width, window.height);
  for (int64_t y = 0; y < window.height; ++y)
    std::memcpy(out.data() + y * window.width * kChannels,
                image.pixels + ((window.top + y) * image.width + window.left) * kChannels,
                size_t(window.width * kChannels));
  return out;
}

// Input pixels of Pillow's affine transform, which adds up steps; -1: none.
std::vector<int64_t> nearest_inputs(const Line& line) {
  double step = double(line.from) / double(line.to), at = step * 0.5;
  std::vector<int64_t> inputs;
  for (int64_t i = 0; i < line.begin + line.size; ++i, at += step)
    if (i >= line.begin) inputs.push_back(int64_t(at) < line.from ? int64_t(at) : -1);
  return inputs;
}

std::vector<uint8_t> pick(const ImageView& image, const Line& across, const Line& down) {
  std::vector<int64_t> columns = nearest_inputs(across), rows = nearest_inputs(down);
  std::vector<uint8_t> out = pixels_of(across.size, down.size);
  uint8_t* to = out.data();
  for (int64_t y : rows)
    for (int64_t x : columns) {
      if (x >= 0 && y >= 0)
        std::memcpy(to, image.pixels + (y * image.width + x) * kChannels, kChannels);
      to += kChannels;
    }
  return out;
}

// A dimension that keeps its size is not filtered.
std::vector<uint8_t> resample(const ImageView& image,
                              const Line& across,
                              const Line& down,
                              ResizeFilter filter) {
  int64_t stride = image.width * kChannels, size = across.size * kChannels;
  std::vector<uint8_t> out = pixels_of(across.size, down.size);
  if (down.from == down.to) {
    resize_columns(image.pixels + down.begin * stride, stride, down.size, 0,
                   taps_of(across, filter), out.data());
    return out;
  }
  Taps rows = taps_of(down, filter);
  if (across.from == across.to) {
    resize_rows(image.pixels + across.begin * kChannels, stride, size, 0, rows, out.data());
    return out;
  }
  Taps columns = taps_of(across, filter);
  // As Pillow has it since version 13; between the passes 8 bits are left, so it matters.
  int64_t lower = down.from - down.to, narrower = across.from - across.to;
  if (lower > 0 && lower > 2 * narrower) {
    auto [left, right] = columns.inputs();
    int64_t between = (right - left) * kChannels;
    std::vector<uint8_t> low = pixels_of(right - left, down.size);
    resize_rows(image.pixels + left * kChannels, stride, between, 0, rows, low.data());
    resize_columns(low.data(), between, down.size, left, columns, out.data());
  } else {
    auto [top, bottom] = rows.inputs();
    std::vector<uint8_t> narrow = pixels_of(across.size, bottom - top);
    resize_columns(image.pixels + top * stride, stride, bottom - top, 0, columns, narrow.data());
    resize_rows(narrow.data(), size, size, top, rows, out.data());
  }
  return out;
}
}  // namespace

ResizeFilter parse_resize_filter(const std::string& name) {
  const auto* found = std::find(kNames.begin(), kNames.end(), name);
  require(found != kNames.end(),
          "[resize] filter: expected nearest, lanczos, bilinear, bicubic, box, hamming, mks2013 or "
          "mks2021, got ",
          name);
  return ResizeFilter(found - kNames.begin());
}

RgbImage resize_image(const ImageView& image, const ResizeTo& to) {
  for (int64_t edge : {image.width, image.height, to.width, to.height})
    require(edge >= 1 && edge <= kMaxEdge, "[resize] expected edges of 1 to ", kMaxEdge,
            " pixels, got ", edge);
  const Window& window = to.window;
  require(window.left >= 0 && window.top >= 0 && window.width >= 1 && window.height >= 1 &&
              window.left <= to.width - window.width && window.top <= to.height - window.height,
          "[resize] window: expected a part of ", to.width, " x ", to.height, " pixels, got ",
          window.width, " x ", window.height, " at ", window.left, ", ", window.top);
  Line across{image.width, to.width, window.left, window.width},
      down{image.height, to.height, window.top, window.height};
  RgbImage out{window.width, window.height, {}};
  if (to.width == image.width && to.height == image.height)
    out.pixels = crop(image, window);
  else if (to.filter == ResizeFilter::Nearest)
    out.pixels = pick(image, across, down);
  else
    out.pixels = resample(image, across, down, to.filter);
  return out;
}

}  // namespace spindle
