// LoraFile: names, shapes and alphas of adapters, and their products with the weights they are for.
#include "autograd/parameter.h"
#include "fuzz.h"
#include "io/lora_file.h"

namespace {
struct Model {
  Model() : device({.backend = "reference", .threads = 1}), store(device) {
    using spindle::ParameterKind;
    store.add("down_blocks.0.attentions.0.to_q.weight", {4, 6}, ParameterKind::Matrix);
    store.add("down_blocks.0.attentions.0.to_out.0.weight", {4, 4}, ParameterKind::Matrix);
    store.add("conv_in.weight", {4, 3, 3, 2}, ParameterKind::Filter);
    store.add("conv_in.bias", {4}, ParameterKind::Vector);
  }
  spindle::Device device;
  spindle::ParameterStore store;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace spindle;
  static Model model;
  fuzz::File input(data, size);
  return fuzz::expect_read_or_refusal([&] {
    LoraFile file(input.path(), model.store);
    for (const Parameter& parameter : model.store.parameters()) {
      const LoraLayer* layer = file.find(parameter.name);
      if (!layer) continue;
      std::vector<float> values(size_t(parameter.shape.numel()));
      file.add_to(*layer, 1.0, values.data(), int64_t(values.size()));
    }
  });
}
