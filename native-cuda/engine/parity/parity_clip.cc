// Replays fixtures of the CLIP models.
#include "models/inference.h"
#include "parity/tensors.h"

namespace spindle {

void replay_clip_text(Fixture& fixture, Device& device) {
  auto model = load_clip_text(device, fixture_model(fixture), {.compute = fixture.compute()});
  int64_t batch = fixture.inputs().at("input_ids").shape[0];
  ClipTextStates states = clip_text_encode(
      *model, read_integers_as<int32_t>(fixture.inputs(), "input_ids"), batch, nullptr);
  compare_tensor(fixture, device, "last_hidden_state", states.last_hidden_state);
  compare_tensor(fixture, device, "penultimate", states.penultimate);
  compare_tensor(fixture, device, "pooler_output", states.pooled);
}

void replay_clip(Fixture& fixture, Device& device) {
  auto model = load_clip(device, fixture_model(fixture), {.compute = fixture.compute()});
  Tensor images = clip_image_embed(*model, read_tensor(device, fixture.inputs(), "pixel_values"));
  Tensor texts = clip_text_embed(*model, read_integers_as<int32_t>(fixture.inputs(), "input_ids"),
                                 fixture.inputs().at("input_ids").shape[0]);
  compare_tensor(fixture, device, "image_embeds", images);
  compare_tensor(fixture, device, "text_embeds", texts);
  std::vector<float> logits;
  int64_t width = images.dim(1);
  std::vector<float> image_values = device.download<float>(images),
                     text_values = device.download<float>(texts);
  for (int64_t i = 0; i < images.dim(0); ++i)
    for (int64_t j = 0; j < texts.dim(0); ++j) {
      double dot = 0;
      for (int64_t k = 0; k < width; ++k)
        dot += double(image_values[size_t(i * width + k)]) *
               double(text_values[size_t(j * width + k)]);
      logits.push_back(float(model->model.logit_scale() * dot));
    }
  fixture.compare("logits_per_image", logits);
}

}  // namespace spindle
