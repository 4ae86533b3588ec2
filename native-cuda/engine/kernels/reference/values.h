// How the reference kernels see tensors: values are read into double whatever their type, computed
// with in double, and rounded once when they are stored. So every mix of types works, and outputs
// may share storage with inputs.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/kernels.h"

namespace spindle::reference {

using Values = std::vector<double>;

template <class T>
inline double widen(T x) {
  return double(x);
}
template <>
inline double widen(bf16 x) {
  return double(to_float(x));
}

template <class T>
inline T narrow(double x) {
  return T(x);
}
template <>
inline bf16 narrow(double x) {
  return to_bf16(float(x));
}

// Calls f with a null pointer of the element type.
template <class F>
void with_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::F32:
      return f(static_cast<float*>(nullptr));
    case DType::BF16:
      return f(static_cast<bf16*>(nullptr));
    case DType::F64:
      return f(static_cast<double*>(nullptr));
  }
}

// Empty for an empty tensor.
inline Values load(const Tensor& t) {
  if (!t) return {};
  Values values(size_t(t.numel()));
  with_type(t.dtype(), [&]<class T>(T*) {
    const T* data = t.data<T>();
    for (size_t i = 0; i < values.size(); ++i) values[i] = widen(data[i]);
  });
  return values;
}

inline void store(const Tensor& t, const Values& values) {
  ensure(t.numel() == int64_t(values.size()), "[reference] ", values.size(), " values do not fit ",
         t.shape());
  with_type(t.dtype(), [&]<class T>(T*) {
    T* data = t.data<T>();
    for (size_t i = 0; i < values.size(); ++i) data[i] = narrow<T>(values[i]);
  });
}

// Stores or adds; does nothing when the gradient is not needed.
inline void store(const GradSlot& slot, Values values) {
  if (!slot) return;
  if (slot.accumulate) {
    Values before = load(slot.tensor);
    ensure(before.size() == values.size(), "[reference] ", values.size(), " values do not fit ",
           slot.tensor.shape());
    for (size_t i = 0; i < values.size(); ++i) values[i] += before[i];
  }
  store(slot.tensor, values);
}

// Element of a row-major array of rows `width` long.
inline double& at(Values& values, int64_t row, int64_t column, int64_t width) {
  return values[size_t(row * width + column)];
}
inline double at(const Values& values, int64_t row, int64_t column, int64_t width) {
  return values[size_t(row * width + column)];
}

double activate(double x, Activation kind);
double activate_derivative(double x, Activation kind);

// y = activation(sum + bias + per_image[image]) + residual, with y holding the sum; rows of
// channels.
void apply_epilogue(Values& y, int64_t channels, const Epilogue& epilogue);

}  // namespace spindle::reference
