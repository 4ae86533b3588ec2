// Files of low-rank adapters: every form that users bring gives the weights that the library that
// wrote it gives, or is refused by name. What is expected is computed here, in double. Tables of
// names and patterns are what diffusers 0.42 and Python's re say.
#include <cmath>
#include <fstream>
#include <limits>

#include "check.h"
#include "core/dtype.h"
#include "io/layer_pattern.h"
#include "io/lora_file.h"
#include "io/weight_layout.h"
#include "lora_files.h"
#include "tiny_training.h"

using namespace spindle;
using tiny::BaseFiles;
using tiny::drawn;
using tiny::tensor;

namespace {

const std::string kAttention = "down_blocks.0.attentions.0.transformer_blocks.0.attn2";
const char* const kClip =
    R"({"hidden_size":8,"intermediate_size":12,"num_hidden_layers":2,"num_attention_heads":2,"vocab_size":20,"max_position_embeddings":5,
  "architectures":["CLIPTextModelWithProjection"],"projection_dim":6})";
const char* const kXl =
    R"({"sample_size":8,"block_out_channels":[8,16,16],"layers_per_block":2,"cross_attention_dim":12,"attention_head_dim":2,"norm_num_groups":4,
  "down_block_types":["DownBlock2D","CrossAttnDownBlock2D","CrossAttnDownBlock2D"],
  "up_block_types":["CrossAttnUpBlock2D","CrossAttnUpBlock2D","UpBlock2D"],
  "transformer_layers_per_block":[1,1,2],"use_linear_projection":true,
  "addition_embed_type":"text_time","addition_time_embed_dim":8,"projection_class_embeddings_input_dim":58})";

Device cpu() { return Device({.backend = "cpu", .threads = 2, .isa = "auto"}); }

// A parameter's values in the order of files.
std::vector<double> values(ParameterStore& store, const std::string& name) {
  const Parameter& p = *store.find(name);
  std::vector<float> own = tiny::floats(p.master), out(own.size());
  to_file_layout(p, own.data(), out.data());
  return {out.begin(), out.end()};
}

// W + scale * up * down, with W (N, K...), up (N, r) and down (r, K...) as files keep them.
std::vector<double> sum(std::vector<double> weight,
                        const std::vector<float>& down,
                        const std::vector<float>& up,
                        size_t rank,
                        double scale) {
  size_t k = down.size() / rank;
  for (size_t i = 0; i < weight.size(); ++i)
    for (size_t r = 0; r < rank; ++r)
      weight[i] += scale * double(up[i / k * rank + r]) * double(down[r * k + i % k]);
  return weight;
}

double furthest(const std::vector<double>& a, const std::vector<double>& b) {
  double most = a.size() == b.size() ? 0 : std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < a.size() && i < b.size(); ++i)
    most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

// A pair of matrices of rank 2 for a layer (n, k), under any names.
struct Pair {
  Pair(int64_t n, int64_t k, uint32_t number)
      : n(n), k(k), down(drawn(2 * k, number)), up(drawn(n * 2, number + 1)) {}
  std::vector<TensorToWrite> tensors(const std::string& down_name,
                                     const std::string& up_name) const {
    return {tensor(down_name, {2, k}, down), tensor(up_name, {n, 2}, up)};
  }
  int64_t n, k;
  std::vector<float> down, up;
};

void append(std::vector<TensorToWrite>& all, std::vector<TensorToWrite> more) {
  for (TensorToWrite& t : more) all.push_back(std::move(t));
}

// A text encoder as files.
struct TextFiles {
  explicit TextFiles(Device& device) {
    ClipText clip(device, parse_clip_text_config(Config::parse(kClip, "clip")));
    clip.store.allocate(DType::F32, DType::F32, true);
    uint32_t number = 0;
    for (Parameter& p : clip.store.parameters())
      device.upload(p.master, drawn(p.shape.numel(), ++number).data());
    save_parameters(file.path, {{"", &clip.store, clip.store.master()}});
  }
  ModelSource source(const std::vector<AdapterSource>& adapters = {}) const {
    return {kClip, {file.path}, "clip", adapters};
  }
  TemporaryFile file;
};

const LoraTarget kWholePipeline{Component::Unet, {Component::Unet, Component::TextEncoder}};
const LoraTarget kText{Component::TextEncoder, {Component::Unet, Component::TextEncoder}};
const LoraTarget kText2{Component::TextEncoder2,
                        {Component::Unet, Component::TextEncoder, Component::TextEncoder2}};

}  // namespace

