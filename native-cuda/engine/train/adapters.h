// LoRA adapters of a U-Net in training (arXiv 2106.09685): matrices A (r, K) and B (N, r) beside
// frozen weights W, as x W^T + alpha / r * (x A^T) B^T. Several sets may lie on one base; the one
// that is active counts.
#pragma once
#include <deque>
#include <string>
#include <vector>

#include "core/rng.h"
#include "models/loaded.h"

namespace spindle {

struct LoraOptions {
  int64_t rank = 8;
  double alpha = 8;
  // Names of linear layers: the whole one or its end, e.g. "to_q" or
  // "mid_block.attentions.0.proj_in".
  std::vector<std::string> targets = {"to_q", "to_k", "to_v", "to_out.0"};
};

class Adapters {
 public:
  // `use` Trained or Frozen. Refuses targets that name no linear layer. The values are not set yet.
  Adapters(Unet& base, const LoraOptions& options, WeightUse use);
  ~Adapters();
  Adapters(const Adapters&) = delete;

  // A normal with deviation 1 / rank, B zero: nothing is added at first.
  void initialise(const Philox& philox);
  // From a file with the same layers and rank; alpha may differ, B takes the ratio.
  void load(const std::string& path);
  // PEFT's names, as diffusers' load_lora_weights reads them. B takes alpha / rank, so that alpha
  // is the rank for every reader: diffusers ignores alpha beside PEFT's names. `arena`: the
  // masters' or one like it.
  void save(const std::string& path, const Tensor& arena) const;
  // The base's weights with these added, float32.
  void save_merged(const std::string& path, const Tensor& arena) const;

  // From now on the base computes with these, or with none.
  void activate() const;
  static void deactivate(Unet& base);

  ParameterStore& store() { return store_; }

 private:
  struct Layer {
    Parameter* weight;
    LowRank low_rank;
  };
  Unet& base_;
  double scale_;
  ParameterStore store_;
  std::deque<Layer> layers_;
};

}  // namespace spindle
