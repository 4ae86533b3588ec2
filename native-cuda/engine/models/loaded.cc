#include "models/loaded.h"

#include "models/aesthetic.h"
#include "models/image_reward.h"
#include "models/open_clip.h"

namespace spindle {

namespace {

LoadOptions renaming(std::string (*rename)(const std::string&)) {
  LoadOptions options;
  options.rename = rename;
  return options;
}

LoadOptions laid_out(FileLayout (*layout)(const std::string&)) {
  LoadOptions options;
  options.layout = layout;
  return options;
}

LoadOptions clip_options(const ModelSource& source) {
  return is_open_clip(source) ? laid_out(open_clip_layout) : LoadOptions{};
}

// What is particular to each kind: how its config is read and which other names its files may use.
template <class Model>
std::unique_ptr<Loaded<Model>> build(Device& device, const ModelSource& source);

template <>
std::unique_ptr<Unet> build(Device& device, const ModelSource& source) {
  return std::make_unique<Unet>(
      device, parse_unet2d_condition_config(Config::parse(source.config, source.label)));
}
template <>
std::unique_ptr<Vae> build(Device& device, const ModelSource& source) {
  return std::make_unique<Vae>(
      device, parse_autoencoder_kl_config(Config::parse(source.config, source.label)));
}
template <>
std::unique_ptr<ClipText> build(Device& device, const ModelSource& source) {
  return std::make_unique<ClipText>(
      device, parse_clip_text_config(Config::parse(source.config, source.label)));
}
template <>
std::unique_ptr<Clip> build(Device& device, const ModelSource& source) {
  return std::make_unique<Clip>(device,
                                parse_clip_config(Config::parse(source.config, source.label)));
}

template <>
std::unique_ptr<ImageReward> build(Device& device, const ModelSource& source) {
  return std::make_unique<ImageReward>(
      device, parse_image_reward_config(Config::parse(source.config, source.label)));
}

LoadOptions clip_text_options(const ModelSource& source) {
  bool projected =
      parse_clip_text_config(Config::parse(source.config, source.label)).projection_dim > 0;
  return renaming(projected ? rename_projected_clip_text_key : rename_clip_text_key);
}

template <class Model>
std::unique_ptr<Loaded<Model>> load(Device& device,
                                    const ModelSource& source,
                                    const LoadPrecision& precision,
                                    const LoadOptions& options) {
  auto loaded = build<Model>(device, source);
  check_parameters(loaded->store, source, options);  // before memory is taken
  loaded->store.allocate(precision.compute,
                         precision.compute == DType::F64 ? DType::F64 : DType::F32,
                         precision.use());
  load_parameters(loaded->store, source, options);
  return loaded;
}

template <class Model>
int64_t inspect(Device& device, const ModelSource& source, const LoadOptions& options) {
  auto loaded = build<Model>(device, source);
  check_parameters(loaded->store, source, options);
  int64_t count = 0;
  for (const Parameter& p : loaded->store.parameters()) count += p.shape.numel();
  return count;
}

}  // namespace

std::unique_ptr<Unet> load_unet(Device& device,
                                const ModelSource& source,
                                const LoadPrecision& precision) {
  return load<UNet2DConditionModel>(device, source, precision, {});
}
std::unique_ptr<Vae> load_vae(Device& device,
                              const ModelSource& source,
                              const LoadPrecision& precision) {
  return load<AutoencoderKL>(device, source, precision, renaming(rename_legacy_vae_key));
}
std::unique_ptr<ClipText> load_clip_text(Device& device,
                                         const ModelSource& source,
                                         const LoadPrecision& precision) {
  return load<ClipTextModel>(device, source, precision, clip_text_options(source));
}
std::unique_ptr<Clip> load_clip(Device& device,
                                const ModelSource& source,
                                const LoadPrecision& precision) {
  auto clip = load<ClipModel>(device, source, precision, clip_options(source));
  clip->model.loaded(device);
  return clip;
}
std::unique_ptr<ImageReward> load_image_reward(Device& device,
                                               const ModelSource& source,
                                               const LoadPrecision& precision) {
  return load<ImageRewardModel>(device, source, precision, laid_out(image_reward_layout));
}

int64_t inspect_model(Device& device, const std::string& kind, const ModelSource& source) {
  if (kind == "unet") return inspect<UNet2DConditionModel>(device, source, {});
  if (kind == "vae") return inspect<AutoencoderKL>(device, source, renaming(rename_legacy_vae_key));
  if (kind == "clip_text") return inspect<ClipTextModel>(device, source, clip_text_options(source));
  if (kind == "clip") return inspect<ClipModel>(device, source, clip_options(source));
  if (kind == "image_reward")
    return inspect<ImageRewardModel>(device, source, laid_out(image_reward_layout));
  require(kind == "aesthetic",
          "[inspect] kind: expected unet, vae, clip_text, clip, image_reward or aesthetic, got ",
          kind);
  return inspect_aesthetic(device, source);
}

}  // namespace spindle
