// The CUDA backend's kernels against the reference, through the tables that every backend goes
// through.
#include <cstdio>
#include <thread>

#include "autograd/graphed_step.h"
#include "check.h"
#include "cuda_device.h"
#include "kernel_cases.h"
#include "kernels/cuda/runtime.h"
#include "through_device.h"
#include "train/objective.h"

using namespace spindle;

namespace {

// Products round biases to bfloat16, and a sum before what is added behind it: one more rounding
// than the reference's.
constexpr double kBfloat16Tolerance = 1e-2;

template <class F>
std::string message_of(F&& work) {
  try {
    work();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST("the kernels give what the reference gives") {
  setenv("SPINDLE_EMULATED_ATTENTION", "own", 1);
  Device device(cuda_options());
  ThroughDevice kernels(device);
  ExactAllocator memory;
  std::unique_ptr<Backend> reference = make_reference_kernels();
  for_each_type([&](DType dtype, bool accumulate, const std::string& type) {
    KernelCases all(memory, dtype, accumulate);
    for (const KernelCase& c : all.list()) {
      check::each(cat(type, c.name), [&] {
        Outputs expected(memory), got(memory);
        c.run(*reference, expected);
        c.run(kernels, got);
        compare(c, got, expected, kBfloat16Tolerance);
      });
    }
  });
}

TEST("the same call gives the same bytes") {
  Device device(cuda_options());
  ThroughDevice kernels(device);
  ExactAllocator memory;
  KernelCases all(memory, DType::BF16, true);
  for (const KernelCase& c : all.list()) {
    if (c.name.starts_with("conv2d")) continue;  // the port's; slow on the emulated device
    check::each(c.name, [&] {
      Outputs first(memory), second(memory);
      c.run(kernels, first);
      c.run(kernels, second);
      for (size_t i = 0; i < first.list().size(); ++i)
        CHECK_THAT(same_bytes(first.list()[i]->tensor, second.list()[i]->tensor),
                   first.list()[i]->name);
    });
  }
}

TEST("noise is the host's, to the last bits of its logarithm") {
  Device device(cuda_options());
  Philox philox(7, 3);
  Tensor noise = device.empty({3, 4, 5, 5}, DType::F32), places = device.empty({2}, DType::F64);
  double at[2] = {11, 6};
  device.upload(places, at);
  device.step_kernels().run(
      NormalNoise{.noise = noise, .philox = philox, .draw = Draw::Noise, .places = places});
  std::vector<float> got = device.download<float>(noise), expected(100);
  for (uint32_t i = 0; i < 3; ++i) {
    philox.normal(expected.data(), 100, 11, 6 + i, Draw::Noise);
    for (size_t k = 0; k < 100; ++k)
      CHECK_THAT(
          std::abs(got[i * 100 + k] - expected[k]) <= 2e-7f * std::max(1.0f, std::abs(expected[k])),
          "value ", k, " of image ", i, ": ", got[i * 100 + k], " and ", expected[k]);
  }
}

TEST("a sampler's steps are those of the reference") {
  Device device(cuda_options());
  ThroughDevice kernels(device);
  ExactAllocator memory;
  std::unique_ptr<Backend> reference = make_reference_kernels();
  for (bool guided : {false, true})
    for (bool noisy : {false, true})
      check::each(cat(guided ? "guided" : "plain", noisy ? ", noise" : ""), [&] {
        constexpr int64_t n = 333, steps = 3;  // more than a block has threads
        auto run = [&](Backend& k) {
          SamplerTensors s{uniform_tensor(memory, {kSamplerRows, n}, DType::F32, 1),
                           uniform_tensor(memory, {steps, kSamplerColumns}, DType::F32, 2),
                           Tensor(memory, {1}, DType::F64)};
          reference::store(s.at, {0});
          // Of the steps, one stores and pushes, one has no limit, and one takes nothing of what is
          // not finite.
          float* t = s.table.f32();
          for (int64_t i = 0; i < steps; ++i)
            t[i * kSamplerColumns + kLimit] = i == 1 ? INFINITY : 0.3f,
                                    t[i * kSamplerColumns + kStore] =
                                        t[i * kSamplerColumns + kPush] = float(i % 2);
          t[kNextH3] = 0;
          s.memory.f32()[kHistory3 * n + 7] = NAN;
          Tensor input(memory, {guided ? 2 : 1, n}, DType::F32), timesteps(memory, {5}, DType::F32),
              output = uniform_tensor(memory, {guided ? 2 : 1, n}, DType::F32, 3), noise;
          if (noisy) noise = uniform_tensor(memory, {n}, DType::F32, 4);
          std::vector<std::vector<double>> all;
          for (int64_t i = 0; i < steps; ++i) {
            k.run(SamplerInput{.input = input, .timesteps = timesteps, .sampler = s});
            k.run(SamplerStep{.sampler = s, .output = output, .noise = noise});
            for (const Tensor& x : {input, timesteps, s.memory, s.at})
              all.push_back(reference::load(x));
          }
          return all;
        };
        std::vector<std::vector<double>> got = run(kernels), expected = run(*reference);
        for (size_t i = 0; i < got.size(); ++i)
          for (size_t k = 0; k < got[i].size(); ++k)
            CHECK_THAT(std::abs(got[i][k] - expected[i][k]) <= 1e-5 ||
                           (std::isnan(got[i][k]) && std::isnan(expected[i][k])),
                       "tensor ", i, ", value ", k, ": ", got[i][k], " and ", expected[i][k]);
        for (size_t k = 0; k < size_t(n); ++k) CHECK(std::isfinite(expected[2][k]));
      });
}

TEST("the loss of pairs and its weights are those of the host") {
  Device device(cuda_options());
  constexpr size_t kPairs = 300;  // more than a block has threads
  Errors e;
  std::vector<double> own, opponent;
  for (size_t i = 0; i < kPairs; ++i) {
    e.real.push_back(0.1 + 0.001 * uniform(1, i));
    e.generated.push_back(0.2 + 0.001 * uniform(2, i));
    e.opponent_real.push_back(0.1 + 0.001 * uniform(3, i));
    e.opponent_generated.push_back(0.2 + 0.001 * uniform(4, i));
  }
  for (Objective objective :
       {Objective::SpinLogistic, Objective::SpinHinge, Objective::SpinIpo, Objective::Sft})
    for (bool weighed : {false, true})
      check::each(cat("objective ", int(objective), weighed ? ", weighed" : ""), [&] {
        bool spin = is_spin(objective);
        if (weighed && !spin) return;
        std::vector<double> factors;
        for (size_t i = 0; i < kPairs; ++i) factors.push_back(0.2 + uniform(5, i));
        Tensor pair_factors;
        if (weighed) {
          pair_factors = device.empty({int64_t(kPairs)}, DType::F64);
          device.upload(pair_factors, factors.data());
        }
        own = e.real;
        opponent = e.opponent_real;
        if (spin) own.insert(own.end(), e.generated.begin(), e.generated.end());
        opponent.insert(opponent.end(), e.opponent_generated.begin(), e.opponent_generated.end());
        Tensor errors = device.empty({int64_t(own.size())}, DType::F64),
               others = device.empty({int64_t(opponent.size())}, DType::F64),
               weights = device.empty({int64_t(own.size())}, DType::F32),
               loss = device.empty({1}, DType::F64);
        device.upload(errors, own.data());
        device.upload(others, opponent.data());
        Tensor settings = device.empty({2}, DType::F64);
        double beta_and_scale[] = {2000, 1.0 / kPairs};
        device.upload(settings, beta_and_scale);
        device.step_kernels().run(
            PairLossWeights{.weights = weights,
                            .loss = loss,
                            .errors = errors,
                            .opponent_errors = others,
                            .settings = settings,
                            .factors = pair_factors,
                            .kind = *pair_loss_of({.objective = objective}, {})});
        Errors all_errors = e;
        if (weighed) weigh_errors(all_errors, factors);
        LossTerms expected =
            loss_terms({.objective = objective, .beta = 2000}, all_errors, 1.0 / kPairs);
        // The weights of the losses' errors are those of the weighed ones, times the factors.
        auto times_factors = [&](std::vector<float>& w) {
          for (size_t i = 0; weighed && i < w.size(); ++i) w[i] = float(double(w[i]) * factors[i]);
        };
        times_factors(expected.weight_real);
        times_factors(expected.weight_generated);
        double got = device.download<double>(loss)[0];
        CHECK_THAT(std::abs(got - expected.loss) < 1e-12, got, " and ", expected.loss);
        std::vector<float> w = device.download<float>(weights), all = expected.weight_real;
        all.insert(all.end(), expected.weight_generated.begin(), expected.weight_generated.end());
        for (size_t i = 0; i < all.size(); ++i)
          CHECK_THAT(std::abs(w[i] - all[i]) <= 4e-7f * std::abs(all[i]), "weight ", i, ": ", w[i],
                     " and ", all[i]);
      });
}

TEST("clipping, average and rounded copy in one pass are those of the reference") {
  Device device(cuda_options());
  ThroughDevice kernels(device);
  ExactAllocator memory;
  std::unique_ptr<Backend> reference = make_reference_kernels();
  for (double max_norm : {0.0, 1.0, 1e9})
    for (bool finite : {true, false})
      check::each(cat("max_norm ", max_norm, finite ? "" : ", not finite"), [&] {
        auto run = [&](Backend& k) {
          Outputs out(memory);
          constexpr int64_t n = 1040;
          Tensor grad = uniform_tensor(memory, {n}, DType::F32, 1);
          if (!finite) grad.f32()[5] = INFINITY;
          OptimizerArenas a{uniform_tensor(memory, {n}, DType::F32, 2),
                            uniform_tensor(memory, {n}, DType::F32, 3, 0.1),
                            uniform_tensor(memory, {n}, DType::F32, 4, 0.01, 0.011),
                            grad,
                            uniform_tensor(memory, {n}, DType::F32, 5),
                            uniform_tensor(memory, {n}, DType::BF16, 6)};
          Tensor scalars(memory, {kStepScalars}, DType::F64);
          reference::store(scalars,
                           {0.1, 3, 1 - 0.9 * 0.9 * 0.9, 1 - 0.999 * 0.999 * 0.999, 0.25, 0, 0, 0});
          k.run(ClipGradient{.scalars = scalars, .gradient = grad, .max_norm = max_norm});
          k.run(OptimizerStep{
              .arenas = a,
              .scalars = scalars,
              .args = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01}});
          return std::vector<Tensor>{a.w, a.m, a.v, a.ema, a.bf16, scalars};
        };
        std::vector<Tensor> got = run(kernels), expected = run(*reference);
        for (size_t i = 0; i + 1 < got.size(); ++i) {
          if (!finite)
            CHECK_THAT(same_bytes(got[i], expected[i]), "arena ", i, " changed");
          else
            CHECK_THAT(difference(got[i], expected[i]).relative <
                           (got[i].dtype() == DType::BF16 ? 5e-3 : 1e-6),
                       "arena ", i);
        }
        CHECK_EQUAL(reference::load(got.back())[kFinite], finite ? 1.0 : 0.0);
        if (finite)
          CHECK(std::abs(reference::load(got.back())[kFactor] -
                         reference::load(expected.back())[kFactor]) < 1e-9);
      });
}

TEST("captured work is done again with what its inputs hold then, and waits for nobody meanwhile") {
  Device device(cuda_options());
  Kernels& k = device.kernels();
  DeviceMemory& memory = device.memory();
  Tensor x = from_values(device, {1, 2, 3}), y = from_values(device, {0, 0, 0});
  std::unique_ptr<CapturedGraph> replay = memory.capture([&] {
    k.run(Scale{.y = y, .x = x, .factor = 2});
    k.run(Accumulate{.y = y, .x = x});
  });
  CHECK(device.download<float>(y) == (std::vector<float>{0, 0, 0}));  // capturing does nothing
  replay->launch();
  CHECK(device.download<float>(y) == (std::vector<float>{3, 6, 9}));
  float other[] = {10, 20, 30};
  device.upload(x, other);
  replay->launch();
  CHECK(device.download<float>(y) == (std::vector<float>{30, 60, 90}));
  CHECK_THROWS(memory.capture([&] { device.download<float>(y); }), Code::Internal);
  CHECK_THROWS(memory.capture([&] { device.upload(x, other); }), Code::Internal);
  k.run(Scale{.y = y, .x = x, .factor = 1});  // the stream is whole again
  CHECK(device.download<float>(y) == (std::vector<float>{10, 20, 30}));
}

TEST("any thread may compute, on whichever device") {
  if (on_real_device()) return;  // may have one alone
  DeviceOptions options = cuda_options();
  options.backend = "cuda:1";
  Device second(options), first(cuda_options());
  auto work = [](Device& device) {  // nothing but these says which device the thread is for
    Tensor x = device.zeros({64}, DType::F32), y = device.empty({64}, DType::F32),
           noise = device.empty({1, 64}, DType::F32);
    device.upload(y, std::vector<float>(64, 2).data());
    device.memory().copy(x, y);
    device.kernels().run(Accumulate{.y = x, .x = y});
    CHECK(device.download<float>(x) == std::vector<float>(64, 4));
  };
  for (Device* device : {&second, &first, &second}) {
    work(*device);
    std::exception_ptr failure;
    std::thread([&] {
      try {
        work(*device);
      } catch (...) {
        failure = std::current_exception();
      }
    }).join();
    CHECK(!failure);
  }
}

TEST(
    "a step is captured the second time, per key, until it is reset; running out of "
    "memory takes nothing from it") {
  Device device(cuda_options());
  GraphedStep graphed(device);
  Tensor x = from_values(device, {1, 2, 3}), y = device.zeros({3}, DType::F32);
  auto doubled = [&] {
    Tensor between = device.empty({1 << 17}, DType::F32), part = between.slice(0, {3});
    device.kernels().run(Scale{.y = part, .x = x, .factor = 2});
    device.kernels().run(Accumulate{.y = y, .x = part});
  };
  auto tripled = [&] {
    Tensor between = device.empty({3}, DType::F32);
    device.kernels().run(Scale{.y = between, .x = x, .factor = 3});
    device.kernels().run(Accumulate{.y = y, .x = between});
  };
  CHECK(graphed.run("twice", doubled));
  CHECK(graphed.run("twice", doubled));
  CHECK(!graphed.run("twice", doubled));
  CHECK(graphed.run("three times", tripled));
  CHECK(graphed.run("three times", tripled));
  CHECK(!graphed.run("twice", doubled));
  CHECK(!graphed.run("three times", tripled));
  CHECK(device.download<float>(y) == (std::vector<float>{17, 34, 51}));
  if (!on_real_device()) {
    // Work of the same pool that there is no room for. What the graphs write to must not be given
    // away.
    auto* set_memory = emulator_function<void (*)(size_t)>("spindle_emulator_set_memory");
    set_memory(size_t(64) << 20);
    CHECK_THROWS(graphed.eager([&] { device.empty({48, 1 << 20}, DType::F32); }),
                 Code::ResourceExhausted);
    set_memory(size_t(4) << 30);
    Tensor other = device.empty({1 << 18}, DType::F32), kept = device.empty({3}, DType::F32);
    device.upload(other, std::vector<float>(1 << 18, 7).data());
    device.upload(kept, std::vector<float>(3, 7).data());
    CHECK(!graphed.run("twice", doubled));
    CHECK(!graphed.run("three times", tripled));
    CHECK(device.download<float>(other) == std::vector<float>(1 << 18, 7));
    CHECK(device.download<float>(kept) == std::vector<float>(3, 7));
  }
  graphed.reset();
  CHECK(graphed.run("twice", doubled));
}

TEST("running out of memory says what was asked for, free and needed, and what to lower") {
  if (on_real_device()) return;  // shares its memory with other programs
  Device device(cuda_options());
  auto* set_memory = emulator_function<void (*)(size_t)>("spindle_emulator_set_memory");
  set_memory(size_t(64) << 20);
  std::string message;
  try {
    device.empty({48, 1 << 20}, DType::F32);
  } catch (const Error& e) {
    CHECK(e.code() == Code::ResourceExhausted);
    message = e.what();
  }
  set_memory(size_t(4) << 30);
  for (const char* part :
       {"asked for 192 MiB", "of 64 MiB free", "MiB more are needed", "lower the micro-batch"})
    CHECK_THAT(message.find(part) != std::string::npos, part, " in: ", message);
}

TEST("a backend that was built with another contract is refused, and says of which build it is") {
  std::string path =
      (std::filesystem::path(cuda_library()).parent_path() / "other_backend.so").string();
  CHECK_EQUAL(why_no_cuda(path), cat(path, ": expected a CUDA backend of this build (", cuda_abi(),
                                     "), got one of another (0123abcd); build both again"));
  DeviceOptions options = cuda_options();
  options.cuda_library = path;
  CHECK_EQUAL(message_of([&] { Device device(options); }),
              cat("[device] backend cuda: ", why_no_cuda(path)));
}

TEST("a file that is not there, or is something else, is refused in one sentence") {
  CHECK(why_no_cuda("/nowhere/spindle_cuda.so").find("this build has no CUDA backend") == 0);
  CHECK(why_no_cuda("/proc/self/exe").find("cannot be loaded") != std::string::npos);
  CHECK(why_no_cuda(cuda_library()).empty());
  DeviceOptions options = cuda_options();
  options.cuda_library = "/nowhere/spindle_cuda.so";
  CHECK_THROWS(Device(options), Code::InvalidArgument);
  options.backend = "auto";
  CHECK_EQUAL(Device(options).backend(), std::string("cpu"));
  options.cuda_library = cuda_library();
  CHECK_EQUAL(Device(options).backend(), std::string("cuda"));
  for (const char* wrong : {"cuda:99", "cuda:", "cuda:x", "gpu"}) {
    options.backend = wrong;
    CHECK_THROWS(Device(options), Code::InvalidArgument);
  }
  options.backend = "cuda:99";
  if (!on_real_device())
    CHECK_EQUAL(message_of([&] { Device device(options); }),
                std::string("[cuda] device: expected 0 to 1, got 99"));
  options.backend = "cuda:0";
  CHECK_EQUAL(Device(options).backend(), std::string("cuda"));
}