TEST("matrices, 1x1 and 3x3 filters under the names of every convention mean the same") {
  Device device = cpu();
  BaseFiles files(device);
  struct Convention {
    const char* name;
    // What stands for "unet.", between the layer and "down", behind it; and the same for up.
    std::string front, down, up;
    bool underscores = false, original = false;
  };
  const std::vector<Convention> conventions = {
      {"diffusers", "unet.", ".lora_A.weight", ".lora_B.weight"},
      {"a U-Net alone", "", ".lora_A.weight", ".lora_B.weight"},
      {"PEFT", "base_model.model.", ".lora_A.weight", ".lora_B.weight"},
      {"older diffusers", "unet.", ".lora.down.weight", ".lora.up.weight"},
      {"older diffusers' linear layers", "unet.", ".lora_linear_layer.down.weight",
       ".lora_linear_layer.up.weight"},
      {"kohya", "lora_unet_", ".lora_down.weight", ".lora_up.weight", true},
      {"kohya, the original code's names", "lora_unet_", ".lora_down.weight", ".lora_up.weight",
       true, true},
      {"the original code's names with dots", "diffusion_model.", ".lora_down.weight",
       ".lora_up.weight", false, true},
  };
  struct Layer {
    std::string name, original;
    std::vector<int64_t> down, up;
  };
  const std::vector<Layer> layers = {
      {kAttention + ".to_k", "input_blocks.1.1.transformer_blocks.0.attn2.to_k", {2, 12}, {8, 2}},
      {kAttention + ".to_out.0",
       "input_blocks.1.1.transformer_blocks.0.attn2.to_out.0",
       {2, 8},
       {8, 2}},
      {"down_blocks.0.attentions.0.proj_in",
       "input_blocks.1.1.proj_in",
       {2, 8, 1, 1},
       {8, 2, 1, 1}},
      {"down_blocks.1.resnets.0.conv_shortcut",
       "input_blocks.3.0.skip_connection",
       {2, 8, 1, 1},
       {16, 2, 1, 1}},
      {"down_blocks.1.resnets.0.conv1",
       "input_blocks.3.0.in_layers.2",
       {2, 8, 3, 3},
       {16, 2, 1, 1}},
      {"down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op", {2, 8, 3, 3}, {8, 2, 1, 1}},
      {"up_blocks.0.upsamplers.0.conv", "output_blocks.1.1.conv", {2, 16, 3, 3}, {16, 2, 1, 1}},
      {"conv_in", "input_blocks.0.0", {2, 4, 3, 3}, {8, 2, 1, 1}},
  };
  auto base = load_unet(device, files.source(), {.trainable = true});
  auto numel = [](const std::vector<int64_t>& shape) {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  };
  for (const Convention& c : conventions)
    check::each(c.name, [&] {
      std::vector<TensorToWrite> tensors;
      uint32_t number = 0;
      for (const Layer& layer : layers) {
        std::string name = c.original ? layer.original : layer.name;
        if (c.underscores) std::replace(name.begin(), name.end(), '.', '_');
        number += 2;
        tensors.push_back(
            tensor(c.front + name + c.down, layer.down, drawn(numel(layer.down), number)));
        tensors.push_back(
            tensor(c.front + name + c.up, layer.up, drawn(numel(layer.up), number + 1)));
        tensors.push_back(tensor(c.front + name + ".alpha", {}, {1}));
      }
      TemporaryFile file;
      write_safetensors(file.path, std::move(tensors), {});
      auto with = load_unet(device, files.source({{file.path, 0.5}}), {.trainable = true});
      number = 0;
      for (const Layer& layer : layers) {
        number += 2;
        // alpha 1 over rank 2, times the 1/2 that is asked for
        std::vector<double> expected =
            sum(values(base->store, layer.name + ".weight"), drawn(numel(layer.down), number),
                drawn(numel(layer.up), number + 1), 2, 0.25);
        double far = furthest(values(with->store, layer.name + ".weight"), expected);
        CHECK_THAT(far < 1e-6, layer.name, ": ", far);
      }
      // Nothing else moved.
      CHECK(values(with->store, "mid_block.resnets.0.conv1.weight") ==
            values(base->store, "mid_block.resnets.0.conv1.weight"));
    });
}

TEST("attention processors of older diffusers are read, their to_out without an index") {
  Device device = cpu();
  BaseFiles files(device);
  auto base = load_unet(device, files.source(), {.trainable = true});
  Pair q(8, 8, 1), out(8, 8, 3);
  TemporaryFile file;
  std::vector<TensorToWrite> tensors =
      q.tensors("unet." + kAttention + ".processor.to_q_lora.down.weight",
                "unet." + kAttention + ".processor.to_q_lora.up.weight");
  append(tensors, out.tensors(kAttention + ".processor.to_out_lora.down.weight",
                              kAttention + ".processor.to_out_lora.up.weight"));
  write_safetensors(file.path, std::move(tensors), {});
  auto with = load_unet(device, files.source({{file.path}}), {.trainable = true});
  for (const auto& [layer, pair] : {std::pair{".to_q.weight", q}, {".to_out.0.weight", out}})
    CHECK(furthest(values(with->store, kAttention + layer),
                   sum(values(base->store, kAttention + layer), pair.down, pair.up, 2, 1)) < 1e-6);
}

