#include "models/unet2d_condition.h"

namespace spindle {

UNet2DConditionModel::UNet2DConditionModel(const Scope& scope, const UNet2DConditionConfig& config)
    : config_(config),
      conv_in_(scope / "conv_in", config.in_channels, config.block_out_channels.front()),
      time_embedding_(scope / "time_embedding",
                      config.block_out_channels.front(),
                      config.time_embedding_dim),
      conv_norm_out_(scope / "conv_norm_out",
                     config.block_out_channels.front(),
                     {.groups = config.norm_num_groups, .eps = config.norm_eps, .silu = true}),
      conv_out_(scope / "conv_out", config.block_out_channels.front(), config.out_channels) {
  const UNet2DConditionConfig& c = config_;
  if (c.text_time())
    add_embedding_.emplace(scope / "add_embedding", c.projection_class_embeddings_input_dim,
                           c.time_embedding_dim);
  size_t levels = c.levels();
  // Options of the block at `level`, counted from the finest.
  auto options = [&](size_t level) {
    return UNetBlockOptions{.in_channels = 0,
                            .out_channels = c.block_out_channels[level],
                            .layers = c.layers_per_block[level],
                            .time_embed_dim = c.time_embedding_dim,
                            .norm = {.groups = c.norm_num_groups, .eps = c.norm_eps},
                            .cross_attention = true,
                            .heads = c.attention_heads[level],
                            .transformer_layers = c.transformer_layers_per_block[level],
                            .cross_attention_dim = c.cross_attention_dim,
                            .use_linear_projection = c.use_linear_projection,
                            .resample = false};
  };
  for (size_t i = 0; i < levels; ++i) {
    UNetBlockOptions o = options(i);
    o.in_channels = c.block_out_channels[i == 0 ? 0 : i - 1];
    o.cross_attention = c.down_cross_attention[i];
    o.resample = i + 1 < levels;
    down_blocks_.emplace_back(scope / "down_blocks" / int64_t(i), o);
  }
  UNetBlockOptions mid = options(levels - 1);
  mid.in_channels = mid.out_channels;
  mid_block_.emplace(scope / "mid_block", mid);
  for (size_t i = 0; i < levels; ++i) {
    size_t level = levels - 1 - i;
    UNetBlockOptions o = options(level);
    o.in_channels = c.block_out_channels[level == 0 ? 0 : level - 1];
    o.previous_channels = c.block_out_channels[i == 0 ? level : level + 1];
    o.layers += 1;
    o.cross_attention = c.up_cross_attention[i];
    o.resample = i + 1 < levels;
    up_blocks_.emplace_back(scope / "up_blocks" / int64_t(i), o);
  }
}

void UNet2DConditionModel::check(const UNetInputs& in) const {
  int64_t batch = in.sample.dim(0);
  require(in.sample.rank() == 4 && in.sample.dim(3) == config_.in_channels,
          "[unet] sample: expected (B, H, W, ", config_.in_channels, "), got ", in.sample.shape());
  int64_t timesteps =
      in.timestep_values ? in.timestep_values.numel() : int64_t(in.timesteps.size());
  require(timesteps == batch, "[unet] timesteps: expected ", batch, ", got ", timesteps);
  require(in.text.rank() == 3 && in.text.dim(0) == batch &&
              in.text.dim(2) == config_.cross_attention_dim,
          "[unet] text: expected (", batch, ", T, ", config_.cross_attention_dim, "), got ",
          in.text.shape());
  if (!config_.text_time()) return;
  int64_t ids = in.time_id_values ? in.time_id_values.numel() : int64_t(in.time_ids.size());
  require(
      bool(in.text_embeds) && ids > 0,
      "[unet] text_embeds and time_ids: expected with this model's text_time embedding, got none");
  require(in.text_embeds.rank() == 2 && in.text_embeds.dim(0) == batch,
          "[unet] text_embeds: expected (", batch, ", P), got ", in.text_embeds.shape());
  require(ids % batch == 0, "[unet] time_ids: expected ", batch, " rows, got ", ids, " values");
}

Tensor UNet2DConditionModel::time_embedding(Tape& tape, const UNetInputs& in) const {
  TimestepArgs args{.flip_sin_to_cos = config_.flip_sin_to_cos, .freq_shift = config_.freq_shift};
  DType dtype = in.sample.dtype();
  Tensor emb = time_embedding_(
      tape, in.timestep_values
                ? ops::timestep_embedding(tape, in.timestep_values,
                                          config_.block_out_channels.front(), args, dtype)
                : ops::timestep_embedding(tape, in.timesteps, config_.block_out_channels.front(),
                                          args, dtype));
  if (add_embedding_) {
    int64_t batch = in.sample.dim(0);
    Tensor ids = in.time_id_values
                     ? ops::timestep_embedding(tape, in.time_id_values,
                                               config_.addition_time_embed_dim, args, dtype)
                     : ops::timestep_embedding(tape, in.time_ids, config_.addition_time_embed_dim,
                                               args, dtype);
    ids = ids.reshape({batch, ids.numel() / batch});
    require(in.text_embeds.dim(1) + ids.dim(1) == config_.projection_class_embeddings_input_dim,
            "[unet] text_embeds and time_ids: expected ",
            config_.projection_class_embeddings_input_dim, " columns together, got ",
            in.text_embeds.dim(1), " + ", ids.dim(1));
    emb = (*add_embedding_)(tape, ops::concat_channels(tape, in.text_embeds, ids), emb);
  }
  return ops::activation(tape, emb, Activation::Silu);  // every resnet block starts with it
}

Tensor UNet2DConditionModel::forward(Tape& tape, const UNetInputs& in) const {
  check(in);
  BlockContext c{tape, time_embedding(tape, in), in.text, in.kept};
  Tensor x = conv_in_(tape, in.sample);
  std::vector<Tensor> skips{x};
  for (const DownBlock& block : down_blocks_) x = block(c, x, skips);
  x = (*mid_block_)(c, x);
  for (const UpBlock& block : up_blocks_) x = block(c, x, skips);
  return conv_out_(tape, conv_norm_out_(tape, x));
}

}  // namespace spindle
