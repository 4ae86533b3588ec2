// Between the engine's layout and PyTorch's files. The only place that knows that a convolution's
// filter is (Co, Ci, R, S) there.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "autograd/parameter.h"

namespace spindle {

// The parameter's shape in a file.
std::vector<int64_t> file_shape(const Parameter& parameter);
// Files may also hold a matrix as a 1x1 filter (N, K, 1, 1), a 1x1 filter as a matrix, and a single
// value without dimensions.
bool fits(const Parameter& parameter, const std::vector<int64_t>& shape);
std::string shape_text(const std::vector<int64_t>& shape);

// `values` has the parameter's elements; `out` must be another block.
template <class T>
void from_file_layout(const Parameter& parameter, const T* values, T* out);
template <class T>
void to_file_layout(const Parameter& parameter, const T* values, T* out);

}  // namespace spindle
