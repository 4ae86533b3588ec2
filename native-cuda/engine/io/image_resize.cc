#include "io/image_resize.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace spindle {

namespace {
constexpr int kPrecisionBits = 32 - 8 - 2;  // Pillow's
constexpr int64_t kMaxEdge = 65535;

double sinc(double x) {
  return x == 0 ? 1 : std::sin(x * std::numbers::pi) / (x * std::numbers::pi);
}

double weight(ResizeFilter filter, double x) {
  constexpr double a = -0.5;
  switch (filter) {
    case ResizeFilter::Bilinear:
      return std::max(0.0, 1 - std::abs(x));
    case ResizeFilter::Bicubic:
      x = std::abs(x);
      if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
    case ResizeFilter::Lanczos:
      return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0;
  }
  return 0;
}

constexpr double support(ResizeFilter filter) {
  return filter == ResizeFilter::Bilinear ? 1 : filter == ResizeFilter::Bicubic ? 2 : 3;
}

// What one output pixel is made of: inputs [first, first + weights.size()).
struct Taps {
  int64_t first;
  std::vector<int32_t> weights;
};

std::vector<Taps> taps_of(int64_t from, int64_t to, ResizeFilter filter) {
  double scale = double(from) / double(to), filter_scale = std::max(scale, 1.0),
         reach = support(filter) * filter_scale;
  std::vector<Taps> all;
  std::vector<double> weights;
  for (int64_t i = 0; i < to; ++i) {
    double center = (double(i) + 0.5) * scale, sum = 0;
    int64_t first = std::max<int64_t>(0, int64_t(center - reach + 0.5)),
            last = std::min(from, int64_t(center + reach + 0.5));
    weights.clear();
    for (int64_t x = first; x < last; ++x) {
      weights.push_back(weight(filter, (double(x) - center + 0.5) * (1 / filter_scale)));
      sum += weights.back();
    }
    Taps taps{first, {}};
    for (double w : weights) {
      if (sum != 0) w /= sum;
      taps.weights.push_back(int32_t((w < 0 ? -0.5 : 0.5) + w * double(1 << kPrecisionBits)));
    }
    all.push_back(std::move(taps));
  }
  return all;
}

uint8_t clip8(int32_t x) { return uint8_t(std::clamp(x >> kPrecisionBits, 0, 255)); }

// (outer, from, inner) -> (outer, to, inner), over the middle dimension.
std::vector<uint8_t> resample(const uint8_t* in,
                              int64_t outer,
                              int64_t from,
                              int64_t to,
                              int64_t inner,
                              ResizeFilter filter) {
  std::vector<Taps> taps = taps_of(from, to, filter);
  std::vector<uint8_t> out(size_t(outer * to * inner));
  std::vector<int32_t> sums(static_cast<size_t>(inner));
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < to; ++i) {
      std::fill(sums.begin(), sums.end(), 1 << (kPrecisionBits - 1));
      for (size_t k = 0; k < taps[size_t(i)].weights.size(); ++k) {
        const uint8_t* row = in + (o * from + taps[size_t(i)].first + int64_t(k)) * inner;
        for (int64_t c = 0; c < inner; ++c) sums[size_t(c)] += row[c] * taps[size_t(i)].weights[k];
      }
      uint8_t* y = out.data() + (o * to + i) * inner;
      for (int64_t c = 0; c < inner; ++c) y[c] = clip8(sums[size_t(c)]);
    }
  return out;
}

int64_t floor_half(int64_t x) { return x >= 0 ? x / 2 : -((1 - x) / 2); }
}  // namespace

ResizeFilter parse_resize_filter(const std::string& name) {
  if (name == "bilinear") return ResizeFilter::Bilinear;
  if (name == "bicubic") return ResizeFilter::Bicubic;
  require(name == "lanczos", "[resize] filter: expected bilinear, bicubic or lanczos, got ", name);
  return ResizeFilter::Lanczos;
}

