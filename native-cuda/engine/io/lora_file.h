// Low-rank adapters in safetensors files, under every name that diffusers, PEFT and kohya's scripts
// use (io/lora_names.h). What a layer's weight gains is scale * up (N, r) * down (r, K...).
//
// The scale of a layer is alpha / rank. It is stated by an .alpha tensor, by the header that
// diffusers writes (lora_adapter_metadata), or by the adapter_config.json beside a file of PEFT's;
// where more than one speaks they must agree. Where none does, alpha is the rank, but for PEFT's
// own files, which say nothing without that config.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "autograd/parameter.h"
#include "io/lora_names.h"
#include "io/safetensors.h"

namespace spindle {

struct LoraLayer {
  const FileTensor* down = nullptr;   // (r, K), for a filter (r, Ci, R, S)
  const FileTensor* up = nullptr;     // (N, r), for a filter (N, r, 1, 1)
  const FileTensor* alpha = nullptr;  // one value; null: stated elsewhere
  double scale = 1;
  int64_t rank() const { return down->shape[0]; }
};

// What of a LoRA file a model takes.
struct LoraTarget {
  Component component = Component::Unet;  // what the model is
  // What the caller adds the file to, or leaves out on purpose. Adapters of another component are
  // refused: nobody would add them.
  std::vector<Component> components = {Component::Unet};
};

class LoraFile {
 public:
  // Checks names and shapes against the model's parameters: an adapter of something else is refused
  // by name.
  LoraFile(const std::string& path, const ParameterStore& model, const LoraTarget& target = {});
  const std::string& path() const { return file_->path(); }
  // By the parameter's name.
  const std::map<std::string, LoraLayer>& layers() const { return layers_; }
  const LoraLayer* find(const std::string& parameter) const;
  // values (N, K...) in the file's layout += scale * layer.scale * up * down, summed in double.
  template <class T>
  void add_to(const LoraLayer& layer, double scale, T* values, int64_t count) const;
  std::vector<float> read(const FileTensor& tensor) const;

 private:
  std::unique_ptr<SafetensorsFile> file_;
  std::map<std::string, LoraLayer> layers_;
};

}  // namespace spindle
