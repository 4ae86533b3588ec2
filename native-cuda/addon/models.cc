// Loading models and running them forward.
#include "convert.h"
#include "exports.h"
#include "handles.h"
#include "models/inference.h"

namespace spindle::addon {

namespace {

// load(device) runs on the engine's thread and returns the model.
template <class Model, class Load>
Napi::Value load_model(const Napi::CallbackInfo& info, Load load) {
  std::shared_ptr<EngineThread> engine = handle<EngineHandle>(info[0]).engine;
  return enqueue(
      info.Env(), engine, nullptr,
      [device = &engine->device(), load = std::move(load)](const CancelToken*) {
        return std::shared_ptr<Model>(load(*device));
      },
      [engine](Napi::Env env, std::shared_ptr<Model>& model) {
        auto made = std::make_unique<ModelHandle<Model>>();
        made->engine = engine;
        made->model = std::move(model);
        return to_js_handle(env, std::move(made));
      });
}

LoadPrecision inference(const Napi::Value& precision) {
  return {.compute = to_precision(precision, "precision"), .trainable = false};
}

Napi::Value load_unet_model(const Napi::CallbackInfo& info) {
  return load_model<Unet>(info,
                          [source = to_source(info[1], "source"), precision = inference(info[2])](
                              Device& device) { return load_unet(device, source, precision); });
}
Napi::Value load_vae_model(const Napi::CallbackInfo& info) {
  return load_model<Vae>(info,
                         [source = to_source(info[1], "source"), precision = inference(info[2])](
                             Device& device) { return load_vae(device, source, precision); });
}
Napi::Value load_clip_text_model(const Napi::CallbackInfo& info) {
  return load_model<ClipText>(
      info, [source = to_source(info[1], "source"), precision = inference(info[2])](
                Device& device) { return load_clip_text(device, source, precision); });
}
Napi::Value load_clip_model(const Napi::CallbackInfo& info) {
  return load_model<Clip>(info,
                          [source = to_source(info[1], "source"), precision = inference(info[2])](
                              Device& device) { return load_clip(device, source, precision); });
}
Napi::Value load_image_reward_model(const Napi::CallbackInfo& info) {
  return load_model<ImageReward>(
      info, [source = to_source(info[1], "source"), precision = inference(info[2])](
                Device& device) { return load_image_reward(device, source, precision); });
}
Napi::Value load_aesthetic_model(const Napi::CallbackInfo& info) {
  return load_model<Aesthetic>(info, [source = to_source(info[1], "source")](Device& device) {
    return load_aesthetic(device, source);
  });
}

Napi::Value unet_info(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Unet& unet = *handle<UnetHandle>(info[0]).model;
  const UNet2DConditionConfig& config = unet.model.config();
  return from_fields(env,
                     {{"parameters", from_number(env, double(unet.store.numel()))},
                      {"inChannels", from_number(env, double(config.in_channels))},
                      {"outChannels", from_number(env, double(config.out_channels))},
                      {"sampleHeight", from_number(env, double(config.sample_height))},
                      {"sampleWidth", from_number(env, double(config.sample_width))},
                      {"crossAttentionDim", from_number(env, double(config.cross_attention_dim))}});
}

Napi::Value tensor_to_js(Napi::Env env, TensorData& tensor) { return from_tensor(env, tensor); }

Napi::Value unet_forward_call(const Napi::CallbackInfo& info) {
  UnetHandle& unet = handle<UnetHandle>(info[0]);
  std::vector<double> t = to_numbers(info[2], "timesteps");
  return unet.call(
      info.Env(), nullptr,
      [sample = to_tensor(info[1], "sample", 4), timesteps = std::vector<float>(t.begin(), t.end()),
       text = to_tensor(info[3], "text", 3)](Unet& u, const CancelToken*) {
        return TensorData::download(
            u.device, unet_forward(u, sample.upload(u.device), timesteps, text.upload(u.device)));
      },
      tensor_to_js);
}

struct MomentsData {
  TensorData mean, logvar;
  std::vector<Phase> phases;
};

Napi::Value vae_encode_call(const Napi::CallbackInfo& info) {
  return handle<VaeHandle>(info[0]).call(
      info.Env(), cancel_token(info[2]),
      [pixels = to_tensor(info[1], "pixels", 4)](Vae& vae, const CancelToken* cancel) {
        VaeMoments moments = vae_encode(vae, pixels.upload(vae.device), cancel);
        return MomentsData{TensorData::download(vae.device, moments.mean),
                           TensorData::download(vae.device, moments.logvar),
                           std::move(moments.phases)};
      },
      [](Napi::Env env, MomentsData& m) -> Napi::Value {
        return from_fields(env, {{"mean", from_tensor(env, m.mean)},
                                 {"logvar", from_tensor(env, m.logvar)},
                                 {"phases", from_phases(env, m.phases)}});
      });
}

struct ImagesData {
  TensorData pixels;
  std::vector<Phase> phases;
};

Napi::Value vae_decode_call(const Napi::CallbackInfo& info) {
  return handle<VaeHandle>(info[0]).call(
      info.Env(), cancel_token(info[2]),
      [latents = to_tensor(info[1], "latents", 4)](Vae& vae, const CancelToken* cancel) {
        VaeImages images = vae_decode(vae, latents.upload(vae.device), cancel);
        return ImagesData{TensorData::download(vae.device, images.pixels),
                          std::move(images.phases)};
      },
      [](Napi::Env env, ImagesData& i) -> Napi::Value {
        return from_fields(
            env, {{"pixels", from_tensor(env, i.pixels)}, {"phases", from_phases(env, i.phases)}});
      });
}

struct TextData {
  TensorData last_hidden_state, penultimate, pooled;
  std::vector<Phase> phases;
};

Napi::Value clip_text_encode_call(const Napi::CallbackInfo& info) {
  return handle<ClipTextHandle>(info[0]).call(
      info.Env(), cancel_token(info[3]),
      [ids = to_ids(info[1], "ids"), batch = to_integer(info[2], "batch")](
          ClipText& model, const CancelToken* cancel) {
        ClipTextStates states = clip_text_encode(model, ids, batch, cancel);
        return TextData{TensorData::download(model.device, states.last_hidden_state),
                        TensorData::download(model.device, states.penultimate),
                        TensorData::download(model.device, states.pooled),
                        std::move(states.phases)};
      },
      [](Napi::Env env, TextData& t) -> Napi::Value {
        return from_fields(env, {{"lastHiddenState", from_tensor(env, t.last_hidden_state)},
                                 {"penultimate", from_tensor(env, t.penultimate)},
                                 {"pooled", from_tensor(env, t.pooled)},
                                 {"phases", from_phases(env, t.phases)}});
      });
}

Napi::Value clip_image_embed_call(const Napi::CallbackInfo& info) {
  return handle<ClipHandle>(info[0]).call(
      info.Env(), nullptr,
      [pixels = to_tensor(info[1], "pixels", 4)](Clip& clip, const CancelToken*) {
        return TensorData::download(clip.device,
                                    clip_image_embed(clip, pixels.upload(clip.device)));
      },
      tensor_to_js);
}

Napi::Value clip_text_embed_call(const Napi::CallbackInfo& info) {
  return handle<ClipHandle>(info[0]).call(
      info.Env(), nullptr,
      [ids = to_ids(info[1], "ids"), batch = to_integer(info[2], "batch")](Clip& clip,
                                                                           const CancelToken*) {
        return TensorData::download(clip.device, clip_text_embed(clip, ids, batch));
      },
      tensor_to_js);
}

// Read here, beside calls in flight: weights never change once loaded.
Napi::Value clip_logit_scale(const Napi::CallbackInfo& info) {
  return from_number(info.Env(), handle<ClipHandle>(info[0]).model->model.logit_scale());
}

Napi::Value image_reward_score_call(const Napi::CallbackInfo& info) {
  return handle<ImageRewardHandle>(info[0]).call(
      info.Env(), nullptr,
      [pixels = to_tensor(info[1], "pixels", 4), ids = to_ids(info[2], "ids"),
       mask = to_ids(info[3], "mask")](ImageReward& model, const CancelToken*) {
        return image_reward(model, pixels.upload(model.device), ids, mask).rewards;
      },
      [](Napi::Env env, std::vector<float>& scores) { return from_floats(env, scores); });
}

Napi::Value aesthetic_score_call(const Napi::CallbackInfo& info) {
  return handle<AestheticHandle>(info[0]).call(
      info.Env(), nullptr,
      [embeds = to_tensor(info[1], "embeds", 2)](Aesthetic& head, const CancelToken*) {
        return aesthetic_score(head, embeds.upload(head.device));
      },
      [](Napi::Env env, std::vector<float>& scores) { return from_floats(env, scores); });
}

}  // namespace

void export_models(Napi::Env env, Napi::Object& exports) {
  add<load_unet_model>(env, exports, "loadUnet");
  add<unet_info>(env, exports, "unetInfo");
  add<unet_forward_call>(env, exports, "unetForward");
  add<load_vae_model>(env, exports, "loadVae");
  add<vae_encode_call>(env, exports, "vaeEncode");
  add<vae_decode_call>(env, exports, "vaeDecode");
  add<load_clip_text_model>(env, exports, "loadClipText");
  add<clip_text_encode_call>(env, exports, "clipTextEncode");
  add<load_clip_model>(env, exports, "loadClip");
  add<clip_image_embed_call>(env, exports, "clipImageEmbed");
  add<clip_text_embed_call>(env, exports, "clipTextEmbed");
  add<clip_logit_scale>(env, exports, "clipLogitScale");
  add<load_image_reward_model>(env, exports, "loadImageReward");
  add<image_reward_score_call>(env, exports, "imageRewardScore");
  add<load_aesthetic_model>(env, exports, "loadAesthetic");
  add<aesthetic_score_call>(env, exports, "aestheticScore");
}

}  // namespace spindle::addon
