// How an image becomes a judge's input, to the bit what the libraries that define the judges give.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "io/image_resize.h"

namespace spindle {

// How an image comes to the model's size. The judges' own code differs, and scores with it.
//   Transformers     transformers' CLIPImageProcessor on Pillow: resize of the shortest edge,
//                    centre crop (offsets rounded down)
//   Torchvision      Resize and CenterCrop of a PIL image: the same, offsets rounded half to even
//   Tensor           Resize of a float tensor without antialiasing: longest edge, padded with
//                    zeros before normalising
//   TensorAntialias  the same with antialiasing, torchvision's default since 0.17
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
  // Of the methods that resize bytes, and what bytes are multiplied by (transformers' alone).
  ResizeFilter filter = ResizeFilter::Bicubic;
  double rescale = 1.0 / 255;
};
// Resized, cropped or padded, to [0, 1], normalised. (3, crop_height, crop_width).
std::vector<float> preprocess_image(const ImageView& image, const ImagePreprocess& spec);

}  // namespace spindle
