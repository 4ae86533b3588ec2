// Every golden fixture of the repository against recorded outputs of PyTorch, diffusers and
// transformers.
#include "parity/parity.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "check.h"

using namespace spindle;

namespace {

const std::filesystem::path kFixtures =
    std::filesystem::path(__FILE__).parent_path() / ".." / ".." / "test" / "fixtures";

// The kinds that TypeScript replays.
const std::vector<std::string> kElsewhere = {"tokenizer", "image_preprocess", "pipeline"};

std::string kind_of(const std::filesystem::path& directory) {
  std::ifstream in(directory / "fixture.json");
  std::string text{std::istreambuf_iterator<char>(in), {}};
  return Json::parse(text, directory.string()).find("kind")->string();
}

std::vector<std::filesystem::path> fixtures() {
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(kFixtures))
    if (std::filesystem::exists(entry.path() / "fixture.json") &&
        std::find(kElsewhere.begin(), kElsewhere.end(), kind_of(entry.path())) == kElsewhere.end())
      found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

void replay(const std::filesystem::path& directory, Device& device, DType compute) {
  std::string name = directory.filename().string();
  check::each(cat(name, " in ", dtype_name(compute)), [&] {
    std::vector<ParityLine> lines = run_parity(directory.string(), device, compute);
    if (lines.empty())
      std::printf("%s states no bounds in %s: skipped\n", name.c_str(), dtype_name(compute));
    for (const ParityLine& line : lines)
      CHECK_THAT(line.ok, line.tensor, ": relative error ", line.relL2, ", largest difference ",
                 line.maxAbs);
  });
}

}  // namespace

TEST("the cpu backend agrees with every fixture") {
  Device device({.backend = "cpu", .threads = 0, .isa = "auto"});
  std::vector<std::filesystem::path> all = fixtures();
  CHECK(!all.empty());
  for (DType compute : {DType::F32, DType::BF16})
    for (const std::filesystem::path& directory : all) replay(directory, device, compute);
}

TEST("the reference backend agrees with the smallest fixtures") {
  Device device({.backend = "reference", .threads = 1, .isa = "auto"});
  for (DType compute : {DType::F32, DType::BF16})
    for (const char* name : {"unet-sd21", "unet-text", "vae", "clip-model", "image-reward",
                             "clip-text-gelu", "sft", "spin-logistic", "spin-v-prediction"})
      replay(kFixtures / name, device, compute);
}

// spin-logistic and spin-v-prediction are replayed on the processor's own instruction set only
// (above): one weight's first gradient there is 1e-8 of the whole, so Adam's first step follows the
// last bit of float32.
TEST("every instruction set that this processor has agrees with recorded training steps") {
  for (const char* isa : {"avx2", "avx512", "avx512_bf16", "amx", "amx_emulated"}) {
    std::unique_ptr<Device> device;
    try {
      device = std::make_unique<Device>(DeviceOptions{.backend = "cpu", .threads = 2, .isa = isa});
    } catch (const Error&) {
      std::printf("this processor has no %s\n", isa);
      continue;
    }
    for (const char* name : {"spin-hinge", "sft", "unet-sd15"})
      replay(kFixtures / name, *device, DType::F32);
    // what AMX replaces is in bfloat16
    if (std::string(isa).starts_with("amx"))
      for (const std::filesystem::path& directory : fixtures())
        replay(directory, *device, DType::BF16);
  }
}

TEST("the plainest code of the cpu backend agrees with a fixture of each kind") {
  Device device({.backend = "cpu", .threads = 2, .isa = "generic"});
  for (const char* name : {"unet-sd21", "vae", "clip-model", "image-reward", "spin-hinge", "sft"})
    replay(kFixtures / name, device, DType::F32);
}
