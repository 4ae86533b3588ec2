// A model with the parameters it owns, and how each kind is loaded from its files.
#pragma once
#include <memory>

#include "autograd/parameter.h"
#include "io/config.h"
#include "io/model_source.h"
#include "models/autoencoder_kl.h"
#include "models/clip.h"
#include "models/unet2d_condition.h"

namespace spindle {

template <class Model>
struct Loaded {
  template <class ModelConfig>
  Loaded(Device& device, const ModelConfig& config)
      : device(device), store(device), model(Scope(store), config) {}

  Device& device;
  ParameterStore store;
  Model model;
};

using Unet = Loaded<UNet2DConditionModel>;
using Vae = Loaded<AutoencoderKL>;
using ClipText = Loaded<ClipTextModel>;
using Clip = Loaded<ClipModel>;

struct LoadPrecision {
  DType compute = DType::F32;
  bool trainable = false;
  bool pass_through = false;  // frozen, but gradients go through: the base of adapters

  WeightUse use() const {
    return trainable      ? WeightUse::Trained
           : pass_through ? WeightUse::PassThrough
                          : WeightUse::Frozen;
  }
};

std::unique_ptr<Unet> load_unet(Device& device,
                                const ModelSource& source,
                                const LoadPrecision& precision);
std::unique_ptr<Vae> load_vae(Device& device,
                              const ModelSource& source,
                              const LoadPrecision& precision);
std::unique_ptr<ClipText> load_clip_text(Device& device,
                                         const ModelSource& source,
                                         const LoadPrecision& precision);
// In transformers' layout or in open_clip's.
std::unique_ptr<Clip> load_clip(Device& device,
                                const ModelSource& source,
                                const LoadPrecision& precision);

// Reads config and headers only, and throws what loading would throw. `kind`: unet, vae, clip_text,
// clip, image_reward or aesthetic. Returns the number of parameters.
int64_t inspect_model(Device& device, const std::string& kind, const ModelSource& source);

}  // namespace spindle
