// Image resizing that gives the bytes Pillow gives, and CLIP's preprocessing on top of it. Images are RGB bytes, (H, W, 3).
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace spindle {

struct RgbImage {
  int64_t width = 0, height = 0;
  std::vector<uint8_t> pixels;  // (height, width, 3)
};

enum class ResizeFilter : uint8_t { Bilinear, Bicubic, Lanczos };
// "bilinear", "bicubic" or "lanczos".
ResizeFilter parse_resize_filter(const std::string& name);

// Antialiased, both passes in fixed point with 8 bits between them. `pixels` has width * height * 3 bytes.
RgbImage resize_image(const uint8_t* pixels, int64_t width, int64_t height, int64_t to_width, int64_t to_height, ResizeFilter filter);

struct ImagePreprocess {
  int64_t resize = 224;  // of the shortest edge
  int64_t crop_height = 224, crop_width = 224;
  std::array<double, 3> mean{}, std{};
};
// As transformers' CLIPImageProcessor: resize the shortest edge (bicubic), centre crop, to [0, 1], normalise. (3, crop_height, crop_width).
std::vector<float> preprocess_image(const uint8_t* pixels, int64_t width, int64_t height, const ImagePreprocess& spec);

}  // namespace spindle
