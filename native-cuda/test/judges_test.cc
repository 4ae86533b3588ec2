// Judges beyond what the golden fixtures hold: open_clip's layout, aesthetic heads of both
// versions, and the ways to preprocess.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "check.h"
#include "io/image_preprocess.h"
#include "io/safetensors.h"
#include "models/image_reward.h"
#include "models/inference.h"
#include "models/layout.h"
#include "models/open_clip.h"
#include "temporary.h"
#include "tiny_models.h"

using namespace spindle;
using check::contains;
using check::message;

namespace {

const std::filesystem::path kFixtures =
    std::filesystem::path(__FILE__).parent_path() / ".." / ".." / "test" / "fixtures";

TensorToWrite tensor(const std::string& name,
                     const std::vector<int64_t>& shape,
                     std::vector<float> values) {
  return {name, FileType::F32, shape, [values = std::move(values)](const ByteSink& sink) {
            sink(values.data(), values.size() * 4);
          }};
}

std::vector<float> transposed(const std::vector<float>& x, int64_t rows, int64_t columns) {
  std::vector<float> y(x.size());
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) y[size_t(j * rows + i)] = x[size_t(i * columns + j)];
  return y;
}

// The weights of transformers' CLIPModel as open_clip would have saved them, written out by hand:
// independent of the loader's own table.
std::vector<TensorToWrite> as_open_clip(const SafetensorsFile& file, int64_t layers) {
  std::vector<TensorToWrite> out;
  auto copy = [&](const std::string& to, const std::string& from) {
    out.push_back(tensor(to, file.at(from).shape, file.floats(from)));
  };
  auto turn = [&](const std::string& to, const std::string& from) {
    const std::vector<int64_t>& s = file.at(from).shape;
    out.push_back(tensor(to, {s[1], s[0]}, transposed(file.floats(from), s[0], s[1])));
  };
  copy("logit_scale", "logit_scale");
  turn("text_projection", "text_projection.weight");
  turn("visual.proj", "visual_projection.weight");
  copy("token_embedding.weight", "text_model.embeddings.token_embedding.weight");
  copy("positional_embedding", "text_model.embeddings.position_embedding.weight");
  copy("visual.class_embedding", "vision_model.embeddings.class_embedding");
  copy("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight");
  copy("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight");
  for (const std::string kind : {"weight", "bias"}) {
    copy("ln_final." + kind, "text_model.final_layer_norm." + kind);
    copy("visual.ln_pre." + kind, "vision_model.pre_layrnorm." + kind);
    copy("visual.ln_post." + kind, "vision_model.post_layernorm." + kind);
    for (const auto& [to_tower, from_tower] :
         {std::pair<std::string, std::string>{"", "text_model."}, {"visual.", "vision_model."}})
      for (int64_t i = 0; i < layers; ++i) {
        std::string to = to_tower + "transformer.resblocks." + std::to_string(i) + ".",
                    from = from_tower + "encoder.layers." + std::to_string(i) + ".";
        copy(to + "ln_1." + kind, from + "layer_norm1." + kind);
        copy(to + "ln_2." + kind, from + "layer_norm2." + kind);
        copy(to + "attn.out_proj." + kind, from + "self_attn.out_proj." + kind);
        copy(to + "mlp.c_fc." + kind, from + "mlp.fc1." + kind);
        copy(to + "mlp.c_proj." + kind, from + "mlp.fc2." + kind);
        std::vector<float> fused;
        std::vector<int64_t> shape;
        for (const char* part : {"q_proj.", "k_proj.", "v_proj."}) {
          std::string name = from + "self_attn." + part + kind;
          std::vector<float> values = file.floats(name);
          fused.insert(fused.end(), values.begin(), values.end());
          shape = file.at(name).shape;
        }
        shape[0] *= 3;
        out.push_back(tensor(to + "attn.in_proj_" + kind, shape, fused));
      }
  }
  return out;
}

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

double cubic(double x, double a) {
  x = std::abs(x);
  if (x <= 1) return (a + 2) * x * x * x - (a + 3) * x * x + 1;
  return x < 2 ? a * x * x * x - 5 * a * x * x + 8 * a * x - 4 * a : 0;
}