RgbImage resize_image(const uint8_t* pixels,
                      int64_t width,
                      int64_t height,
                      int64_t to_width,
                      int64_t to_height,
                      ResizeFilter filter) {
  for (int64_t edge : {width, height, to_width, to_height})
    require(edge >= 1 && edge <= kMaxEdge, "[resize] expected edges of 1 to ", kMaxEdge,
            " pixels, got ", edge);
  RgbImage image{to_width, to_height, {}};
  if (to_width != width)
    image.pixels = resample(pixels, height, width, to_width, 3, filter);
  else
    image.pixels.assign(pixels, pixels + width * height * 3);
  if (to_height != height)
    image.pixels = resample(image.pixels.data(), 1, height, to_height, to_width * 3, filter);
  return image;
}

PreprocessMethod parse_preprocess_method(const std::string& name) {
  if (name == "transformers") return PreprocessMethod::Transformers;
  if (name == "torchvision") return PreprocessMethod::Torchvision;
  if (name == "tensor") return PreprocessMethod::Tensor;
  require(
      name == "tensor_antialias",
      "[preprocess] method: expected transformers, torchvision, tensor or tensor_antialias, got ",
      name);
  return PreprocessMethod::TensorAntialias;
}

namespace {
// What one output value is made of, in floats; indices are within the line already.
struct FloatTaps {
  std::vector<int64_t> at;
  std::vector<float> weights;
};

double cubic(double x, double a) {
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

FloatTaps nearest_four(int64_t from, double scale, int64_t i) {
  double center = (double(i) + 0.5) * scale - 0.5, base = std::floor(center);
  FloatTaps taps;
  for (int64_t k = -1; k <= 2; ++k) {
    taps.at.push_back(std::clamp<int64_t>(int64_t(base) + k, 0, from - 1));
    taps.weights.push_back(float(cubic(center - base - double(k), -0.75)));
  }
  return taps;
}

FloatTaps antialiased(int64_t from, double scale, int64_t i) {
  double widening = std::max(scale, 1.0), reach = 2 * widening, center = (double(i) + 0.5) * scale,
         sum = 0;
  int64_t first = std::max<int64_t>(0, int64_t(center - reach + 0.5)),
          last = std::min(from, int64_t(center + reach + 0.5));
  std::vector<double> weights;
  for (int64_t x = first; x < last; ++x) {
    weights.push_back(cubic((double(x) - center + 0.5) / widening, -0.5));
    sum += weights.back();
  }
  FloatTaps taps;
  for (size_t k = 0; k < weights.size(); ++k) {
    taps.at.push_back(first + int64_t(k));
    taps.weights.push_back(float(sum != 0 ? weights[k] / sum : weights[k]));
  }
  return taps;
}

// (outer, from, inner) -> (outer, to, inner), over the middle dimension.
std::vector<float> resample_floats(const std::vector<float>& in,
                                   int64_t outer,
                                   int64_t from,
                                   int64_t to,
                                   int64_t inner,
                                   bool antialias) {
  std::vector<float> out(size_t(outer * to * inner));
  double scale = double(from) / double(to);
  for (int64_t i = 0; i < to; ++i) {
    FloatTaps taps = antialias ? antialiased(from, scale, i) : nearest_four(from, scale, i);
    for (int64_t o = 0; o < outer; ++o)
      for (size_t k = 0; k < taps.at.size(); ++k) {
        const float* x = in.data() + (o * from + taps.at[k]) * inner;
        float* y = out.data() + (o * to + i) * inner;
        for (int64_t c = 0; c < inner; ++c) y[c] += taps.weights[k] * x[c];
      }
  }
  return out;
}

// Python's round() of a / 2.
int64_t half_to_even(int64_t a) { return int64_t(std::nearbyint(double(a) / 2)); }

std::vector<float> preprocess_tensor(const uint8_t* pixels,
                                     int64_t width,
                                     int64_t height,
                                     const ImagePreprocess& spec) {
  require(spec.crop_height == spec.resize && spec.crop_width == spec.resize,
          "[preprocess] expected a crop of the size that is resized to, ", spec.resize, ", got ",
          spec.crop_height, " x ", spec.crop_width);
  std::vector<float> planes(size_t(3 * width * height));
  for (int64_t c = 0; c < 3; ++c)
    for (int64_t i = 0; i < width * height; ++i)
      planes[size_t(c * width * height + i)] = float(pixels[i * 3 + c]) / 255.0f;
  double scale = double(spec.resize) / double(std::max(height, width));
  int64_t to_height = height, to_width = width;
  if (scale != 1) {
    to_height = std::max<int64_t>(1, int64_t(std::nearbyint(double(height) * scale)));
    to_width = std::max<int64_t>(1, int64_t(std::nearbyint(double(width) * scale)));
    planes = resize_planes(planes, 3, height, width, to_height, to_width,
                           spec.method == PreprocessMethod::TensorAntialias);
  }
  int64_t top = (spec.resize - to_height) / 2, left = (spec.resize - to_width) / 2;
  std::vector<float> out(size_t(3 * spec.resize * spec.resize));
  for (int64_t c = 0; c < 3; ++c)
    for (int64_t y = 0; y < spec.resize; ++y)
      for (int64_t x = 0; x < spec.resize; ++x) {
        bool inside = y >= top && y < top + to_height && x >= left && x < left + to_width;
        float value = inside ? planes[size_t((c * to_height + y - top) * to_width + x - left)] : 0;
        out[size_t((c * spec.resize + y) * spec.resize + x)] =
            (value - float(spec.mean[size_t(c)])) / float(spec.std[size_t(c)]);
      }
  return out;
}
}  // namespace

std::vector<float> resize_planes(const std::vector<float>& planes,
                                 int64_t channels,
                                 int64_t height,
                                 int64_t width,
                                 int64_t to_height,
                                 int64_t to_width,
                                 bool antialias) {
  for (int64_t edge : {width, height, to_width, to_height})
    require(edge >= 1 && edge <= kMaxEdge, "[resize] expected edges of 1 to ", kMaxEdge,
            " pixels, got ", edge);
  require(int64_t(planes.size()) == channels * height * width, "[resize] expected ",
          channels * height * width, " values, got ", planes.size());
  std::vector<float> wide =
      resample_floats(planes, channels * height, width, to_width, 1, antialias);
  return resample_floats(wide, channels, height, to_height, to_width, antialias);
}

std::vector<float> preprocess_image(const uint8_t* pixels,
                                    int64_t width,
                                    int64_t height,
                                    const ImagePreprocess& spec) {
  require(width >= 1 && height >= 1, "[preprocess] expected an image of at least one pixel, got ",
          width, " x ", height);
  require(spec.resize >= 1 && spec.crop_height >= 1 && spec.crop_width >= 1,
          "[preprocess] expected sizes of at least 1, got resize ", spec.resize, ", crop ",
          spec.crop_height, " x ", spec.crop_width);
  for (double std : spec.std)
    require(std > 0, "[preprocess] std: expected positive values, got ", std);
  if (spec.method == PreprocessMethod::Tensor || spec.method == PreprocessMethod::TensorAntialias)
    return preprocess_tensor(pixels, width, height, spec);
  int64_t shorter = std::min(width, height);
  auto resized_edge = [&](int64_t edge) {
    return edge == shorter ? spec.resize
                           : int64_t(double(spec.resize) * double(edge) / double(shorter));
  };
  RgbImage image = resize_image(pixels, width, height, resized_edge(width), resized_edge(height),
                                ResizeFilter::Bicubic);
  // A crop larger than the image is padded with black.
  auto offset = [&](int64_t spare) {
    return spec.method == PreprocessMethod::Torchvision ? half_to_even(spare) : floor_half(spare);
  };
  int64_t top = offset(image.height - spec.crop_height),
          left = offset(image.width - spec.crop_width);
  std::vector<float> out(size_t(3 * spec.crop_height * spec.crop_width));
  for (int64_t c = 0; c < 3; ++c) {
    double mean = spec.mean[size_t(c)], std = spec.std[size_t(c)];
    for (int64_t y = 0; y < spec.crop_height; ++y)
      for (int64_t x = 0; x < spec.crop_width; ++x) {
        int64_t from_y = y + top, from_x = x + left;
        bool inside = from_y >= 0 && from_y < image.height && from_x >= 0 && from_x < image.width;
        double value =
            inside ? double(image.pixels[size_t((from_y * image.width + from_x) * 3 + c)]) / 255
                   : 0;
        out[size_t((c * spec.crop_height + y) * spec.crop_width + x)] = float((value - mean) / std);
      }
  }
  return out;
}

}  // namespace spindle
