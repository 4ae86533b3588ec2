// The tiny U-Net as files, and LoRA files made of given tensors, for tests.
#pragma once
#include "io/model_source.h"
#include "io/safetensors.h"
#include "temporary.h"
#include "tiny_models.h"

namespace tiny {

// The tiny U-Net as files, so that trainers load it as they do a released one.
struct BaseFiles {
  explicit BaseFiles(Device& device) {
    auto unet = tiny::unet(device, {.trainable = true});
    save_parameters(file.path, {{"", &unet->store, unet->store.master()}});
  }
  ModelSource source(const std::vector<AdapterSource>& adapters = {}) const {
    return {tiny::kUnet, {file.path}, "tiny", adapters};
  }
  TemporaryFile file;
};

inline TensorToWrite tensor(const std::string& name,
                            const std::vector<int64_t>& shape,
                            const std::vector<float>& values) {
  return {name, FileType::F32, shape,
          [values](const ByteSink& sink) { sink(values.data(), values.size() * sizeof(float)); }};
}

// Standard normal, the same for the same number.
inline std::vector<float> drawn(int64_t count, uint32_t number) {
  std::vector<float> values(static_cast<size_t>(count));
  Philox(7, 0).normal(values.data(), count, number, 0, Draw::Test);
  return values;
}

}  // namespace tiny