// One output value of a bicubic resize, straight from the definition: the sum over every pixel of
// the image.
double resized(const std::vector<float>& plane,
               int64_t height,
               int64_t width,
               int64_t to_height,
               int64_t to_width,
               int64_t y,
               int64_t x,
               bool antialias) {
  double sy = double(height) / double(to_height), sx = double(width) / double(to_width);
  double cy = (double(y) + 0.5) * sy - 0.5, cx = (double(x) + 0.5) * sx - 0.5, sum = 0, total = 0;
  double wy = antialias ? std::max(sy, 1.0) : 1, wx = antialias ? std::max(sx, 1.0) : 1,
         a = antialias ? -0.5 : -0.75;
  int64_t reach = antialias ? 0 : 3;  // without antialiasing the edge repeats; with it, weights are
                                      // normalised over what is there
  for (int64_t i = -reach; i < height + reach; ++i)
    for (int64_t j = -reach; j < width + reach; ++j) {
      double w = cubic((double(i) - cy) / wy, a) * cubic((double(j) - cx) / wx, a);
      sum += w * double(plane[size_t(std::clamp<int64_t>(i, 0, height - 1) * width +
                                     std::clamp<int64_t>(j, 0, width - 1))]);
      total += w;
    }
  return sum / total;
}

}  // namespace

TEST("weights in open_clip's layout give the golden embeddings, to the bit") {
  Device device({.backend = "cpu", .threads = 2, .isa = "auto"});
  TemporaryFolder folder;
  std::string weights = (kFixtures / "clip-model" / "weights.safetensors").string();
  SafetensorsFile file(weights), inputs((kFixtures / "clip-model" / "inputs.safetensors").string()),
      expected((kFixtures / "clip-model" / "expected.safetensors").string());
  write_safetensors(folder / "open_clip.safetensors", as_open_clip(file, 2), {});
  std::string config = Json::parse(read(kFixtures / "clip-model" / "fixture.json"), "fixture")
                           .find("config")
                           ->dump();
  ModelSource ours{config, {folder / "open_clip.safetensors"}, "open_clip"},
      theirs{config, {weights}, "transformers"};
  CHECK(is_open_clip(ours));
  CHECK(!is_open_clip(theirs));
  CHECK_EQUAL(inspect_model(device, "clip", ours), inspect_model(device, "clip", theirs));
  auto a = load_clip(device, ours, {}), b = load_clip(device, theirs, {});
  CHECK_EQUAL(a->model.logit_scale(), b->model.logit_scale());
  std::vector<int64_t> shape = inputs.at("pixel_values").shape, ids = inputs.integers("input_ids");
  Tensor pixels = from_floats(device, inputs.floats("pixel_values"), Shape(shape));
  std::vector<float> images = tiny::floats(clip_image_embed(*a, pixels)),
                     golden = expected.floats("image_embeds");
  CHECK(images == tiny::floats(clip_image_embed(*b, pixels)));
  for (size_t i = 0; i < golden.size(); ++i) CHECK(std::abs(images[i] - golden[i]) < 1e-5f);
  std::vector<int32_t> tokens(ids.begin(), ids.end());
  int64_t texts = inputs.at("input_ids").shape[0];
  CHECK(tiny::floats(clip_text_embed(*a, tokens, texts)) ==
        tiny::floats(clip_text_embed(*b, tokens, texts)));
}

TEST(
    "an open_clip checkpoint with a tensor too many, too few or of another shape is refused by the "
    "file's own name") {
  Device device({.backend = "cpu", .threads = 1, .isa = "auto"});
  TemporaryFolder folder;
  SafetensorsFile file((kFixtures / "clip-model" / "weights.safetensors").string());
  std::string config = Json::parse(read(kFixtures / "clip-model" / "fixture.json"), "fixture")
                           .find("config")
                           ->dump();
  auto said = [&](const std::function<void(std::vector<TensorToWrite>&)>& change) {
    std::vector<TensorToWrite> tensors = as_open_clip(file, 2);
    change(tensors);
    write_safetensors(folder / "x.safetensors", tensors, {});
    return message(
        [&] { inspect_model(device, "clip", {config, {folder / "x.safetensors"}, "x"}); });
  };
  auto named = [](std::vector<TensorToWrite>& tensors, const std::string& name) {
    return std::find_if(tensors.begin(), tensors.end(),
                        [&](const TensorToWrite& t) { return t.name == name; });
  };
  std::string extra =
      said([](auto& tensors) { tensors.push_back(tensor("visual.extra", {1}, {0})); });
  CHECK_THAT(contains(extra, "visual.extra: expected only tensors that the config asks for"),
             extra);
  std::string missing = said([&](auto& tensors) {
    tensors.erase(named(tensors, "visual.transformer.resblocks.1.attn.in_proj_weight"));
  });
  CHECK_THAT(contains(missing,
                      "vision_model.encoder.layers.1.self_attn.q_proj.weight: expected a tensor of "
                      "shape (48, 48), got none"),
             missing);
  std::string shaped = said([&](auto& tensors) {
    *named(tensors, "transformer.resblocks.0.attn.in_proj_weight") = tensor(
        "transformer.resblocks.0.attn.in_proj_weight", {48, 48}, std::vector<float>(48 * 48));
  });
  CHECK_THAT(
      contains(
          shaped,
          "transformer.resblocks.0.attn.in_proj_weight: expected shape (144, 48), got (48, 48)"),
      shaped);
}

