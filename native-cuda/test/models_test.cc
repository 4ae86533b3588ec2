// Models beyond what the golden fixtures hold: options are refused by name, odd sizes work, images
// do not depend on their batch.
#include "bench/models.h"
#include "check.h"
#include "models/inference.h"
#include "models/layout.h"
#include "sample/sample.h"
#include "tiny_models.h"

using namespace spindle;
using check::contains;
using check::message;

namespace {

std::string with(const char* config, const std::string& key, Json value) {
  Json json = Json::parse(config, "test");
  json.set(key, std::move(value));
  return json.dump();
}

SampleRequest request(Device& device, int64_t images, int64_t batch_size) {
  SampleRequest r;
  r.cond = tiny::random(device, {images, 5, 12}, 1);
  r.uncond = tiny::random(device, {1, 5, 12}, 2);
  for (int64_t i = 0; i < images; ++i) r.seeds.push_back(uint64_t(100 + i));
  r.height = 8;
  r.width = 12;
  r.scheduler_config = tiny::kDdim;
  r.steps = 4;
  r.guidance_scale = 3;
  r.eta = 0.5;
  r.batch_size = batch_size;
  return r;
}

}  // namespace

TEST("an option of a U-Net that is not supported is refused by name and value") {
  const std::pair<const char*, Json> options[] = {{"class_embed_type", "timestep"},
                                                  {"resnet_time_scale_shift", "scale_shift"},
                                                  {"dropout", 0.1},
                                                  {"center_input_sample", true},
                                                  {"num_attention_heads", 8},
                                                  {"mid_block_type", "UNetMidBlock2D"},
                                                  {"act_fn", "gelu"},
                                                  {"encoder_hid_dim", 16},
                                                  {"time_cond_proj_dim", 256},
                                                  {"quantization_config", Json::Object{}},
                                                  // The library leaves the block out, or fails.
                                                  {"mid_block_type", Json()},
                                                  {"norm_num_groups", Json()},
                                                  {"norm_eps", Json()}};
  for (const auto& [key, value] : options) {
    std::string said = message([&, k = std::string(key), v = value] {
      parse_unet2d_condition_config(Config::parse(with(tiny::kUnet, k, v), "unet"));
    });
    CHECK_THAT(contains(said, key), said);
  }
  CHECK(contains(message([&] {
                   parse_unet2d_condition_config(Config::parse(
                       with(tiny::kUnet, "layers_per_block", Json::Array{1, 2, 3}), "unet"));
                 }),
                 "layers_per_block"));
  CHECK(contains(message([&] {
                   parse_unet2d_condition_config(
                       Config::parse(with(tiny::kUnet, "attention_head_dim", 0), "unet"));
                 }),
                 "attention_head_dim"));
}

TEST("an option of an autoencoder or of CLIP that is not supported is refused by name") {
  CHECK(contains(
      message([] { parse_autoencoder_kl_config(Config::parse(R"({"shift_factor":0.1})", "vae")); }),
      "shift_factor"));
  CHECK(contains(message([] {
                   parse_autoencoder_kl_config(
                       Config::parse(R"({"down_block_types":["AttnDownEncoderBlock2D"]})", "vae"));
                 }),
                 "down_block_types"));
  CHECK(contains(
      message([] { parse_clip_text_config(Config::parse(R"({"hidden_act":"relu"})", "clip")); }),
      "hidden_act"));
  for (const char* text :
       {R"({"text_config":{"hidden_size":64}})", R"({"per_layer_config":{"0":{}}})",
        R"({"is_decoder":true})", R"({"layer_norm_eps":null})"})
    CHECK_THAT(
        contains(message([&] { parse_clip_text_config(Config::parse(text, "clip")); }), "clip: "),
        text);
}

