#include "bench/models.h"

#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "core/rng.h"

namespace spindle {

namespace {

const char* const kSd15 =
    R"({"sample_size":64,"in_channels":4,"out_channels":4,"block_out_channels":[320,640,1280,1280],"layers_per_block":2,"cross_attention_dim":768,"attention_head_dim":8})";
const char* const kSdxl =
    R"({"sample_size":128,"in_channels":4,"out_channels":4,"block_out_channels":[320,640,1280],"layers_per_block":2,"cross_attention_dim":2048,"attention_head_dim":[5,10,20],
  "transformer_layers_per_block":[1,2,10],"use_linear_projection":true,"addition_embed_type":"text_time","addition_time_embed_dim":256,"projection_class_embeddings_input_dim":2816,
  "down_block_types":["DownBlock2D","CrossAttnDownBlock2D","CrossAttnDownBlock2D"],"up_block_types":["CrossAttnUpBlock2D","CrossAttnUpBlock2D","UpBlock2D"]})";
const char* const kSmall =
    R"({"sample_size":32,"in_channels":4,"out_channels":4,"block_out_channels":[128,256,512,512],"layers_per_block":2,"cross_attention_dim":256,"attention_head_dim":8})";
const char* const kSdVae =
    R"({"block_out_channels":[128,256,512,512],"layers_per_block":2,"latent_channels":4,"sample_size":512,
  "down_block_types":["DownEncoderBlock2D","DownEncoderBlock2D","DownEncoderBlock2D","DownEncoderBlock2D"],
  "up_block_types":["UpDecoderBlock2D","UpDecoderBlock2D","UpDecoderBlock2D","UpDecoderBlock2D"]})";

const std::map<std::string, const char*> kNamed = {{"sd15", kSd15},
                                                   {"sdxl", kSdxl},
                                                   {"small", kSmall}};

bool is_named(const std::string& model) { return kNamed.contains(model); }

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw Error(Code::NotFound, cat(path, ": expected a readable file, got none"));
  return {std::istreambuf_iterator<char>(in), {}};
}

// One part of a diffusers folder, in one file or in shards.
ModelSource read_folder(const std::string& folder) {
  ModelSource source{read_text(folder + "/config.json"), {}, folder};
  std::string single = folder + "/diffusion_pytorch_model.safetensors",
              index = single + ".index.json";
  if (!std::ifstream(index)) {
    source.weights = {single};
    return source;
  }
  Json json = Json::parse(read_text(index), index);
  const Json* map = json.find("weight_map");
  require(map != nullptr, index, ": weight_map: expected an object, got nothing");
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map->members()) shards.insert(folder + "/" + shard.string());
  source.weights.assign(shards.begin(), shards.end());
  return source;
}

// Matrices and filters uniform within 1 / sqrt(inputs), norms 1, biases 0: activations keep their
// size.
void randomise(ParameterStore& store) {
  Philox philox(0, 0);
  std::deque<Parameter>& parameters = store.parameters();
  Device& device = store.device();
  auto values_of = [&](size_t i, float* w) {
    const Parameter& p = parameters[i];
    int64_t count = p.shape.numel();
    if (p.kind == ParameterKind::Vector) {
      std::fill(w, w + count, p.name.ends_with("weight") ? 1.0f : 0.0f);
      return;
    }
    int64_t fan_in = count / p.shape[0];
    float bound = 1 / std::sqrt(float(fan_in));
    for (int64_t j = 0; j < count; j += 4) {
      std::array<uint32_t, 4> bits = philox.block(0, uint32_t(i), Draw::Test, uint32_t(j / 4));
      for (int64_t k = 0; k < 4 && j + k < count; ++k)
        w[j + k] = bound * (float(bits[size_t(k)]) * 0x1p-31f - 1.0f);
    }
  };
  if (device.host_visible()) {
    device.threads().run(int64_t(parameters.size()), [&](int64_t i, int) {
      values_of(size_t(i), parameters[size_t(i)].master.f32());
    });
  } else {
    for (size_t i = 0; i < parameters.size(); ++i) {
      std::vector<float> values(size_t(parameters[i].shape.numel()));
      values_of(i, values.data());
      device.upload(parameters[i].master, values.data());
    }
  }
  store.commit();
}

template <class Model, class ModelConfig>
std::unique_ptr<Loaded<Model>> random_model(Device& device,
                                            const ModelConfig& config,
                                            const LoadPrecision& precision) {
  auto made = std::make_unique<Loaded<Model>>(device, config);
  made->store.allocate(precision.compute, DType::F32, precision.use());
  randomise(made->store);
  return made;
}

}  // namespace

int64_t bench_text_length(const std::string& model) { return is_named(model) ? 77 : 32; }

std::string bench_unet_config(const std::string& model) {
  auto named = kNamed.find(model);
  return named == kNamed.end() ? read_text(model + "/unet/config.json") : named->second;
}

int64_t bench_latent_size(const std::string& model) {
  return parse_unet2d_condition_config(Config::parse(bench_unet_config(model), model))
      .sample_height;
}

std::unique_ptr<Unet> random_unet(Device& device,
                                  const std::string& config,
                                  const LoadPrecision& precision) {
  return random_model<UNet2DConditionModel>(
      device, parse_unet2d_condition_config(Config::parse(config, "bench")), precision);
}

std::unique_ptr<Unet> bench_unet(Device& device,
                                 const std::string& model,
                                 const LoadPrecision& precision) {
  if (is_named(model)) return random_unet(device, bench_unet_config(model), precision);
  return load_unet(device, read_folder(model + "/unet"), precision);
}

std::unique_ptr<Vae> bench_vae(Device& device,
                               const std::string& model,
                               const LoadPrecision& precision) {
  if (is_named(model))
    return random_model<AutoencoderKL>(
        device, parse_autoencoder_kl_config(Config::parse(kSdVae, "bench")), precision);
  return load_vae(device, read_folder(model + "/vae"), precision);
}

std::unique_ptr<Unet> copy_unet(Unet& unet) {
  auto copy = std::make_unique<Unet>(unet.device, unet.model.config());
  copy->store.allocate(unet.store.compute(), DType::F32, false);
  for (size_t i = 0; i < copy->store.parameters().size(); ++i) {
    Parameter& p = copy->store.parameters()[i];
    unet.device.memory().copy(p.master, unet.store.parameters()[i].master);
    copy->store.commit(p);
  }
  return copy;
}

}  // namespace spindle
