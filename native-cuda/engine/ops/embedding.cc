#include "ops/ops.h"

namespace spindle::ops {

Tensor timestep_embedding(Tape& tape,
                          const Tensor& timesteps,
                          int64_t dim,
                          const TimestepArgs& args,
                          DType dtype) {
  require(dim >= 4 && dim % 2 == 0,
          "[timestep_embedding] width: expected an even number of at least 4, got ", dim);
  Tensor y = tape.device().empty({timesteps.numel(), dim}, dtype);
  tape.kernels().timestep_embedding(y, timesteps, args);
  return y;
}

Tensor timestep_embedding(Tape& tape,
                          const std::vector<float>& timesteps,
                          int64_t dim,
                          const TimestepArgs& args,
                          DType dtype) {
  Tensor values = tape.device().empty({int64_t(timesteps.size())}, DType::F32);
  tape.device().upload(values, timesteps.data());
  return timestep_embedding(tape, values, dim, args, dtype);
}

Tensor token_embedding(Tape& tape,
                       const std::vector<int32_t>& ids,
                       int64_t batch,
                       Parameter& tokens,
                       Parameter& positions,
                       DType dtype) {
  int64_t length = int64_t(ids.size()) / batch, width = tokens.shape[1];
  require(batch > 0 && length * batch == int64_t(ids.size()), "[token_embedding] ", ids.size(),
          " ids are not ", batch, " rows");
  require(length <= positions.shape[0], "[token_embedding] ", positions.name, ": expected at most ",
          positions.shape[0], " tokens, got ", length);
  for (int32_t id : ids)
    require(id >= 0 && id < tokens.shape[0], "[token_embedding] ", tokens.name,
            ": expected ids below ", tokens.shape[0], ", got ", id);
  Device& device = tape.device();
  Tensor embedded = device.empty({batch, length, width}, dtype),
         y = device.empty(embedded.shape(), dtype);
  device.kernels().embedding_forward(embedded, tokens.value, ids.data(), int64_t(ids.size()));
  Tensor rows = device.empty({length, width}, dtype);
  device.kernels().cast(rows, positions.value.slice(0, {length, width}));
  device.kernels().add_rows(y, embedded, rows);
  return y;
}

Tensor image_tokens(Tape& tape,
                    const Tensor& patches,
                    Parameter& class_token,
                    Parameter& positions) {
  int64_t batch = patches.dim(0), count = patches.dim(1) * patches.dim(2), width = patches.dim(3);
  // Some checkpoints have a first dimension of 1.
  require(positions.shape.numel() == (count + 1) * width && positions.shape[-1] == width,
          "[image_tokens] ", positions.name, ": ", count, " patches of width ", width,
          " do not fit ", positions.shape);
  Device& device = tape.device();
  Tensor first = device.empty({batch, width}, patches.dtype());
  std::vector<int32_t> ids(size_t(batch), 0);
  device.kernels().embedding_forward(first, class_token.value.reshape({1, width}), ids.data(),
                                     batch);
  Tensor tokens = device.empty({batch, (count + 1) * width}, patches.dtype());
  device.kernels().concat_channels(tokens, first, patches.reshape({batch, count * width}));
  Tensor rows = device.empty({count + 1, width}, patches.dtype()),
         y = device.empty({batch, count + 1, width}, patches.dtype());
  device.kernels().cast(rows, positions.value.reshape(rows.shape()));
  device.kernels().add_rows(y, tokens.reshape(y.shape()), rows);
  return y;
}

}  // namespace spindle::ops
