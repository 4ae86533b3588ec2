#include "io/weight_layout.h"

#include <cstring>

namespace spindle {

std::vector<int64_t> file_shape(const Parameter& p) {
  std::vector<int64_t> dims = p.shape.dims();
  if (p.kind == ParameterKind::Filter) return {dims[0], dims[3], dims[1], dims[2]};
  if (p.pointwise) return {dims[0], dims[1], 1, 1};
  return dims;
}

bool fits(const Parameter& p, const std::vector<int64_t>& shape) {
  std::vector<int64_t> expected = file_shape(p);
  if (shape == expected) return true;
  if (p.kind == ParameterKind::Matrix)
    return shape == (p.pointwise ? std::vector<int64_t>{expected[0], expected[1]}
                                 : std::vector<int64_t>{expected[0], expected[1], 1, 1});
  if (p.kind == ParameterKind::Filter)
    return expected[2] == 1 && expected[3] == 1 &&
           shape == std::vector<int64_t>{expected[0], expected[1]};
  return shape.empty() && expected == std::vector<int64_t>{1};
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "(";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + ")";
}

namespace {
// (outer, a, b) -> (outer, b, a)
template <class T>
void swap_inner(const T* x, T* y, int64_t outer, int64_t a, int64_t b) {
  for (int64_t o = 0; o < outer; ++o, x += a * b, y += a * b)
    for (int64_t i = 0; i < a; ++i)
      for (int64_t j = 0; j < b; ++j) y[j * a + i] = x[i * b + j];
}
}  // namespace

template <class T>
void from_file_layout(const Parameter& p, const T* values, T* out) {
  if (p.kind == ParameterKind::Filter)
    swap_inner(values, out, p.shape[0], p.shape[3], p.shape[1] * p.shape[2]);
  else
    std::memcpy(out, values, size_t(p.shape.numel()) * sizeof(T));
}

template <class T>
void to_file_layout(const Parameter& p, const T* values, T* out) {
  if (p.kind == ParameterKind::Filter)
    swap_inner(values, out, p.shape[0], p.shape[1] * p.shape[2], p.shape[3]);
  else
    std::memcpy(out, values, size_t(p.shape.numel()) * sizeof(T));
}

template void from_file_layout(const Parameter&, const float*, float*);
template void from_file_layout(const Parameter&, const double*, double*);
template void to_file_layout(const Parameter&, const float*, float*);
template void to_file_layout(const Parameter&, const double*, double*);

}  // namespace spindle
