// Whole passes of a model give the same bytes however many threads there are and whatever batch an
// image is in, on every instruction set of this processor. cpu_reference_test holds the same for
// single kernels, models_test for sampling.
#include "check.h"
#include "isas.h"
#include "models/inference.h"
#include "spin_steps.h"

using namespace spindle;

namespace {

std::vector<float> weights_after(const std::string& isa, DType compute, int threads, int steps) {
  Device device({.backend = "cpu", .threads = threads, .isa = isa});
  SpinSteps training(device, compute);
  for (int i = 0; i < steps; ++i) training.step();
  return tiny::floats(training.unet().store.master());
}

template <class F>
void for_each_isa_and_type(F&& f) {
  for (const std::string& isa : available_isas())
    for (DType compute : {DType::F32, DType::BF16})
      check::each(cat(isa, ", ", dtype_name(compute)), [&] { f(isa, compute); });
}

}  // namespace

TEST("weights after spin steps do not depend on the number of threads, nor on the run") {
  for_each_isa_and_type([](const std::string& isa, DType compute) {
    // Two steps: the second one starts from what the first one's rounding left.
    std::vector<float> one = weights_after(isa, compute, 1, 2);
    CHECK(one == weights_after(isa, compute, 2, 2));
    CHECK(one == weights_after(isa, compute, 2, 2));
    CHECK(one !=
          weights_after(isa, compute, 1, 1));  // equal bytes mean something: steps do change them
  });
}

TEST("a U-Net's prediction for an image does not depend on the batch that it is in") {
  for_each_isa_and_type([](const std::string& isa, DType compute) {
    Device device({.backend = "cpu", .threads = 2, .isa = isa});
    auto unet = random_unet(device, kStepUnet, {.compute = compute});
    Tensor samples = tiny::random(device, {3, 4, 16, 16}, 1),
           text = tiny::random(device, {3, 7, 24}, 2);
    std::vector<float> timesteps = {1, 500, 998};
    Tensor together = unet_forward(*unet, samples, timesteps, text);
    for (int64_t i = 0; i < 3; ++i) {
      Tensor alone = unet_forward(*unet, samples.slice(i * 4 * 16 * 16, {1, 4, 16, 16}),
                                  {timesteps[size_t(i)]}, text.slice(i * 7 * 24, {1, 7, 24}));
      CHECK_THAT(
          tiny::floats(alone) == tiny::floats(together.slice(i * 4 * 16 * 16, {1, 4, 16, 16})),
          "image ", i);
    }
  });
}