TEST("an aesthetic head of version 1 is one linear layer, of version 2 five") {
  Device device({.backend = "cpu", .threads = 1, .isa = "auto"});
  TemporaryFolder folder;
  write_safetensors(folder / "v1.safetensors",
                    {tensor("weight", {1, 4}, {1, -2, 0.5, 3}), tensor("bias", {1}, {0.25})}, {});
  ModelSource v1{"{}", {folder / "v1.safetensors"}, "v1"};
  CHECK_EQUAL(inspect_aesthetic(device, v1), 5);
  auto head = load_aesthetic(device, v1);
  CHECK_EQUAL(head->model.embed_dim(), 4);
  std::vector<float> scores =
      aesthetic_score(*head, from_floats(device, {1, 0, 0, 0, 0.5, 0.5, 0.5, 0.5}, {2, 4}));
  CHECK(std::abs(scores[0] - 1.25f) < 1e-6f && std::abs(scores[1] - 1.5f) < 1e-6f);

  std::vector<TensorToWrite> layers;
  std::vector<std::vector<float>> matrices;
  int64_t widths[] = {4, 6, 5, 3, 2, 1}, indices[] = {0, 2, 4, 6, 7};
  std::vector<double> x = {0.5, -0.5, 0.5, 0.5};
  for (size_t i = 0; i < 5; ++i) {
    std::vector<float> w(size_t(widths[i] * widths[i + 1])), b(size_t(widths[i + 1]));
    for (size_t j = 0; j < w.size(); ++j) w[j] = float(std::sin(double(j + 7 * i)));
    for (size_t j = 0; j < b.size(); ++j) b[j] = float(std::cos(double(j + i)));
    std::vector<double> y(b.begin(), b.end());
    for (size_t r = 0; r < y.size(); ++r)
      for (size_t c = 0; c < x.size(); ++c) y[r] += double(w[r * x.size() + c]) * x[c];
    x = y;
    std::string name = "layers." + std::to_string(indices[i]);
    layers.push_back(tensor(name + ".weight", {widths[i + 1], widths[i]}, w));
    layers.push_back(tensor(name + ".bias", {widths[i + 1]}, b));
  }
  write_safetensors(folder / "v2.safetensors", layers, {});
  float v2 = aesthetic_score(*load_aesthetic(device, {"{}", {folder / "v2.safetensors"}, "v2"}),
                             from_floats(device, {0.5, -0.5, 0.5, 0.5}, {1, 4}))[0];
  CHECK_THAT(std::abs(double(v2) - x[0]) < 1e-5, v2, " and ", x[0]);
}

TEST("a float resize is the definition's sum, with and without antialiasing") {
  struct Case {
    int64_t height, width, to_height, to_width;
  };
  for (const Case& c :
       {Case{13, 9, 5, 4}, {4, 4, 7, 9}, {16, 16, 4, 4}, {5, 7, 5, 3}, {1, 6, 3, 3}})
    for (bool antialias : {false, true}) {
      std::vector<float> planes;
      for (int64_t i = 0; i < 2 * c.height * c.width; ++i)
        planes.push_back(float(std::sin(double(i * i))));
      std::vector<float> got =
          resize_planes(planes, 2, c.height, c.width, c.to_height, c.to_width, antialias);
      for (int64_t p = 0; p < 2; ++p) {
        std::vector<float> plane(planes.begin() + p * c.height * c.width,
                                 planes.begin() + (p + 1) * c.height * c.width);
        for (int64_t y = 0; y < c.to_height; ++y)
          for (int64_t x = 0; x < c.to_width; ++x) {
            double expected =
                resized(plane, c.height, c.width, c.to_height, c.to_width, y, x, antialias);
            double value = double(got[size_t((p * c.to_height + y) * c.to_width + x)]);
            CHECK_THAT(std::abs(value - expected) < 1e-5, c.height, "x", c.width, " to ",
                       c.to_height, "x", c.to_width, antialias ? " antialiased" : "", " at ", y,
                       ",", x, ": ", value, " and ", expected);
          }
      }
    }
}

