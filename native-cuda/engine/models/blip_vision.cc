#include "models/blip_vision.h"

namespace spindle {

namespace {
std::vector<ClipEncoderLayer> blocks(const Scope& scope, const ClipTowerConfig& config) {
  std::vector<ClipEncoderLayer> all;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    all.emplace_back(scope / "blocks" / i, config, false);
  return all;
}
}  // namespace

BlipVisionTower::BlipVisionTower(const Scope& scope, const ClipVisionConfig& c)
    : config_(c),
      cls_token_(scope.parameter("cls_token", {1, 1, c.tower.hidden_size}, ParameterKind::Vector)),
      patch_embed_(scope / "patch_embed" / "proj",
                   c.num_channels,
                   c.tower.hidden_size,
                   {.kernel = c.patch_size,
                    .args = {.stride = c.patch_size, .pad_before = 0, .pad_after = 0}}),
      pos_embed_(scope.parameter("pos_embed",
                                 {1, c.patches() + 1, c.tower.hidden_size},
                                 ParameterKind::Vector)),
      blocks_(blocks(scope, c.tower)),
      norm_(scope / "norm", c.tower.hidden_size, c.tower.layer_norm_eps) {}

Tensor BlipVisionTower::forward(Tape& tape, const Tensor& pixels) const {
  require(pixels.rank() == 4 && pixels.dim(1) == config_.image_size &&
              pixels.dim(2) == config_.image_size && pixels.dim(3) == config_.num_channels,
          "[blip] pixels: expected (B, ", config_.image_size, ", ", config_.image_size, ", ",
          config_.num_channels, "), got ", pixels.shape());
  Tensor x = ops::image_tokens(tape, patch_embed_(tape, pixels), *cls_token_, *pos_embed_);
  for (const ClipEncoderLayer& block : blocks_) x = block(tape, x);
  return norm_(tape, x);
}

}  // namespace spindle
