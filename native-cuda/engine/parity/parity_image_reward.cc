// Replays an ImageReward fixture.
#include "models/image_reward.h"
#include "parity/tensors.h"

namespace spindle {

void replay_image_reward(Fixture& fixture, Device& device) {
  Json config(Json::Object{});
  for (const char* key : {"vision", "text", "mlp", "mean", "std"}) config.set(key, fixture.at(key));
  auto model = load_image_reward(
      device, {config.dump(), {fixture.path("weights.safetensors")}, fixture.directory()},
      {.compute = fixture.compute()});
  const SafetensorsFile& in = fixture.inputs();
  ImageRewards got = image_reward(*model, read_tensor(device, in, "pixel_values"),
                                  read_integers_as<int32_t>(in, "input_ids"),
                                  read_integers_as<int32_t>(in, "attention_mask"));
  compare_tensor(fixture, device, "image_embeds", got.image_embeds);
  fixture.compare("text_feature", got.features);
  fixture.compare("reward", got.rewards);
}

}  // namespace spindle
