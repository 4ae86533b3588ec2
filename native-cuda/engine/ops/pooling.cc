// One row per text or image, and rows of length 1.
#include "ops/ops.h"

namespace spindle::ops {

Tensor gather_rows(Tape& tape, const Tensor& x, const std::vector<int32_t>& rows) {
  int64_t width = x.dim(-1), count = x.numel() / width;
  for (int32_t row : rows)
    require(row >= 0 && row < count, "[gather_rows] expected rows below ", count, ", got ", row);
  Tensor y = tape.device().empty({int64_t(rows.size()), width}, x.dtype());
  tape.kernels().run(GatherRows{.y = y, .x = x.reshape({count, width}), .rows = rows});
  return y;
}

Tensor l2_normalize(Tape& tape, const Tensor& x) {
  Tensor wide = x, y = tape.device().empty(x.shape(), Device::stat_dtype(x.dtype()));
  if (x.dtype() == DType::BF16) {
    wide = tape.device().empty(x.shape(), y.dtype());
    tape.kernels().run(Cast{.y = wide, .x = x});
  }
  tape.kernels().run(L2Normalize{.y = y, .x = wide});
  return y;
}

}  // namespace spindle::ops