TEST("a CLIP tower said twice is the second one with its defaults, as transformers has it") {
  ClipConfig config = parse_clip_config(Config::parse(
      R"({"text_config":{"hidden_size":64,"hidden_act":"gelu"},"text_config_dict":{"hidden_size":128},
          "vision_config":{"patch_size":16},"vision_config_dict":null})",
      "clip"));
  CHECK_EQUAL(config.text.tower.hidden_size, int64_t(128));
  CHECK(config.text.tower.activation == Activation::QuickGelu);
  CHECK_EQUAL(config.vision.patch_size, int64_t(16));
}

TEST("keys of older autoencoder and text checkpoints become the current ones") {
  CHECK_EQUAL(rename_legacy_vae_key("encoder.mid_block.attentions.0.query.weight"),
              std::string("encoder.mid_block.attentions.0.to_q.weight"));
  CHECK_EQUAL(rename_legacy_vae_key("decoder.mid_block.attentions.0.proj_attn.bias"),
              std::string("decoder.mid_block.attentions.0.to_out.0.bias"));
  CHECK_EQUAL(rename_legacy_vae_key("decoder.conv_in.weight"),
              std::string("decoder.conv_in.weight"));
  CHECK_EQUAL(rename_clip_text_key("final_layer_norm.bias"),
              std::string("text_model.final_layer_norm.bias"));
  CHECK_EQUAL(rename_clip_text_key("text_model.final_layer_norm.bias"),
              std::string("text_model.final_layer_norm.bias"));
}

TEST("a U-Net takes images whose sizes are odd") {
  Device device({.backend = "cpu", .threads = 1, .isa = "auto"});
  auto unet = tiny::unet(device);
  Tensor y = unet_forward(*unet, tiny::random(device, {1, 4, 7, 9}, 0), {10},
                          tiny::random(device, {1, 5, 12}, 1));
  CHECK_EQUAL(y.shape(), (Shape{1, 4, 7, 9}));
}

TEST("inputs that do not fit the model are refused") {
  Device device({.backend = "cpu", .threads = 1, .isa = "auto"});
  auto unet = tiny::unet(device);
  Tensor sample = tiny::random(device, {1, 4, 8, 8}, 0), text = tiny::random(device, {1, 5, 12}, 1);
  CHECK_THROWS(unet_forward(*unet, tiny::random(device, {1, 3, 8, 8}, 0), {1}, text),
               Code::InvalidArgument);
  CHECK_THROWS(unet_forward(*unet, sample, {1, 2}, text), Code::InvalidArgument);
  CHECK_THROWS(unet_forward(*unet, sample, {1}, tiny::random(device, {1, 5, 8}, 1)),
               Code::InvalidArgument);
}

TEST(
    "keys and values of a text that are kept over the steps change no byte, and are not computed "
    "again") {
  Device device({.backend = "cpu", .threads = 2, .isa = "auto"});
  for (DType compute : {DType::F32, DType::BF16}) {
    auto unet = tiny::unet(device, {.compute = compute});
    auto predict = [&](uint32_t step, const Tensor& text, nn::KeysValues* kept, bool recording) {
      Tape tape(device, recording);
      Tensor x = to_nhwc(device, tiny::random(device, {2, 4, 8, 8}, step), compute);
      return tiny::floats(
          to_nchw(device, unet->model.forward(tape, {.sample = x,
                                                     .timesteps = {float(step), float(step)},
                                                     .text = to_dtype(device, text, compute),
                                                     .kept = kept})));
    };
    Tensor text = tiny::random(device, {2, 5, 12}, 9), other = tiny::random(device, {2, 5, 12}, 10);
    nn::KeysValues kept;
    for (uint32_t step : {1, 2, 3})
      CHECK(predict(step, text, &kept, false) == predict(step, text, nullptr, false));
    CHECK(predict(4, other, &kept, false) ==
          predict(4, text, nullptr, false));  // the text is not even looked at
    CHECK(predict(4, other, &kept, true) ==
          predict(4, other, nullptr, false));  // gradients of the text's layers need it
  }
}

