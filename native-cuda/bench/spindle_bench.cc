// spindle-bench: the engine's benchmarks without Node.
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <string>

#include "bench/bench.h"
#include "bench/profile.h"
#include "core/version.h"

using namespace spindle;

namespace {

const char* const kHelp =
    "usage: spindle-bench --task unet_forward|spin_step|sample|vae_encode|vae_decode --model "
    "sd15|sdxl|small|DIR\n"
    "  --precision float32|bfloat16   default float32\n"
    "  --backend auto|cuda|cuda:N|cpu|reference   default cpu; auto is cuda where it can be used\n"
    "  --tf32                         of cuda: float32 products may round to TF32\n"
    "  --plans DIR                    of cuda: where what it learnt about shapes is kept\n"
    "  --isa auto|amx|avx512_bf16|avx512|avx2|generic   default auto\n"
    "  --batch N                      default 1\n"
    "  --steps N                      of sample, default 20\n"
    "  --threads N                    default: all that this process may use\n"
    "  --repeat N, --warmup N         default 5 and 2\n"
    "  --checkpointing                of spin_step: activations are computed again in backward\n"
    "  --profile                      time, rates and work of every kernel, beside the machine's "
    "measured peak\n"
    "  --json                         one JSON object on a line\n";

struct Arguments {
  BenchOptions bench;
  DeviceOptions device;
  bool json = false, help = false;
};

int64_t whole(const std::string& flag, const std::string& text) {
  char* end = nullptr;
  long long value = std::strtoll(text.c_str(), &end, 10);
  require(!text.empty() && *end == '\0' && value >= 0 && value <= 1'000'000, flag,
          ": expected a whole number, got ", text);
  return value;
}

DType precision(const std::string& text) {
  require(text == "float32" || text == "bfloat16",
          "--precision: expected float32 or bfloat16, got ", text);
  return text == "float32" ? DType::F32 : DType::BF16;
}

Arguments parse(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    std::string flag = argv[i];
    if (flag == "--help" || flag == "-h") {
      a.help = true;
      continue;
    }
    if (flag == "--json") {
      a.json = true;
      continue;
    }
    if (flag == "--checkpointing") {
      a.bench.checkpointing = true;
      continue;
    }
    if (flag == "--tf32") {
      a.device.tf32 = true;
      continue;
    }
    if (flag == "--profile") {
      a.bench.profile = true;
      continue;
    }
    const std::map<std::string, std::function<void(const std::string&)>> flags = {
        {"--task", [&](const std::string& v) { a.bench.task = v; }},
        {"--model", [&](const std::string& v) { a.bench.model = v; }},
        {"--precision", [&](const std::string& v) { a.bench.compute = precision(v); }},
        {"--backend", [&](const std::string& v) { a.device.backend = v; }},
        {"--plans", [&](const std::string& v) { a.device.plans = v; }},
        {"--isa", [&](const std::string& v) { a.device.isa = v; }},
        {"--batch", [&](const std::string& v) { a.bench.batch = whole(flag, v); }},
        {"--steps", [&](const std::string& v) { a.bench.steps = whole(flag, v); }},
        {"--threads", [&](const std::string& v) { a.device.threads = int(whole(flag, v)); }},
        {"--repeat", [&](const std::string& v) { a.bench.repeat = whole(flag, v); }},
        {"--warmup", [&](const std::string& v) { a.bench.warmup = whole(flag, v); }},
    };
    auto it = flags.find(flag);
    require(it != flags.end(), flag, ": expected a flag that spindle-bench --help lists");
    require(i + 1 < argc, flag, ": expected a value, got none");
    it->second(argv[++i]);
  }
  return a;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Arguments arguments = parse(argc, argv);
    if (arguments.help) {
      std::cout << kHelp;
      return 0;
    }
    Device device(arguments.device);
    Json result = run_bench(device, arguments.bench);
    if (arguments.json) {
      std::cout << result.dump() << "\n";
    } else {
      for (const auto& [key, value] : result.members())
        if (!value.is_object())
          std::cout << key << ": " << (value.is_string() ? value.string() : value.dump()) << "\n";
      if (const Json* profile = result.find("profile")) std::cout << "\n" << profile_text(*profile);
    }
    return 0;
  } catch (const Error& e) {
    std::cerr << "spindle-bench: " << e.what() << "\n";
    return e.code() == Code::InvalidArgument || e.code() == Code::NotFound ||
                   e.code() == Code::DataLoss
               ? 2
               : 1;
  } catch (const std::exception& e) {
    std::cerr << "spindle-bench: " << e.what() << "\n";
    return 1;
  }
}
