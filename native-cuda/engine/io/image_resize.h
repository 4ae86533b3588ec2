// Image resizing that gives the bytes Pillow gives, and CLIP's preprocessing on top of it. Images
// are RGB bytes, (H, W, 3).
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

// Antialiased, both passes in fixed point with 8 bits between them. `pixels` has width * height * 3
// bytes.
RgbImage resize_image(const uint8_t* pixels,
                      int64_t width,
                      int64_t height,
                      int64_t to_width,
                      int64_t to_height,
                      ResizeFilter filter);

// How an image comes to the model's size. The judges' own code differs, and scores with it.
//   Transformers     CLIPImageProcessor: Pillow's bicubic of the shortest edge, centre crop
//   (offsets rounded down) Torchvision      Resize and CenterCrop of a PIL image: the same, offsets
//   rounded half to even Tensor           Resize of a float tensor without antialiasing: longest
//   edge, padded with zeros before normalising TensorAntialias  the same with antialiasing,
//   torchvision's default since 0.17
enum class PreprocessMethod : uint8_t { Transformers, Torchvision, Tensor, TensorAntialias };
// "transformers", "torchvision", "tensor" or "tensor_antialias".
PreprocessMethod parse_preprocess_method(const std::string& name);

// (channels, height, width) of floats -> (channels, to_height, to_width), as
// torch.nn.functional.interpolate(mode="bicubic", align_corners=False): a = -0.75 over the four
// nearest pixels, edges repeated; antialiased, a = -0.5 over a support that widens with the
// reduction. Not clamped.
std::vector<float> resize_planes(const std::vector<float>& planes,
                                 int64_t channels,
                                 int64_t height,
                                 int64_t width,
                                 int64_t to_height,
                                 int64_t to_width,
                                 bool antialias);

struct ImagePreprocess {
  int64_t resize = 224;  // of the shortest edge; of the longest one with the tensor methods
  int64_t crop_height = 224, crop_width = 224;
  std::array<double, 3> mean{}, std{};
  PreprocessMethod method = PreprocessMethod::Transformers;
};
// Resized, cropped or padded, to [0, 1], normalised. (3, crop_height, crop_width).
std::vector<float> preprocess_image(const uint8_t* pixels,
                                    int64_t width,
                                    int64_t height,
                                    const ImagePreprocess& spec);

}  // namespace spindle