TEST("the scale is what alpha, the header or PEFT's settings beside the file say") {
  Device device = cpu();
  BaseFiles files(device);
  auto base = load_unet(device, files.source(), {.trainable = true});
  struct Row {
    const char* name;
    std::string front = "unet.";
    std::string header = {}, beside = {};  // JSON; empty: none
    double alpha = 0;                      // of an .alpha tensor per layer; 0: none
    double to_q = 1, to_k = 1, to_v = 1;   // expected scales
    FileType alpha_type = FileType::F32;
  };
  const std::string peft = "base_model.model.";
  const std::vector<Row> rows = {
      {.name = "nothing is said: alpha is the rank"},
      {.name = "alpha tensors", .alpha = 3, .to_q = 1.5, .to_k = 1.5, .to_v = 1.5},
      {.name = "alpha tensors of half precision",
       .alpha = 3,
       .to_q = 1.5,
       .to_k = 1.5,
       .to_v = 1.5,
       .alpha_type = FileType::F16},
      {.name = "alpha tensors of integers",
       .alpha = 3,
       .to_q = 1.5,
       .to_k = 1.5,
       .to_v = 1.5,
       .alpha_type = FileType::I64},
      {.name = "header",
       .header = R"({"unet.r": 2, "unet.lora_alpha": 16})",
       .to_q = 8,
       .to_k = 8,
       .to_v = 8},
      {.name = "header with alpha_pattern",
       .header = R"({"unet.r": 2, "unet.lora_alpha": 4, "unet.alpha_pattern": {"to_k": 1,
         "attn2.to_v": 8, "o_q": 77}})",
       .to_q = 2,
       .to_k = 0.5,
       .to_v = 4},
      {.name = "the first pattern that matches counts",
       .header = R"({"unet.r": 2, "unet.lora_alpha": 4,
         "unet.alpha_pattern": {"to_[kv]": 6, "to_k": 1, "^to_q": 99, "^down_blocks.*q$": 10}})",
       .to_q = 5,
       .to_k = 3,
       .to_v = 3},
      {.name = "header with use_rslora",
       .header = R"({"unet.r": 2, "unet.lora_alpha": 3, "unet.use_rslora": true,
         "unet.alpha_pattern": {"to_k": 5}})",
       .to_q = 3 / std::sqrt(2.0),
       .to_k = 5 / std::sqrt(2.0),
       .to_v = 3 / std::sqrt(2.0)},
      {.name = "header with rank_pattern for what has another rank",
       .header = R"({"unet.r": 16, "unet.lora_alpha": 4, "unet.rank_pattern": {"to_q": 2,
         "to_k": 2, "to_v": 2}})",
       .to_q = 2,
       .to_k = 2,
       .to_v = 2},
      {.name = "header of a text encoder says nothing of the U-Net",
       .header = R"({"text_encoder.r": 4, "text_encoder.lora_alpha": 400})"},
      {.name = "PEFT's defaults where the header says little",
       .header = R"({"unet.r": 2})",
       .to_q = 4,
       .to_k = 4,
       .to_v = 4},
      {.name = "header of a U-Net alone has no prefixes",
       .front = "",
       .header = R"({"r": 2, "lora_alpha": 6, "text_encoder.lora_alpha": 9, "unet.r": 5})",
       .to_q = 3,
       .to_k = 3,
       .to_v = 3},
      {.name = "header that is null", .header = "null"},
      {.name = "all that diffusers writes",
       .header = R"({"unet.alpha_pattern": {}, "unet.auto_mapping": null, "unet.bias": "none",
         "unet.corda_config": null, "unet.eva_config": null, "unet.exclude_modules": null,
         "unet.fan_in_fan_out": false, "unet.inference_mode": false,
         "unet.init_lora_weights": "gaussian", "unet.layer_replication": null,
         "unet.layers_pattern": null, "unet.layers_to_transform": null, "unet.loftq_config": {},
         "unet.lora_alpha": 8, "unet.lora_bias": false, "unet.lora_dropout": 0.0,
         "unet.megatron_config": null, "unet.megatron_core": "megatron.core",
         "unet.modules_to_save": null, "unet.peft_type": "LORA", "unet.peft_version": "0.21.2",
         "unet.qalora_group_size": 16, "unet.r": 2, "unet.rank_pattern": {}, "unet.revision": null,
         "unet.target_modules": ["to_k", "to_q"], "unet.target_parameters": null,
         "unet.task_type": null, "unet.trainable_token_indices": null, "unet.use_dora": false,
         "unet.use_qalora": false, "unet.use_rslora": false})",
       .to_q = 4,
       .to_k = 4,
       .to_v = 4},
      {.name = "adapter_config.json",
       .front = peft,
       .beside = R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": false,
         "alpha_pattern": {"attn2.to_v": 1}})",
       .to_q = 2,
       .to_k = 2,
       .to_v = 0.5},
      {.name = "alpha tensors and settings that agree",
       .header = R"({"unet.r": 2, "unet.lora_alpha": 3})",
       .alpha = 3,
       .to_q = 1.5,
       .to_k = 1.5,
       .to_v = 1.5},
      {.name = "another file's adapter_config.json does not count",
       .beside = R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4})"},
  };
  for (const Row& row : rows)
    check::each(row.name, [&] {
      TemporaryFile file;
      std::vector<TensorToWrite> tensors;
      uint32_t number = 0;
      for (const char* layer : {".to_q", ".to_k", ".to_v"}) {
        std::string name = row.front + kAttention + layer;
        Pair pair(8, std::string(layer) == ".to_q" ? 8 : 12, number += 2);
        append(tensors, pair.tensors(name + ".lora_A.weight", name + ".lora_B.weight"));
        if (row.alpha == 0) continue;
        tensors.push_back({name + ".alpha", row.alpha_type, {}, [&](const ByteSink& sink) {
                             float real = float(row.alpha);
                             uint16_t half = 0x4200;  // 3
                             auto whole = int64_t(row.alpha);
                             if (row.alpha_type == FileType::F32) sink(&real, 4);
                             if (row.alpha_type == FileType::F16) sink(&half, 2);
                             if (row.alpha_type == FileType::I64) sink(&whole, 8);
                           }});
      }
      std::map<std::string, std::string> metadata{{"format", "pt"}};
      if (!row.header.empty()) metadata["lora_adapter_metadata"] = row.header;
      if (!row.beside.empty()) write_text(file.folder / "adapter_config.json", row.beside);
      write_safetensors(file.path, std::move(tensors), metadata);
      auto with = load_unet(device, files.source({{file.path}}), {.trainable = true});
      number = 0;
      for (const auto& [layer, scale] :
           {std::pair{".to_q", row.to_q}, {".to_k", row.to_k}, {".to_v", row.to_v}}) {
        Pair pair(8, std::string(layer) == ".to_q" ? 8 : 12, number += 2);
        std::string name = kAttention + layer + ".weight";
        double far = furthest(values(with->store, name),
                              sum(values(base->store, name), pair.down, pair.up, 2, scale));
        CHECK_THAT(far < 1e-5, layer, ": ", far);
      }
    });
}

