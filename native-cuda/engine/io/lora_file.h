// Low-rank adapters in safetensors files, under the names that diffusers, PEFT and kohya's scripts
// use:
//   unet.<layer>.lora_A.weight and .lora_B.weight (PEFT), .lora.down.weight and .lora.up.weight,
//   <attention>.processor.<layer>_lora.down.weight (older diffusers), lora_unet_<layer with
//   underscores>.lora_down.weight (kohya); <layer>.alpha where alpha is not the rank.
// A layer is that of diffusers' U-Net. What a layer's weight gains is alpha / rank * up (N, r) *
// down (r, K...).
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "autograd/parameter.h"
#include "io/safetensors.h"

namespace spindle {

struct LoraLayer {
  const FileTensor* down = nullptr;  // (r, K), for a filter (r, Ci, R, S)
  const FileTensor* up = nullptr;    // (N, r), for a filter (N, r, 1, 1)
  double alpha = 0;
  int64_t rank() const { return down->shape[0]; }
};

class LoraFile {
 public:
  // Checks names and shapes against the model's parameters: an adapter of something else is refused
  // by name.
  LoraFile(const std::string& path, ParameterStore& model);
  const std::string& path() const { return file_->path(); }
  // By the parameter's name.
  const std::map<std::string, LoraLayer>& layers() const { return layers_; }
  const LoraLayer* find(const std::string& parameter) const;
  // values (N, K...) in the file's layout += scale * alpha / rank * up * down, summed in double.
  template <class T>
  void add_to(const LoraLayer& layer, double scale, T* values, int64_t count) const;
  std::vector<float> read(const FileTensor& tensor) const;

 private:
  std::unique_ptr<SafetensorsFile> file_;
  std::map<std::string, LoraLayer> layers_;
};

}  // namespace spindle
