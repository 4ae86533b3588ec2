#include "parity/parity.h"

#include <unistd.h>

#include <cmath>
#include <fstream>
#include <iterator>

#include "core/error.h"
#include "io/config.h"

namespace spindle {

namespace {
struct Replay {
  const char* kind;
  void (*run)(Fixture&, Device&);
  // Models are replayed in the asked precision; the rest has no precision but float32.
  bool has_precision;
};
constexpr Replay kReplays[] = {
    {"rng", replay_rng, false},
    {"scheduler", replay_scheduler, false},
    {"unet", replay_unet, true},
    {"vae", replay_vae, true},
    {"clip_text", replay_clip_text, true},
    {"clip", replay_clip, true},
    {"image_reward", replay_image_reward, true},
    {"train_step", replay_train_step, true},
};

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw Error(Code::NotFound, cat(path, ": expected a readable file, got none"));
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string folder_name(std::string directory) {
  while (directory.size() > 1 && directory.back() == '/') directory.pop_back();
  return directory.substr(directory.rfind('/') + 1);
}
}  // namespace

Fixture::Fixture(const std::string& directory, DType compute)
    : directory_(directory),
      name_(folder_name(directory)),
      compute_(compute),
      settings_(Json::parse(read_text(directory + "/fixture.json"), directory + "/fixture.json")),
      expected_(directory + "/expected.safetensors") {
  kind_ = at("kind").string();
}

const Json& Fixture::at(const std::string& key) const {
  const Json* value = settings_.find(key);
  require(value != nullptr, path("fixture.json"), ": ", key, ": expected a value, got nothing");
  return *value;
}

bool Fixture::has(const std::string& file) const { return ::access(path(file).c_str(), R_OK) == 0; }

const SafetensorsFile& Fixture::inputs() const {
  if (!inputs_) inputs_ = std::make_unique<SafetensorsFile>(path("inputs.safetensors"));
  return *inputs_;
}

bool Fixture::states_bounds() const {
  return at("tolerance").find(dtype_name(compute_)) != nullptr;
}

double Fixture::tolerance(const std::string& name) const {
  const Json* bounds = at("tolerance").find(dtype_name(compute_));
  require(bounds != nullptr, path("fixture.json"), ": tolerance: expected bounds for ",
          dtype_name(compute_), ", got ", at("tolerance").describe());
  const Json* bound = bounds->find(name);
  return bound ? bound->number() : -1;
}

void Fixture::compare(const std::string& tensor, const float* got, int64_t count) {
  const FileTensor& info = expected_.at(tensor);
  require(info.numel() == count, path("expected.safetensors"), ": ", tensor, ": expected ",
          info.numel(), " values, got ", count);
  std::vector<float> expected = expected_.floats(tensor);
  double difference = 0, norm = 0, got_norm = 0, largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    double e = double(expected[i]), g = double(got[i]), d = g - e;
    if (e == g) d = 0;  // equal infinities
    difference += d * d;
    norm += e * e;
    got_norm += g * g;
    largest = std::isnan(d) ? d : std::max(largest, std::abs(d));
  }
  bool gradient = tensor.starts_with("grad."), weight = tensor.starts_with("weights.");
  double rel = norm > 0 ? std::sqrt(difference / norm) : std::sqrt(got_norm);
  double rel_bound = tolerance(gradient ? "grad_rel_l2"
                               : weight ? "weights_rel_l2"
                                        : "rel_l2"),
         abs_bound = tolerance("max_abs");
  if (rel_bound < 0) rel_bound = tolerance("rel_l2");
  require(rel_bound >= 0 || abs_bound >= 0, path("fixture.json"),
          ": tolerance: expected a bound for ", tensor, ", got none");
  // Written so that NaN fails.
  bool ok = (rel_bound < 0 || rel <= rel_bound) && (abs_bound < 0 || largest <= abs_bound);
  if (gradient) {
    grad_difference_ += difference;
    grad_norm_ += norm;
  }
  compared_[tensor] = true;
  lines_.push_back({name_, kind_, tensor, rel, largest, ok});
}

std::vector<ParityLine> Fixture::finish() {
  for (const FileTensor& tensor : expected_.tensors())
    require(compared_.contains(tensor.name), path("expected.safetensors"), ": ", tensor.name,
            ": expected a tensor that kind ", kind_, " produces, got one that it does not");
  double bound = tolerance("grad_global_rel_l2");
  if (bound >= 0 && grad_norm_ > 0) {
    double rel = std::sqrt(grad_difference_ / grad_norm_);
    lines_.push_back({name_, kind_, "grad (all)", rel, 0, rel <= bound});
  }
  return std::move(lines_);
}

std::vector<ParityLine> run_parity(const std::string& directory, Device& device, DType compute) {
  require(compute == DType::F32 || compute == DType::BF16,
          "[parity] precision: expected float32 or bfloat16, got ", dtype_name(compute));
  std::string file = directory + "/fixture.json",
              kind = Config::parse(read_text(file), file).string("kind");
  for (const Replay& replay : kReplays) {
    if (kind != replay.kind) continue;
    Fixture fixture(directory, replay.has_precision ? compute : DType::F32);
    if (!fixture.states_bounds()) return {};
    replay.run(fixture, device);
    return fixture.finish();
  }
  throw Error(Code::InvalidArgument,
              cat(file, ": kind: expected one that the engine replays, got ", json_quote(kind)));
}

}  // namespace spindle