TEST("an image depends on its seed and prompt alone, not on its batch") {
  Device device({.backend = "cpu", .threads = 2, .isa = "auto"});
  for (DType compute : {DType::F32, DType::BF16}) {
    auto unet = tiny::unet(device, {.compute = compute});
    std::vector<float> together =
        tiny::floats(sample(*unet, request(device, 3, 3), nullptr, nullptr).latents);
    std::vector<float> pairs =
        tiny::floats(sample(*unet, request(device, 3, 2), nullptr, nullptr).latents);
    std::vector<float> alone =
        tiny::floats(sample(*unet, request(device, 3, 1), nullptr, nullptr).latents);
    CHECK(together == pairs);
    CHECK(together == alone);
  }
}

TEST("samplers that draw noise draw the same image in any batch, with any number of threads") {
  for (const char* name :
       {"EulerAncestralDiscreteScheduler", "LCMScheduler", "DDPMScheduler",
        "DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler"})
    check::each(name, [&] {
      std::vector<std::vector<float>> drawn;
      for (auto [threads, batch] : {std::pair{1, 3}, {1, 2}, {3, 1}}) {
        Device device({.backend = "cpu", .threads = threads, .isa = "auto"});
        auto unet = tiny::unet(device);
        SampleRequest r = request(device, 3, batch);
        r.eta = 0;
        r.scheduler_config =
            cat(R"({"algorithm_type":"sde-dpmsolver++","clip_sample":false,"_class_name":")", name,
                "\"}");
        drawn.push_back(tiny::floats(sample(*unet, r, nullptr, nullptr).latents));
      }
      CHECK(drawn[0] == drawn[1]);
      CHECK(drawn[0] == drawn[2]);
    });
}

TEST("sampling tells its progress and stops when it is cancelled") {
  Device device({.backend = "cpu", .threads = 1, .isa = "auto"});
  auto unet = tiny::unet(device);
  std::vector<int64_t> seen;
  SampleResult result =
      sample(*unet, request(device, 3, 2), nullptr, [&](int64_t done, int64_t total) {
        CHECK_EQUAL(total, 8);
        seen.push_back(done);
      });
  CHECK_EQUAL(seen.size(), size_t(8));
  CHECK_EQUAL(result.phases.size(), size_t(2));
  CancelToken token;
  CHECK_THROWS(sample(*unet, request(device, 3, 2), &token,
                      [&](int64_t done, int64_t) {
                        if (done == 3) token.cancel();
                      }),
               Code::Cancelled);
}

TEST("drawing starts from each image's own latents, whatever the batch") {
  Device device({.backend = "cpu", .threads = 2, .isa = "auto"});
  auto unet = tiny::unet(device);
  auto drawn = [&](int64_t first, int64_t count, int64_t batch_size, double strength) {
    SampleRequest r = request(device, 3, batch_size);
    std::vector<float> images = device.download<float>(tiny::random(device, {3, 4, 8, 12}, 9));
    r.cond = r.cond.slice(first * 5 * 12, {count, 5, 12});
    r.seeds = {r.seeds.begin() + first, r.seeds.begin() + first + count};
    r.images.assign(images.begin() + first * 384, images.begin() + (first + count) * 384);
    r.strength = strength;
    int64_t calls = 0;
    std::vector<float> latents = device.download<float>(
        sample(*unet, r, nullptr, [&](int64_t, int64_t total) { calls = total; }).latents);
    CHECK_EQUAL(calls, int64_t(strength * 4) * ((count + batch_size - 1) / batch_size));
    return latents;
  };
  for (double strength : {0.3, 0.5, 1.0}) {
    std::vector<float> all = drawn(0, 3, 3, strength);
    CHECK(drawn(0, 3, 2, strength) == all);
    CHECK(drawn(1, 1, 1, strength) == std::vector<float>(all.begin() + 384, all.begin() + 768));
  }
  CHECK(drawn(0, 3, 3, 0.5) != drawn(0, 3, 3, 1));
  SampleRequest r = request(device, 2, 2);
  r.images.resize(384);
  CHECK_THAT(contains(message([&] { sample(*unet, r, nullptr, nullptr); }),
                      "images: expected (2, 4, 8, 12), got 384 values"),
             "");
  r.images.resize(768);
  r.strength = 0.24;
  CHECK_THAT(contains(message([&] { sample(*unet, r, nullptr, nullptr); }),
                      "strength: expected at least 1 / 4"),
             "");
}

