// Between a fixture's files and tensors.
#pragma once
#include "io/model_source.h"
#include "io/weight_layout.h"
#include "models/layout.h"
#include "parity/parity.h"

namespace spindle {

// Float32, in the file's shape.
inline Tensor read_tensor(Device& device, const SafetensorsFile& file, const std::string& name) {
  return from_floats(device, file.floats(name), Shape(file.at(name).shape));
}

template <class T>
std::vector<T> read_integers_as(const SafetensorsFile& file, const std::string& name) {
  std::vector<int64_t> values = file.integers(name);
  return {values.begin(), values.end()};
}

// A parameter-shaped tensor as a file would hold it.
inline std::vector<float> in_file_layout(Device& device, const Parameter& p, const Tensor& values) {
  std::vector<float> out(size_t(p.shape.numel()));
  to_file_layout(p, device.download<float>(values).data(), out.data());
  return out;
}

inline void compare_tensor(Fixture& fixture,
                           Device& device,
                           const std::string& name,
                           const Tensor& got) {
  fixture.compare(name, device.download<float>(got));
}

inline ModelSource fixture_model(const Fixture& fixture,
                                 const std::string& file = "weights.safetensors") {
  return {fixture.config(), {fixture.path(file)}, fixture.directory()};
}

}  // namespace spindle