TEST(
    "the tensor methods fit the longest edge, pad with zeros and normalise after; the others "
    "crop") {
  std::vector<uint8_t> white(size_t(8 * 4 * 3), 255);
  ImagePreprocess spec{.resize = 4,
                       .crop_height = 4,
                       .crop_width = 4,
                       .mean = {0.5, 0.5, 0.5},
                       .std = {0.5, 0.5, 0.5}};
  for (PreprocessMethod method : {PreprocessMethod::Tensor, PreprocessMethod::TensorAntialias}) {
    spec.method = method;
    std::vector<float> out = preprocess_image(
        {white.data(), 8, 4}, spec);  // 8 x 4 pixels become 4 x 2: a row of padding above and below
    for (int y = 0; y < 4; ++y)
      for (int x = 0; x < 4; ++x)
        CHECK(std::abs(out[size_t(y * 4 + x)] - (y == 0 || y == 3 ? -1 : 1)) < 1e-5f);
  }
  spec.method = PreprocessMethod::Torchvision;
  for (float v : preprocess_image({white.data(), 8, 4}, spec)) CHECK(std::abs(v - 1) < 1e-6f);
  // Five columns of 0..4 times 51, cropped to four: an offset of one half goes to the even number,
  // or down.
  std::vector<uint8_t> ramp;
  for (int y = 0; y < 2; ++y)
    for (int x = 0; x < 5; ++x) ramp.insert(ramp.end(), 3, uint8_t(51 * x));
  ImagePreprocess two{
      .resize = 2, .crop_height = 2, .crop_width = 2, .mean = {0, 0, 0}, .std = {1, 1, 1}};
  two.method = PreprocessMethod::Torchvision;
  CHECK(std::abs(preprocess_image({ramp.data(), 5, 2}, two)[0] - 0.4f) < 1e-6f);  // round(1.5) = 2
  two.method = PreprocessMethod::Transformers;
  CHECK(std::abs(preprocess_image({ramp.data(), 5, 2}, two)[0] - 0.2f) < 1e-6f);  // floor(1.5) = 1
  CHECK(contains(message([] { parse_preprocess_method("pil"); }),
                 "expected transformers, torchvision, tensor or tensor_antialias, got pil"));
}

TEST(
    "ImageReward does not depend on its batch, and refuses masks with holes and configs that do "
    "not fit") {
  Device device({.backend = "cpu", .threads = 2, .isa = "auto"});
  std::filesystem::path fixture = kFixtures / "image-reward";
  Json settings = Json::parse(read(fixture / "fixture.json"), "fixture"), config(Json::Object{});
  for (const char* key : {"vision", "text", "mlp", "mean", "std"})
    config.set(key, *settings.find(key));
  ModelSource source{config.dump(), {(fixture / "weights.safetensors").string()}, "reward"};
  auto model = load_image_reward(device, source, {});
  SafetensorsFile in((fixture / "inputs.safetensors").string());
  std::vector<int64_t> wide = in.integers("input_ids"), ones = in.integers("attention_mask");
  std::vector<int32_t> ids(wide.begin(), wide.end()), mask(ones.begin(), ones.end());
  Tensor pixels =
      from_floats(device, in.floats("pixel_values"), Shape(in.at("pixel_values").shape));
  std::vector<float> together = image_reward(*model, pixels, ids, mask).rewards;
  int64_t size = pixels.numel() / 3;
  for (int64_t i = 0; i < 3; ++i) {
    std::vector<int32_t> one(ids.begin() + i * 35, ids.begin() + (i + 1) * 35),
        its(mask.begin() + i * 35, mask.begin() + (i + 1) * 35);
    CHECK_EQUAL(image_reward(*model, pixels.slice(i * size, {1, 3, 32, 32}), one, its).rewards[0],
                together[size_t(i)]);
  }
  std::vector<int32_t> hole = mask;
  hole[1] = 0;
  CHECK(contains(message([&] { image_reward(*model, pixels, ids, hole); }),
                 "mask of text 0: expected ones and then zeros"));
  config.set("mlp", Json::Array{24, 40, 16, 8, 4, 2});
  CHECK(contains(
      message([&] { parse_image_reward_config(Config::parse(config.dump(), "reward")); }), "mlp"));
  ImageRewardConfig published = parse_image_reward_config(Config::parse("{}", "reward"));
  CHECK_EQUAL(published.vision.tower.num_hidden_layers, 24);
  CHECK_EQUAL(published.text.vocab_size, 30524);
  CHECK(contains(message([&] {
                   parse_image_reward_config(
                       Config::parse(R"({"text":{"hidden_act":"relu"}})", "reward"));
                 }),
                 "hidden_act"));
}