TEST("guidance 1 does not need the empty prompt") {
  Device device({.backend = "cpu", .threads = 1, .isa = "auto"});
  auto unet = tiny::unet(device);
  SampleRequest r = request(device, 2, 2);
  r.guidance_scale = 1;
  r.uncond = Tensor();
  CHECK_EQUAL(sample(*unet, r, nullptr, nullptr).latents.shape(), (Shape{2, 4, 8, 12}));
  r.guidance_scale = 2;
  CHECK_THROWS(sample(*unet, r, nullptr, nullptr), Code::InvalidArgument);
}

TEST("sample_size may be a pair, and null is false to options") {
  auto parse = [](const std::string& key, Json value) {
    return parse_unet2d_condition_config(
        Config::parse(with(tiny::kUnet, key, std::move(value)), "unet"));
  };
  UNet2DConditionConfig pair = parse("sample_size", Json::Array{24, 32});
  CHECK_EQUAL(pair.sample_height, int64_t(24));
  CHECK_EQUAL(pair.sample_width, int64_t(32));
  CHECK_EQUAL(parse("sample_size", 24).sample_width, int64_t(24));
  CHECK_EQUAL(parse("sample_size", Json()).sample_height, int64_t(64));
  std::string said = message([&] { parse("sample_size", Json::Array{24}); });
  CHECK_THAT(contains(said, "sample_size: expected a positive number or two"), said);
  CHECK(parse("flip_sin_to_cos", true).flip_sin_to_cos);
  CHECK(!parse("flip_sin_to_cos", Json()).flip_sin_to_cos);
}

TEST("guidance of 1 and less is no guidance, as in diffusers") {
  Device device({.backend = "cpu", .threads = 1, .isa = "auto"});
  auto unet = tiny::unet(device);
  auto drawn = [&](double scale) {
    SampleRequest r = request(device, 1, 1);
    r.guidance_scale = scale;
    return device.download<float>(sample(*unet, r, nullptr, nullptr).latents);
  };
  std::vector<float> plain = drawn(1);
  for (double scale : {0.0, 0.5, -2.0}) CHECK(drawn(scale) == plain);
  CHECK(drawn(1.5) != plain);
}

TEST("latents that are no numbers are an error that names the step") {
  Device device({.backend = "cpu", .threads = 1, .isa = "auto"});
  auto unet = tiny::unet(device);
  SampleRequest r = request(device, 2, 2);
  // Divides by sqrt(0) in the first step.
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, Json>>{
           {"rescale_betas_zero_snr", true}, {"timestep_spacing", "trailing"}})
    r.scheduler_config = with(r.scheduler_config.c_str(), key, value);
  r.eta = 0;
  try {
    sample(*unet, r, nullptr, nullptr);
    CHECK_THAT(false, "expected an error");
  } catch (const Error& error) {
    CHECK(error.code() == Code::Diverged);
    CHECK_THAT(contains(error.what(), "step 1 of 4 (timestep 999): expected finite latents"),
               error.what());
  }
}

TEST("the shapes that benchmarks know by name are the published ones") {
  Device device({.backend = "reference", .threads = 1, .isa = "auto"});
  for (auto [model, parameters, size] : {std::tuple("sd15", int64_t{859'520'964}, int64_t{64}),
                                         {"sdxl", int64_t{2'567'463'684}, int64_t{128}}}) {
    Loaded<UNet2DConditionModel> unet(
        device, parse_unet2d_condition_config(Config::parse(bench_unet_config(model), model)));
    int64_t count = 0;
    for (const Parameter& p : unet.store.parameters()) count += p.shape.numel();
    CHECK_EQUAL(count, parameters);
    CHECK_EQUAL(bench_latent_size(model), size);
  }
}
