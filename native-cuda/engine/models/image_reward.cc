#include "models/image_reward.h"

#include <algorithm>
#include <map>

#include "models/config_fields.h"
#include "models/layout.h"

namespace spindle {

namespace {

// The head's nn.Sequential: dropouts stand between.
constexpr int64_t kIndices[] = {0, 2, 4, 6, 7};

Config section(const Config& config, const std::string& key) {
  return config.has(key) ? config.nested(key) : Config(Json(Json::Object{}), config.label());
}

void check_heads(const Config& config, int64_t width, int64_t heads) {
  if (width % heads != 0) config.refuse("heads", cat("a divisor of hidden_size ", width));
}

bool starts_with(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

}  // namespace

ImageRewardConfig parse_image_reward_config(const Config& config) {
  ImageRewardConfig c;
  Config vision = section(config, "vision"), text = section(config, "text");
  c.vision.tower = {.hidden_size = positive(vision, "hidden_size", 1024),
                    .intermediate_size = positive(vision, "intermediate_size", 4096),
                    .num_hidden_layers = positive(vision, "layers", 24),
                    .num_attention_heads = positive(vision, "heads", 16),
                    .activation = Activation::Gelu,
                    .layer_norm_eps = vision.number("layer_norm_eps", 1e-6)};
  c.vision.image_size = positive(vision, "image_size", 224);
  c.vision.patch_size = positive(vision, "patch_size", 16);
  if (c.vision.patch_size > c.vision.image_size)
    vision.refuse("patch_size", cat("at most image_size ", c.vision.image_size));
  check_heads(vision, c.vision.tower.hidden_size, c.vision.tower.num_attention_heads);
  vision.refuse_unread();
  c.text = {.vocab_size = positive(text, "vocab_size", 30524),
            .hidden_size = positive(text, "hidden_size", 768),
            .layers = positive(text, "layers", 12),
            .heads = positive(text, "heads", 12),
            .intermediate_size = positive(text, "intermediate_size", 3072),
            .max_position_embeddings = positive(text, "max_position_embeddings", 512),
            .layer_norm_eps = text.number("layer_norm_eps", 1e-12),
            .encoder_width = c.vision.tower.hidden_size};
  check_heads(text, c.text.hidden_size, c.text.heads);
  text.refuse_unread();
  c.mlp =
      config.has("mlp") ? config.integers("mlp") : std::vector<int64_t>{768, 1024, 128, 64, 16, 1};
  if (c.mlp.size() != std::size(kIndices) + 1 || c.mlp.front() != c.text.hidden_size ||
      c.mlp.back() != 1 || *std::min_element(c.mlp.begin(), c.mlp.end()) < 1)
    config.refuse("mlp", cat(std::size(kIndices) + 1, " widths from text.hidden_size ",
                             c.text.hidden_size, " to 1"));
  c.mean = config.number("mean", 0.16717362830052426);
  c.std = config.number("std", 1.0333394966054072);
  if (!(c.std > 0)) config.refuse("std", "a positive number");
  for (const char* key : {"vision", "text"}) config.ignore(key);
  config.refuse_unread();
  return c;
}

FileLayout image_reward_layout(const std::string& key) {
  for (const char* prefix :
       {"blip.vision_proj.", "blip.text_proj.", "blip.itm_head.", "blip.text_encoder.pooler."})
    if (starts_with(key, prefix)) return {};
  const std::string blocks = "blip.visual_encoder.blocks.";
  if (!starts_with(key, blocks.c_str())) return {{key}};
  size_t dot = key.find('.', blocks.size());
  if (dot == std::string::npos) return {{key}};
  std::string block = key.substr(0, dot + 1), rest = key.substr(dot + 1);
  if (starts_with(rest, "attn.qkv.")) {
    std::string end = rest.substr(std::string("attn.qkv.").size());
    return {{block + "self_attn.q_proj." + end, block + "self_attn.k_proj." + end,
             block + "self_attn.v_proj." + end}};
  }
  for (const auto& [from, to] : {std::pair{"norm1.", "layer_norm1."},
                                 {"norm2.", "layer_norm2."},
                                 {"attn.proj.", "self_attn.out_proj."}})
    if (starts_with(rest, from)) return {{block + to + rest.substr(std::string(from).size())}};
  return {{key}};
}

ImageRewardModel::ImageRewardModel(const Scope& scope, const ImageRewardConfig& c)
    : config_(c),
      visual_encoder_(scope / "blip" / "visual_encoder", c.vision),
      text_encoder_(scope / "blip" / "text_encoder", c.text) {
  for (size_t i = 0; i < std::size(kIndices); ++i)
    layers_.emplace_back(scope / "mlp" / "layers" / kIndices[i], c.mlp[i], c.mlp[i + 1]);
}

Tensor ImageRewardModel::text_feature(Tape& tape,
                                      const std::vector<int32_t>& ids,
                                      const Tensor& images) const {
  Tensor states = text_encoder_.forward(tape, ids, images);
  std::vector<int32_t> rows;
  for (int64_t b = 0; b < states.dim(0); ++b) rows.push_back(int32_t(b * states.dim(1)));
  return ops::gather_rows(tape, states, rows);
}

Tensor ImageRewardModel::score(Tape& tape, const Tensor& feature) const {
  Tensor x = feature;
  for (const nn::Linear& layer : layers_) x = layer(tape, x);
  return x;
}

ImageRewards image_reward(ImageReward& model,
                          const Tensor& pixels,
                          const std::vector<int32_t>& ids,
                          const std::vector<int32_t>& mask) {
  Device& device = model.device;
  require(pixels.rank() == 4 && pixels.dim(0) > 0 && ids.size() == mask.size() &&
              int64_t(ids.size()) % pixels.dim(0) == 0 && !ids.empty(),
          "[image_reward] ", ids.size(), " ids and ", mask.size(),
          " mask values do not fit pixels ", pixels.shape());
  int64_t batch = pixels.dim(0), length = int64_t(ids.size()) / batch;
  // Texts of one length go together, without their padding: what a mask hides is not computed.
  std::map<int64_t, std::vector<int64_t>> by_length;
  for (int64_t b = 0; b < batch; ++b) {
    auto first = mask.begin() + b * length, last = first + length, end = std::find(first, last, 0);
    require(end != first && std::all_of(first, end, [](int32_t m) { return m == 1; }) &&
                std::all_of(end, last, [](int32_t m) { return m == 0; }),
            "[image_reward] mask of text ", b, ": expected ones and then zeros");
    by_length[end - first].push_back(b);
  }
  Tape tape(device, false);
  Tensor images = model.model.image_embeds(tape, to_nhwc(device, pixels, model.store.compute()));
  int64_t tokens = images.dim(1), width = model.model.config().text.hidden_size;
  ImageRewards out{std::vector<float>(size_t(batch)), std::vector<float>(size_t(batch * width)),
                   to_float(device, images)};
  for (const auto& [count, texts] : by_length) {
    std::vector<int32_t> group, rows;
    for (int64_t b : texts) {
      group.insert(group.end(), ids.begin() + b * length, ids.begin() + b * length + count);
      for (int64_t t = 0; t < tokens; ++t) rows.push_back(int32_t(b * tokens + t));
    }
    Tensor seen = ops::gather_rows(tape, images, rows)
                      .reshape({int64_t(texts.size()), tokens, images.dim(2)});
    Tensor feature = model.model.text_feature(tape, group, seen);
    std::vector<float> feature_values = to_floats(device, feature),
                       score_values = to_floats(device, model.model.score(tape, feature));
    for (size_t i = 0; i < texts.size(); ++i) {
      std::copy_n(feature_values.begin() + int64_t(i) * width, width,
                  out.features.begin() + texts[i] * width);
      out.rewards[size_t(texts[i])] =
          float((double(score_values[i]) - model.model.config().mean) / model.model.config().std);
    }
  }
  return out;
}

}  // namespace spindle
