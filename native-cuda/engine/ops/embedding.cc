// Vectors from numbers: timesteps, tokens with their positions, patches of an image.
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
  tape.kernels().run(TimestepEmbedding{.y = y, .timesteps = timesteps, .args = args});
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
  device.kernels().run(EmbeddingForward{.y = embedded, .table = tokens.value, .ids = ids});
  Tensor rows = device.empty({length, width}, dtype);
  device.kernels().run(Cast{.y = rows, .x = positions.value.slice(0, {length, width})});
  device.kernels().run(AddRows{.y = y, .x = embedded, .rows = rows});
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
  device.kernels().run(
      EmbeddingForward{.y = first, .table = class_token.value.reshape({1, width}), .ids = ids});
  Tensor tokens = device.empty({batch, (count + 1) * width}, patches.dtype());
  device.kernels().run(
      ConcatChannels{.y = tokens, .a = first, .b = patches.reshape({batch, count * width})});
  Tensor rows = device.empty({count + 1, width}, patches.dtype()),
         y = device.empty({batch, count + 1, width}, patches.dtype());
  device.kernels().run(Cast{.y = rows, .x = positions.value.reshape(rows.shape())});
  device.kernels().run(AddRows{.y = y, .x = tokens.reshape(y.shape()), .rows = rows});
  return y;
}

}  // namespace spindle::ops