TEST("patterns match layers as Python's re does with what PEFT puts around them") {
  const std::string layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k";
  const std::vector<std::pair<std::string, bool>> rows = {
      {"to_k", true},
      {"attn1.to_k", true},
      {"o_k", false},
      {"^to_k", false},
      {"^down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k", true},
      {R"(down_blocks\.1\..*\.to_k)", true},
      {".*to_k", true},
      {R"(attn\d\.to_(q|k))", true},
      {"attn[12].to_[^qv]", true},
      {"to_q|to_k", true},
      {"to_q|down_blocks", false},
      {"(?:attn1.)?to_k", true},
      {"attn1.to_k$", true},
      {"^down.*k$", true},
      {"", false},
      {"to_k.", false},
      {"t.{1,2}_k", true},
      {"t.{3}k", false},
      {"t.{2,}k", true},
      {"t.{,2}k", true},
      {R"(\w+)", true},
      {R"([\w.]+)", true},
      {"blocks.0.attn1.to_k", false},
      {"transformer_blocks.0.attn1.to_k", true},
      {R"(\Ato_k)", false},
      {R"(to_k\Z)", true},
      {"[]t]o_k", true},
      {"[a-t]o_k", true},
      {R"([\d_a-z]{4})", true},
      {"to{1}_k", true},
      {"x{", false},
      {"to_k{0}to_k", false},
      {"DOWN", false},
      {"(down_blocks.1.)(.*)k", true},
      {"a*to_k", true},
      {"(a|t)+o_k", true},
      {"(t?o?)*_k", true},
      {"attn1..*", true},
      {"^.*$", true},
      {"up|.*attn1.to_k", true},
      {"to_k|", true},
      {"((((a*)*)*)*)*b", false},  // no time is lost where others try every way
  };
  for (const auto& [key, matches] : rows)
    check::each(key, [&key = key, matches = matches, &layer] {
      CHECK_EQUAL(LayerPattern(key, "m").matches(layer), matches);
    });
  for (const char* key : {"(?i)to_k", "to_k(?=x)", "to_k)|(x", "(to_k", "[to_k", "*k", "to_k++",
                          "to_k**", "{2}k", R"(\bto_k)", R"((t)o\1)", "to_k\\", "[z-a]", "a{5,2}",
                          "((((a{999}){999}){999}){999})", "t\xc3\xb6_k", "[[:alpha:]]"})
    check::each(key, [key] {
      std::string message = check::message([&] { LayerPattern(key, "alpha_pattern"); });
      CHECK_THAT(message.starts_with(cat("alpha_pattern: ", key, ": expected ")), message);
    });
}

TEST("SDXL's names of sd-scripts are diffusers' layers") {
  Device device = cpu();
  Unet unet(device, parse_unet2d_condition_config(Config::parse(kXl, "unet")));
  LoraLayerNames names(unet.store, Component::Unet);
  // As diffusers' _maybe_map_sgm_blocks_to_diffusers and what follows it map them.
  const std::vector<std::pair<std::string, std::string>> rows = {
      {"input_blocks_0_0", "conv_in"},
      {"time_embed_0", "time_embedding.linear_1"},
      {"time_embed_2", "time_embedding.linear_2"},
      {"label_emb_0_0", "add_embedding.linear_1"},
      {"label_emb_0_2", "add_embedding.linear_2"},
      {"out_2", "conv_out"},
      {"input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1"},
      {"input_blocks_1_0_emb_layers_1", "down_blocks.0.resnets.0.time_emb_proj"},
      {"input_blocks_2_0_out_layers_3", "down_blocks.0.resnets.1.conv2"},
      {"input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"},
      {"input_blocks_4_0_skip_connection", "down_blocks.1.resnets.0.conv_shortcut"},
      {"input_blocks_4_1_proj_in", "down_blocks.1.attentions.0.proj_in"},
      {"input_blocks_4_1_transformer_blocks_0_attn1_to_q",
       "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"},
      {"input_blocks_5_1_transformer_blocks_0_attn2_to_out_0",
       "down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_out.0"},
      {"input_blocks_5_1_proj_out", "down_blocks.1.attentions.1.proj_out"},
      {"input_blocks_6_0_op", "down_blocks.1.downsamplers.0.conv"},
      {"input_blocks_7_1_transformer_blocks_0_ff_net_0_proj",
       "down_blocks.2.attentions.0.transformer_blocks.0.ff.net.0.proj"},
      {"input_blocks_8_1_transformer_blocks_1_ff_net_2",
       "down_blocks.2.attentions.1.transformer_blocks.1.ff.net.2"},
      {"middle_block_0_in_layers_2", "mid_block.resnets.0.conv1"},
      {"middle_block_1_proj_in", "mid_block.attentions.0.proj_in"},
      {"middle_block_1_transformer_blocks_1_attn1_to_v",
       "mid_block.attentions.0.transformer_blocks.1.attn1.to_v"},
      {"middle_block_2_out_layers_3", "mid_block.resnets.1.conv2"},
      {"output_blocks_0_0_skip_connection", "up_blocks.0.resnets.0.conv_shortcut"},
      {"output_blocks_0_1_transformer_blocks_1_attn2_to_k",
       "up_blocks.0.attentions.0.transformer_blocks.1.attn2.to_k"},
      {"output_blocks_2_1_proj_out", "up_blocks.0.attentions.2.proj_out"},
      {"output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"},
      {"output_blocks_3_1_proj_in", "up_blocks.1.attentions.0.proj_in"},
      {"output_blocks_4_0_in_layers_2", "up_blocks.1.resnets.1.conv1"},
      {"output_blocks_5_2_conv", "up_blocks.1.upsamplers.0.conv"},
      {"output_blocks_6_0_emb_layers_1", "up_blocks.2.resnets.0.time_emb_proj"},
      {"output_blocks_8_0_out_layers_3", "up_blocks.2.resnets.2.conv2"},
  };
  for (const auto& [kohya, layer] : rows)
    for (const std::string& spelled : {kohya, layer}) {
      std::string name = "lora_unet_" + spelled + ".lora_down.weight";
      std::replace(name.begin(), name.begin() + int64_t(name.find(".lora_")), '.', '_');
      CHECK_EQUAL(names.parameter(parse_lora_name(name, "f")), layer + ".weight");
    }
  // Every linear layer and convolution has one of those names.
  for (const Parameter& p : unet.store.parameters())
    if (p.kind != ParameterKind::Vector)
      CHECK_THAT(!names.parameter({.layer = p.name.substr(0, p.name.rfind('.'))}).empty(), p.name);
  for (const char* nowhere : {"input_blocks_9_0_op", "input_blocks_1_1_proj_in", "out_0",
                              "output_blocks_8_2_conv", "input_blocks_4_0_in_layers_0"})
    CHECK(names.parameter({.layer = nowhere}).empty());
}

