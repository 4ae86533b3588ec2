#include "models/inference.h"

#include <algorithm>

#include "models/layout.h"

namespace spindle {

namespace {

// Image pixels per pass of the autoencoder: bounds memory and how long a cancel waits. Results do
// not depend on it.
constexpr int64_t kPixelsPerPass = 512 * 512;

// `count` entries of the first dimension, from `first`.
Tensor rows(const Tensor& x, int64_t first, int64_t count) {
  std::vector<int64_t> dims = x.shape().dims();
  int64_t size = x.numel() / dims[0];
  dims[0] = count;
  return x.slice(first * size, Shape(dims));
}

void check_images(const char* what, const Tensor& x, int64_t channels) {
  require(x.rank() == 4 && x.numel() > 0 && x.dim(1) == channels && x.dtype() == DType::F32, "[",
          what, "] expected float32 (B, ", channels, ", H, W), got ", dtype_name(x.dtype()), " ",
          x.shape());
}

// Calls pass(first, count) over the batch.
template <class F>
void in_passes(int64_t batch, int64_t pixels, const CancelToken* cancel, F&& pass) {
  int64_t size = std::max<int64_t>(1, kPixelsPerPass / pixels);
  for (int64_t first = 0; first < batch; first += size) {
    check_cancelled(cancel);
    pass(first, std::min(size, batch - first));
  }
}

}  // namespace

Tensor unet_forward(Unet& unet,
                    const Tensor& sample,
                    const std::vector<float>& timesteps,
                    const Tensor& text,
                    const Tensor& pooled,
                    const std::vector<float>& time_ids) {
  Device& device = unet.device;
  DType dtype = unet.store.compute();
  Tape tape(device, false);
  return to_nchw(device, unet.model.forward(tape, {.sample = to_nhwc(device, sample, dtype),
                                                   .timesteps = timesteps,
                                                   .text = to_dtype(device, text, dtype),
                                                   .text_embeds = pooled,
                                                   .time_ids = time_ids}));
}

VaeMoments vae_encode(Vae& vae, const Tensor& pixels, const CancelToken* cancel) {
  Device& device = vae.device;
  const AutoencoderKLConfig& config = vae.model.config();
  check_images("vae_encode", pixels, config.in_channels);
  int64_t batch = pixels.dim(0), channels = config.latent_channels, step = config.reduction(),
          height = pixels.dim(2) / step, width = pixels.dim(3) / step;
  VaeMoments out;
  out.mean = device.empty({batch, channels, height, width}, DType::F32);
  out.logvar = device.empty(out.mean.shape(), DType::F32);
  int64_t half = channels * height * width;
  PhaseClock clock;
  clock.time("vae_encode", [&] {
    in_passes(batch, pixels.dim(2) * pixels.dim(3), cancel, [&](int64_t first, int64_t count) {
      Tape tape(device, false);
      Tensor moments = to_nchw(
          device,
          vae.model.encode(tape, to_nhwc(device, rows(pixels, first, count), vae.store.compute())));
      std::vector<float> values = device.download<float>(moments),
                         logvar(static_cast<size_t>(half));
      for (int64_t i = 0; i < count; ++i) {
        const float* from = values.data() + i * 2 * half;
        device.upload(out.mean.slice((first + i) * half, {half}), from);
        for (int64_t j = 0; j < half; ++j)
          logvar[size_t(j)] = std::clamp(from[half + j], -30.0f, 20.0f);
        device.upload(out.logvar.slice((first + i) * half, {half}), logvar.data());
      }
    });
  });
  out.phases = clock.phases();
  return out;
}

VaeImages vae_decode(Vae& vae, const Tensor& latents, const CancelToken* cancel) {
  Device& device = vae.device;
  const AutoencoderKLConfig& config = vae.model.config();
  check_images("vae_decode", latents, config.latent_channels);
  int64_t batch = latents.dim(0), step = config.reduction(), height = latents.dim(2) * step,
          width = latents.dim(3) * step;
  VaeImages out;
  out.pixels = device.empty({batch, config.out_channels, height, width}, DType::F32);
  PhaseClock clock;
  clock.time("vae_decode", [&] {
    in_passes(batch, height * width, cancel, [&](int64_t first, int64_t count) {
      Tape tape(device, false);
      Tensor images =
          vae.model.decode(tape, to_nhwc(device, rows(latents, first, count), vae.store.compute()));
      Tensor destination = rows(out.pixels, first, count);
      device.kernels().run(NhwcToNchw{.y = destination, .x = images});
    });
  });
  out.phases = clock.phases();
  return out;
}

ClipTextStates clip_text_encode(ClipText& model,
                                const std::vector<int32_t>& ids,
                                int64_t batch,
                                const CancelToken* cancel) {
  check_cancelled(cancel);
  Device& device = model.device;
  PhaseClock clock;
  ClipTextStates out;
  clock.time("text_encode", [&] {
    Tape tape(device, false);
    ClipTextOutput states = model.model.forward(tape, ids, batch, model.store.compute());
    out.last_hidden_state = to_float(device, states.last_hidden_state);
    out.penultimate = to_float(device, states.penultimate);
    out.pooled = to_float(device, states.pooled);
  });
  out.phases = clock.phases();
  return out;
}

Tensor clip_image_embed(Clip& model, const Tensor& pixels) {
  check_images("clip_image_embed", pixels, model.model.config().vision.num_channels);
  Tape tape(model.device, false);
  return model.model.image_embeds(tape, to_nhwc(model.device, pixels, model.store.compute()));
}

Tensor clip_text_embed(Clip& model, const std::vector<int32_t>& ids, int64_t batch) {
  Tape tape(model.device, false);
  return model.model.text_embeds(tape, ids, batch, model.store.compute());
}

std::vector<float> aesthetic_score(Aesthetic& model, const Tensor& embeds) {
  Tape tape(model.device, false);
  Tensor scores = model.model.forward(tape, embeds);
  return model.device.download<float>(scores);
}

}  // namespace spindle
