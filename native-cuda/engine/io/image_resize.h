// Image resizing that gives the bytes Pillow 13 gives. Images are RGB bytes, (H, W, 3).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace spindle {

struct RgbImage {
  int64_t width = 0, height = 0;
  std::vector<uint8_t> pixels;  // (height, width, 3)
};

// An image that somebody else holds.
struct ImageView {
  const uint8_t* pixels;  // (height, width, 3)
  int64_t width, height;
};

// Pillow's filters, under its numbers.
enum class ResizeFilter : uint8_t {
  Nearest,
  Lanczos,
  Bilinear,
  Bicubic,
  Box,
  Hamming,
  Mks2013,
  Mks2021
};
// "nearest", "lanczos", "bilinear", "bicubic", "box", "hamming", "mks2013" or "mks2021".
ResizeFilter parse_resize_filter(const std::string& name);

// A part of an image, in pixels.
struct Window {
  int64_t left, top, width, height;
};

// What lies in `window` of `image` brought to width x height pixels, as Image.resize and
// Image.crop: antialiased, two passes in fixed point with 8 bits between them. Only what the window
// needs is computed.
struct ResizeTo {
  int64_t width, height;
  ResizeFilter filter;
  Window window;
};
RgbImage resize_image(const ImageView& image, const ResizeTo& to);

// The whole of it.
inline RgbImage resize_image(const ImageView& image,
                             int64_t width,
                             int64_t height,
                             ResizeFilter filter) {
  return resize_image(image, {width, height, filter, {0, 0, width, height}});
}

}  // namespace spindle