TEST("adapters of text encoders are added under the names of every convention") {
  Device device = cpu();
  TextFiles files(device);
  auto base = load_clip_text(device, files.source(), {.trainable = true});
  const std::string layer = "encoder.layers.1.", kohya = "text_model_encoder_layers_1_";
  struct Row {
    const char* name;
    std::string q, fc1;  // names before "lora_A.weight" and such
    std::string down = ".lora_A.weight", up = ".lora_B.weight";
    LoraTarget target = kText;
  };
  const std::string old = "text_encoder.text_model." + layer;
  const std::vector<Row> rows = {
      {"diffusers", "text_encoder.text_model." + layer + "self_attn.q_proj",
       "text_encoder.text_model." + layer + "mlp.fc1"},
      {"of transformers 5", "text_encoder." + layer + "self_attn.q_proj",
       "text_encoder." + layer + "mlp.fc1"},
      {"older diffusers", old + "self_attn.q_proj", old + "mlp.fc1",
       ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"},
      {"attention processors", old + "self_attn.to_q", old + "mlp.fc1", "_lora.down.weight",
       "_lora.up.weight"},
      {"kohya", "lora_te_" + kohya + "self_attn_q_proj", "lora_te_" + kohya + "mlp_fc1",
       ".lora_down.weight", ".lora_up.weight"},
      {"kohya, first of two", "lora_te1_" + kohya + "self_attn_q_proj",
       "lora_te1_" + kohya + "mlp_fc1", ".lora_down.weight", ".lora_up.weight"},
      {"kohya, second of two", "lora_te2_" + kohya + "self_attn_q_proj",
       "lora_te2_" + kohya + "mlp_fc1", ".lora_down.weight", ".lora_up.weight", kText2},
      {"diffusers, second of two", "text_encoder_2.text_model." + layer + "self_attn.q_proj",
       "text_encoder_2.text_model." + layer + "mlp.fc1", ".lora_A.weight", ".lora_B.weight",
       kText2},
      {"a text encoder alone", "text_model." + layer + "self_attn.q_proj",
       "text_model." + layer + "mlp.fc1"},
  };
  for (const Row& row : rows)
    check::each(row.name, [&] {
      Pair q(8, 8, 1), fc1(12, 8, 3), unet(8, 12, 5);
      TemporaryFile file;
      std::vector<TensorToWrite> tensors = q.tensors(row.q + row.down, row.q + row.up);
      // Of the processors' time only attention was adapted under such names.
      std::string tail = row.down == "_lora.down.weight" ? ".lora_linear_layer" : "";
      append(tensors, tail.empty() ? fc1.tensors(row.fc1 + row.down, row.fc1 + row.up)
                                   : fc1.tensors(row.fc1 + tail + ".down.weight",
                                                 row.fc1 + tail + ".up.weight"));
      // The U-Net's are not the text encoder's business.
      append(tensors, unet.tensors("unet." + kAttention + ".to_k.lora_A.weight",
                                   "unet." + kAttention + ".to_k.lora_B.weight"));
      write_safetensors(file.path, std::move(tensors), {});
      auto with =
          load_clip_text(device, files.source({{file.path, 2, row.target}}), {.trainable = true});
      for (const auto& [name, pair] :
           {std::pair{"text_model.encoder.layers.1.self_attn.q_proj.weight", q},
            {"text_model.encoder.layers.1.mlp.fc1.weight", fc1}})
        CHECK_THAT(furthest(values(with->store, name),
                            sum(values(base->store, name), pair.down, pair.up, 2, 2)) < 1e-5,
                   name);
    });
  check::each("the projection, kohya", [&] {
    Pair pair(6, 8, 1);
    TemporaryFile file;
    write_safetensors(file.path,
                      pair.tensors("lora_te2_text_projection.lora_down.weight",
                                   "lora_te2_text_projection.lora_up.weight"),
                      {});
    auto with = load_clip_text(device, files.source({{file.path, 1, kText2}}), {.trainable = true});
    CHECK(furthest(values(with->store, "text_projection.weight"),
                   sum(values(base->store, "text_projection.weight"), pair.down, pair.up, 2, 1)) <
          1e-5);
  });
  check::each("header and settings with the names of either transformers", [&] {
    for (const char* key : {"^text_model.encoder.layers.1.mlp.fc1", "^encoder.layers.1.mlp.fc1"}) {
      Pair fc1(12, 8, 3);
      TemporaryFile file;
      write_safetensors(
          file.path, fc1.tensors(old + "mlp.fc1.lora_A.weight", old + "mlp.fc1.lora_B.weight"),
          {{"lora_adapter_metadata",
            cat(R"({"unet.lora_alpha": 1, "text_encoder.r": 2, "text_encoder.lora_alpha": 2,
              "text_encoder.alpha_pattern": {")",
                key, R"(": 6}})")}});
      auto with =
          load_clip_text(device, files.source({{file.path, 1, kText}}), {.trainable = true});
      CHECK(furthest(values(with->store, "text_model.encoder.layers.1.mlp.fc1.weight"),
                     sum(values(base->store, "text_model.encoder.layers.1.mlp.fc1.weight"),
                         fc1.down, fc1.up, 2, 3)) < 1e-5);
    }
  });
}

TEST("a U-Net takes its own of a file for a whole pipeline, and none where there are none") {
  Device device = cpu();
  BaseFiles files(device);
  auto base = load_unet(device, files.source(), {.trainable = true});
  const std::string name = kAttention + ".to_k", te = "lora_te_text_model_encoder_layers_0_mlp_fc1";
  for (bool own : {true, false}) {
    Pair pair(8, 12, 1), text(4, 3, 3);
    std::vector<TensorToWrite> tensors =
        text.tensors(te + ".lora_down.weight", te + ".lora_up.weight");
    if (own)
      append(tensors,
             pair.tensors("unet." + name + ".lora_A.weight", "unet." + name + ".lora_B.weight"));
    TemporaryFile file;
    write_safetensors(file.path, std::move(tensors), {});
    auto with =
        load_unet(device, files.source({{file.path, 1, kWholePipeline}}), {.trainable = true});
    CHECK(furthest(values(with->store, name + ".weight"),
                   sum(values(base->store, name + ".weight"), pair.down, pair.up, 2, own ? 1 : 0)) <
          1e-6);
    // Where nobody else takes the text encoder's, they are not dropped.
    std::string message =
        check::message([&] { load_unet(device, files.source({{file.path}}), {}); });
    CHECK_THAT(check::contains(message, "expected adapters of unet only, got " + te), message);
    // Nor by a trainer, whose text states are the base's.
    TrainerOptions options;
    options.objective.objective = Objective::Sft;
    options.scheduler_config = tiny::kDdim;
    options.lora = LoraOptions{.rank = 2, .alpha = 2, .targets = {"attn2.to_k"}};
    message =
        check::message([&] { Trainer(device, files.source({{file.path}}), nullptr, options); });
    CHECK_THAT(check::contains(message, "expected adapters of unet only, got " + te), message);
  }
}

TEST("what is not a LoRA of this model is refused by name") {
  Device device = cpu();
  BaseFiles files(device);
  struct Row {
    const char* name;
    std::vector<TensorToWrite> tensors;
    std::string message;
    std::string header = {}, beside = {};
    LoraTarget target = {};
  };
  const std::string linear = "unet.time_embedding.linear_1", down = linear + ".lora_A.weight",
                    up = linear + ".lora_B.weight", kohya = "lora_unet_time_embedding_linear_1",
                    own = "base_model.model.time_embedding.linear_1";
  auto with = [&](const std::string& extra, const std::vector<int64_t>& shape = {1}) {
    std::vector<TensorToWrite> all = Pair(32, 8, 1).tensors(down, up);
    int64_t count = 1;
    for (int64_t d : shape) count *= d;
    all.push_back(tensor(extra, shape, drawn(count, 9)));
    return all;
  };
  auto pair = [&](const std::string& a, const std::vector<int64_t>& a_shape, const std::string& b,
                  const std::vector<int64_t>& b_shape) {
    auto count = [](const std::vector<int64_t>& shape) {
      int64_t n = 1;
      for (int64_t d : shape) n *= d;
      return n;
    };
    return std::vector<TensorToWrite>{tensor(a, a_shape, drawn(count(a_shape), 1)),
                                      tensor(b, b_shape, drawn(count(b_shape), 2))};
  };
  auto plain = [&] { return Pair(32, 8, 1).tensors(down, up); };
  auto peft = [&] {
    return Pair(32, 8, 1).tensors(own + ".lora_A.weight", own + ".lora_B.weight");
  };
  const std::string conv = "unet.conv_in";
  std::vector<TensorToWrite> strangers;
  for (int i = 0; i < 5; ++i)
    append(strangers, pair(cat("unet.nowhere.", i, ".lora_A.weight"), {2, 8},
                           cat("unet.nowhere.", i, ".lora_B.weight"), {32, 2}));
  const std::vector<Row> rows = {
      {"half a pair", {tensor(down, {2, 8}, drawn(16, 1))}, "expected both matrices"},
      {"alpha alone", {tensor(linear + ".alpha", {}, {1})}, "expected both matrices"},
      {"two names of one layer", with("lora_unet_time_embedding_linear_1.lora_down.weight", {2, 8}),
       "expected one tensor for time_embedding.linear_1.weight, got another as"},
      {"another width", pair(down, {2, 7}, up, {32, 2}),
       down + ": expected shape (2, 8) for a weight of shape (32, 8), got (2, 7)"},
      {"another height", pair(down, {2, 8}, up, {31, 2}),
       up + ": expected shape (32, 2) for a weight of shape (32, 8), got (31, 2)"},
      {"ranks that differ", pair(down, {2, 8}, up, {16, 4}), up + ": expected shape (32, 2)"},
      {"a matrix that is turned", pair(down, {8, 2}, up, {32, 2}),
       down + ": expected shape (8, 8)"},
      {"a flat filter", pair(conv + ".lora_A.weight", {2, 36}, conv + ".lora_B.weight", {8, 2}),
       "expected shape (2, 4, 3, 3) for a weight of shape (8, 4, 3, 3), got (2, 36)"},
      {"a filter in another order",
       pair(conv + ".lora_A.weight", {2, 3, 3, 4}, conv + ".lora_B.weight", {8, 2, 1, 1}),
       "expected shape (2, 4, 3, 3)"},
      {"the wide filter above",
       pair(conv + ".lora_A.weight", {2, 4, 1, 1}, conv + ".lora_B.weight", {8, 2, 3, 3}),
       "expected shape (2, 4, 3, 3)"},
      {"rank 0", pair(down, {0, 8}, up, {32, 0}), "expected at least rank 1"},
      {"layers that are not there", strangers,
       "got unet.nowhere.0.lora_A.weight, unet.nowhere.0.lora_B.weight, "
       "unet.nowhere.1.lora_A.weight and 7 more, which name none"},
      {"a norm",
       pair("unet.conv_norm_out.lora_A.weight", {2, 8}, "unet.conv_norm_out.lora_B.weight", {8, 2}),
       "which name none"},
      {"a text encoder", with("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"),
       "expected adapters of unet only, got lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"},
      {"a second text encoder", with("lora_te2_text_projection.alpha"),
       "expected adapters of unet and text_encoder only, got lora_te2_text_projection.alpha, "
       "which nothing here takes",
       "", "", kWholePipeline},
      {"a text encoder that may be either of two",
       with("text_model.encoder.layers.0.mlp.fc1.alpha"),
       "expected text_encoder. or text_encoder_2. before the name",
       "",
       "",
       {Component::Unet, {Component::Unet, Component::TextEncoder, Component::TextEncoder2}}},
      {"LoHa", with(kohya + ".hada_w1_a", {2}), "got LoHa"},
      {"LoKr", with(kohya + ".lokr_w1", {2}), "got LoKr"},
      {"DoRA of kohya", with(kohya + ".dora_scale", {2}), "got DoRA"},
      {"DoRA of PEFT", with(linear + ".lora_magnitude_vector", {2}), "got DoRA"},
      {"OFT", with(kohya + ".oft_blocks", {2}), "got OFT"},
      {"Tucker", with(kohya + ".lora_mid.weight", {2}), "got LoCon with a third matrix"},
      {"IA3", with(kohya + ".on_input", {1}), "got IA3"},
      {"norms", with("lora_unet_conv_norm_out.w_norm", {2}), "got a norm"},
      {"differences", with(kohya + ".diff", {2}), "got a whole difference"},
      {"a bias", with(linear + ".lora_B.bias", {2}), "got LoRA with a bias"},
      {"embeddings", with("unet.x.lora_embedding_A", {2}), "got LoRA of an embedding"},
      {"modules_to_save", with("unet.conv_out.weight", {2}), "got a whole weight"},
      {"something else", with("emb_params", {2}), "got another kind"},
      {"integers",
       {{down,
         FileType::U8,
         {2, 8},
         [](const ByteSink& sink) { sink(std::string(16, 'x').data(), 16); }},
        tensor(up, {32, 2}, drawn(64, 1))},
       "dtype: expected F64, F32, F16 or BF16, got U8"},
      {"several alphas", with(linear + ".alpha", {2}), "expected one value, got shape (2)"},
      {"alpha that is no number",
       {tensor(down, {2, 8}, drawn(16, 1)), tensor(up, {32, 2}, drawn(64, 1)),
        tensor(linear + ".alpha", {}, {std::numeric_limits<float>::quiet_NaN()})},
       "expected a finite number"},
      {"nothing", {}, "expected LoRA tensors, got none"},
      {"PEFT's own without its settings", peft(),
       "expected PEFT's adapter_config.json beside the file, which states lora_alpha, got none"},
      {"alpha and settings that differ", with(linear + ".alpha"),
       "linear_1.weight: expected one scale, got ", R"({"unet.r": 2, "unet.lora_alpha": 4})"},
      {"another rank", plain(), "unet: r: expected 2, the rank of " + down + ", got 4",
       R"({"unet.r": 4, "unet.lora_alpha": 4})"},
      {"another rank by pattern", plain(), "rank_pattern: linear_1: expected 2",
       R"({"unet.r": 2, "unet.rank_pattern": {"linear_1": 3}})"},
      {"DoRA in the header", plain(),
       "unet: use_dora: expected null or false (plain LoRA), got true",
       R"({"unet.r": 2, "unet.use_dora": true})"},
      {"lora_bias in the header", plain(), "lora_bias: expected null or false",
       R"({"unet.r": 2, "unet.lora_bias": true})"},
      {"an option of tomorrow", plain(), "warp_config: expected null or false",
       R"({"unet.r": 2, "unet.warp_config": {"speed": 9}})"},
      {"PiSSA, which changes the base", plain(), "init_lora_weights: expected",
       R"({"unet.r": 2, "unet.init_lora_weights": "pissa"})"},
      {"a header that is no object", plain(), "lora_adapter_metadata: expected an object", "[]"},
      {"a header that is no JSON", plain(), "lora_adapter_metadata", "{"},
      {"a pattern that is not understood", plain(), "alpha_pattern: (?i)X: expected",
       R"({"unet.r": 2, "unet.alpha_pattern": {"(?i)X": 1}})"},
      {"patterns that are no object", plain(), "alpha_pattern: expected an object",
       R"({"unet.r": 2, "unet.alpha_pattern": [1]})"},
      {"an alpha that is no number", plain(), "alpha_pattern: to_k: expected a number",
       R"({"unet.r": 2, "unet.alpha_pattern": {"to_k": "x"}})"},
      {"another method of PEFT's", peft(), "adapter_config.json: peft_type: expected", "",
       R"({"peft_type": "LOHA", "r": 2})"},
      {"replicated layers", peft(), "adapter_config.json: layer_replication: expected", "",
       R"({"peft_type": "LORA", "r": 2, "layer_replication": [[0, 2]]})"},
      {"a header without the component that the tensors have", plain(),
       "lora_adapter_metadata: expected keys with unet. in front, as the tensors are, got r",
       R"({"r": 2, "lora_alpha": 8})"},
      {"a header with the component that the tensors lack",
       Pair(32, 8, 1).tensors("time_embedding.linear_1.lora_A.weight",
                              "time_embedding.linear_1.lora_B.weight"),
       "expected keys without unet. in front, as the tensors are, got unet.r",
       R"({"unet.r": 2, "unet.lora_alpha": 8})"},
      {"settings that are a list", peft(), "adapter_config.json", "", "[]"},
      {"settings that are no JSON", peft(), "adapter_config.json", "", "r: 2"},
  };
  Unet unet(device, parse_unet2d_condition_config(Config::parse(tiny::kUnet, "tiny")));
  for (const Row& row : rows)
    check::each(row.name, [&] {
      TemporaryFile file;
      std::map<std::string, std::string> metadata;
      if (!row.header.empty()) metadata["lora_adapter_metadata"] = row.header;
      if (!row.beside.empty()) write_text(file.folder / "adapter_config.json", row.beside);
      write_safetensors(file.path, row.tensors, metadata);
      std::string message = check::message([&] { LoraFile(file.path, unet.store, row.target); });
      CHECK_THAT(message.starts_with(file.folder.path) && check::contains(message, row.message),
                 message);
      CHECK_THROWS(load_unet(device, files.source({{file.path, 1, row.target}}), {}),
                   Code::InvalidArgument);
    });
}

TEST("PEFT's own file of a U-Net has its settings beside it, by name or by its tensors") {
  Device device = cpu();
  Unet unet(device, parse_unet2d_condition_config(Config::parse(tiny::kUnet, "tiny")));
  for (const auto& [file, front] :
       {std::pair<std::string, std::string>{"adapter_model.safetensors", "base_model.model."},
        {"adapter_model.safetensors", ""},
        {"mine.safetensors", "base_model.model."}}) {
    TemporaryFolder folder;
    std::string layer = front + "time_embedding.linear_1";
    write_safetensors(folder / file,
                      Pair(32, 8, 1).tensors(layer + ".lora_A.weight", layer + ".lora_B.weight"),
                      {});
    write_text(folder / "adapter_config.json", R"({"peft_type": "LORA", "r": 2, "lora_alpha": 5})");
    CHECK_EQUAL(LoraFile(folder / file, unet.store).find("time_embedding.linear_1.weight")->scale,
                2.5);
  }
}

TEST("what a training exports has alpha equal to the rank and no other statement of it") {
  Device device = cpu();
  BaseFiles files(device);
  TrainerOptions options;
  options.objective.objective = Objective::Sft;
  options.scheduler_config = tiny::kDdim;
  options.lora = LoraOptions{.rank = 3, .alpha = 12, .targets = {"to_q", "proj_in"}};
  Trainer trainer(device, files.source(), nullptr, options);
  TemporaryFile file, merged;
  trainer.export_adapters(file.path, false);
  LoraFile read(file.path, trainer.unet().store);
  CHECK(!read.layers().empty());
  for (const auto& [name, layer] : read.layers()) {
    CHECK_EQUAL(layer.scale, 1.0);
    CHECK(layer.alpha == nullptr);
    CHECK(layer.down->name.starts_with("unet.") && layer.down->name.ends_with(".lora_A.weight"));
  }
  CHECK(SafetensorsFile(file.path).metadata().count("lora_adapter_metadata") == 0);
}
