// The aesthetic predictor: linear layers without activations over a CLIP image embedding (the
// library's dropouts do nothing here). Version 2 has five (layers.0, 2, 4, 6, 7), version 1 a
// single one.
#pragma once
#include <memory>
#include <vector>

#include "io/model_source.h"
#include "nn/linear.h"

namespace spindle {

class AestheticModel {
 public:
  // Widths of the embedding and of every layer's output, e.g. {768, 1024, 128, 64, 16, 1}.
  AestheticModel(const Scope& scope, const std::vector<int64_t>& widths);
  int64_t embed_dim() const { return widths_.front(); }
  // embeds (B, embed_dim), L2-normalised, float32 -> (B, 1)
  Tensor forward(Tape& tape, const Tensor& embeds) const;

 private:
  std::vector<int64_t> widths_;
  std::vector<nn::Linear> layers_;
};

struct Aesthetic {
  Aesthetic(Device& device, const std::vector<int64_t>& widths)
      : device(device), store(device), model(Scope(store), widths) {}

  Device& device;
  ParameterStore store;
  AestheticModel model;
};

// Always float32: the head is tiny. Widths come from the tensors' shapes; config.json, if any, is
// not read.
std::unique_ptr<Aesthetic> load_aesthetic(Device& device, const ModelSource& source);
// Headers only; the number of parameters.
int64_t inspect_aesthetic(Device& device, const ModelSource& source);

}  // namespace spindle
