// Replays golden fixtures: recorded inputs and outputs of PyTorch, diffusers and transformers, and
// says how far off we are.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "autograd/device.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace spindle {

struct ParityLine {
  std::string fixture;  // the folder's name
  std::string kind;
  std::string tensor;
  double relL2 = 0;
  double maxAbs = 0;
  bool ok = false;
};

// Replays the fixture in `directory`; `compute` is F32 or BF16. No lines: the fixture states no
// bounds for this precision and was skipped. Throws when the fixture cannot be read or is of a kind
// that is not replayed here.
std::vector<ParityLine> run_parity(const std::string& directory, Device& device, DType compute);

// One fixture being replayed.
class Fixture {
 public:
  Fixture(const std::string& directory, DType compute);

  const Json& settings() const { return settings_; }  // fixture.json
  const Json& at(const std::string& key) const;       // a field of it that must be there
  std::string config() const { return at("config").dump(); }
  const std::string& directory() const { return directory_; }
  DType compute() const { return compute_; }
  std::string path(const std::string& file) const { return directory_ + "/" + file; }
  bool has(const std::string& file) const;
  // inputs.safetensors and expected.safetensors
  const SafetensorsFile& inputs() const;
  const SafetensorsFile& expected() const { return expected_; }

  // Whether `tolerance` has bounds for the precision at hand.
  bool states_bounds() const;
  // A bound of `tolerance` for the precision at hand; negative when it is not stated.
  double tolerance(const std::string& name) const;

  // Compares one expected tensor and records a line. The bound: `grad_rel_l2` for grad.*,
  // `weights_rel_l2` for weights.*, else rel_l2 and max_abs, whichever are stated.
  void compare(const std::string& tensor, const float* got, int64_t count);
  void compare(const std::string& tensor, const std::vector<float>& got) {
    compare(tensor, got.data(), int64_t(got.size()));
  }
  // Adds the line of grad_global_rel_l2, if stated, and refuses expected tensors that were never
  // compared.
  std::vector<ParityLine> finish();

 private:
  std::string directory_, name_, kind_;
  DType compute_;
  Json settings_;
  SafetensorsFile expected_;
  mutable std::unique_ptr<SafetensorsFile> inputs_;
  std::map<std::string, bool> compared_;
  double grad_difference_ = 0, grad_norm_ = 0;  // sums of squares over grad.*
  std::vector<ParityLine> lines_;
};

// One file each; `fixture.compute()` says the precision.
void replay_rng(Fixture& fixture, Device& device);
void replay_scheduler(Fixture& fixture, Device& device);
void replay_unet(Fixture& fixture, Device& device);
void replay_vae(Fixture& fixture, Device& device);
void replay_clip_text(Fixture& fixture, Device& device);
void replay_clip(Fixture& fixture, Device& device);
void replay_image_reward(Fixture& fixture, Device& device);
void replay_train_step(Fixture& fixture, Device& device);

}  // namespace spindle
