// Replays an autoencoder fixture: moments of an image and their decoding.
#include "models/inference.h"
#include "parity/tensors.h"

namespace spindle {

void replay_vae(Fixture& fixture, Device& device) {
  auto vae = load_vae(device, fixture_model(fixture), {.compute = fixture.compute()});
  VaeMoments moments = vae_encode(*vae, read_tensor(device, fixture.inputs(), "image"), nullptr);
  compare_tensor(fixture, device, "mean", moments.mean);
  compare_tensor(fixture, device, "logvar", moments.logvar);
  compare_tensor(fixture, device, "decoded", vae_decode(*vae, moments.mean, nullptr).pixels);
}

}  // namespace spindle
