#include "io/image_preprocess.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace spindle {

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
constexpr int64_t kMaxEdge = 65535;

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

// What every byte becomes.
using Values = std::array<float, 256>;

Values values_of(const ImagePreprocess& spec, size_t channel) {
  auto mean = float(spec.mean[channel]), std = float(spec.std[channel]);
  Values values;
  for (size_t byte = 0; byte < values.size(); ++byte) {
    // NumPy multiplies in double precision, ToTensor divides in single.
    float value = spec.method == PreprocessMethod::Transformers ? float(double(byte) * spec.rescale)
                                                                : float(byte) / 255.0f;
    values[byte] = (value - mean) / std;
  }
  return values;
}

std::vector<float> preprocess_tensor(const ImageView& image, const ImagePreprocess& spec) {
  require(spec.crop_height == spec.resize && spec.crop_width == spec.resize,
          "[preprocess] expected a crop of the size that is resized to, ", spec.resize, ", got ",
          spec.crop_height, " x ", spec.crop_width);
  auto [pixels, width, height] = image;
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

// Where a crop begins in an image that is larger than it by `spare`; below 0 it is padded.
int64_t crop_offset(PreprocessMethod method, int64_t spare) {
  if (method == PreprocessMethod::Transformers) return spare >> 1;  // Python's //
  return spare >= 0 ? half_to_even(spare) : -(-spare / 2);
}

// The part of a line of `edge` pixels that a crop of `size` from `offset` on has.
struct Cut {
  int64_t offset, first, end;
  Cut(int64_t edge, int64_t size, int64_t offset)
      : offset(offset), first(std::max<int64_t>(0, offset)), end(std::min(edge, offset + size)) {}
};

std::vector<float> preprocess_bytes(const ImageView& image, const ImagePreprocess& spec) {
  int64_t shorter = std::min(image.width, image.height);
  auto resized = [&](int64_t edge) {
    return edge == shorter ? spec.resize
                           : int64_t(double(spec.resize) * double(edge) / double(shorter));
  };
  int64_t width = resized(image.width), height = resized(image.height);
  Cut across(width, spec.crop_width, crop_offset(spec.method, width - spec.crop_width)),
      down(height, spec.crop_height, crop_offset(spec.method, height - spec.crop_height));
  Window window{across.first, down.first, across.end - across.first, down.end - down.first};
  RgbImage cut = resize_image(image, {width, height, spec.filter, window});
  std::vector<float> out(size_t(3 * spec.crop_height * spec.crop_width));
  for (int64_t c = 0; c < 3; ++c) {
    Values values = values_of(spec, size_t(c));
    float* plane = out.data() + c * spec.crop_height * spec.crop_width;
    // What is padded is black before it is normalised.
    std::fill_n(plane, spec.crop_height * spec.crop_width, values[0]);
    for (int64_t y = 0; y < cut.height; ++y) {
      const uint8_t* from = cut.pixels.data() + y * cut.width * 3 + c;
      float* to =
          plane + (y + down.first - down.offset) * spec.crop_width + across.first - across.offset;
      for (int64_t x = 0; x < cut.width; ++x) to[x] = values[from[x * 3]];
    }
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

std::vector<float> preprocess_image(const ImageView& image, const ImagePreprocess& spec) {
  require(image.width >= 1 && image.height >= 1,
          "[preprocess] expected an image of at least one pixel, got ", image.width, " x ",
          image.height);
  require(spec.resize >= 1 && spec.crop_height >= 1 && spec.crop_width >= 1,
          "[preprocess] expected sizes of at least 1, got resize ", spec.resize, ", crop ",
          spec.crop_height, " x ", spec.crop_width);
  for (double std : spec.std)
    require(std > 0, "[preprocess] std: expected positive values, got ", std);
  bool bytes =
      spec.method == PreprocessMethod::Transformers || spec.method == PreprocessMethod::Torchvision;
  return bytes ? preprocess_bytes(image, spec) : preprocess_tensor(image, spec);
}

}  // namespace spindle
