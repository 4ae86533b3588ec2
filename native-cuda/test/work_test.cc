// What a warm step may do, counted instead of timed: it holds on a busy machine, and fails when
// work comes in unnoticed.
//
// When a change is meant to alter the work: run `build/native/work_test`, whose failures say what
// was counted, put that number into the table, and say in the commit why. A number that fell is put
// in too; otherwise the gain can be lost unseen.
#include "bench/profile.h"
#include "check.h"
#include "sample/sample.h"
#include "spin_steps.h"

using namespace spindle;

namespace {

// Recorded for one step; upper bounds, but for those that are compared exactly.
struct Bounds {
  DType compute;
  uint64_t launches;  // each one wakes the threads and passes over memory once more
  double bytes;       // of inputs and outputs: a fused kernel that falls apart moves more
};

WorkCounters spin_step_work(Device& device, DType compute) {
  SpinSteps training(device, compute);
  DeviceProfile profile(device);
  // The first step makes buffers; the second one's releases come in the order that later ones
  // repeat.
  training.step();
  training.step();
  profile.restart();
  training.step();
  return profile.work();
}

SampleRequest sample_request(Device& device, int64_t steps) {
  SampleRequest r;
  r.cond = tiny::random(device, {2, 7, 24}, 1);
  r.uncond = tiny::random(device, {1, 7, 24}, 2);
  r.seeds = {1, 2};
  r.height = r.width = 16;
  r.scheduler_config = tiny::kDdim;
  r.steps = steps;
  r.guidance_scale = 3;
  r.batch_size = 2;
  return r;
}

// One more step of a warm sampling: what is done once per call, such as the text, cancels out.
WorkCounters sampling_step_work(Device& device, DType compute) {
  auto unet = random_unet(device, kStepUnet, {.compute = compute});
  DeviceProfile profile(device);
  auto work = [&](int64_t steps) {
    SampleRequest request = sample_request(device, steps);
    profile.restart();
    sample(*unet, request, nullptr, nullptr);
    return profile.work();
  };
  work(3);
  WorkCounters three = work(3), four = work(4);
  return {.launches = four.launches - three.launches,
          .reorders = four.reorders - three.reorders,
          .bytes = four.bytes - three.bytes,
          .packs = four.packs - three.packs,
          .packed_bytes = four.packed_bytes - three.packed_bytes,
          .system_allocations = four.system_allocations};  // of the whole call: it is warm
}

Device cpu() { return Device({.backend = "cpu", .threads = 2, .isa = "auto"}); }

// Matrices and filters of the model, each packed once forward. Backward needs the ones through
// which a gradient goes on: not the first convolution, the first time embedding layer or what
// projects the text, as their inputs are given.
struct WeightCounts {
  uint64_t forward = 0, backward = 0, gated = 0;
};
WeightCounts weight_counts(Device& device) {
  auto unet = random_unet(device, kStepUnet, {});
  WeightCounts counts;
  for (const Parameter& p : unet->store.parameters()) {
    if (p.kind == ParameterKind::Vector) continue;
    ++counts.forward;
    bool given = p.name == "conv_in.weight" || p.name == "time_embedding.linear_1.weight" ||
                 p.name.ends_with("attn2.to_k.weight") || p.name.ends_with("attn2.to_v.weight");
    if (!given) ++counts.backward;
    if (p.name.ends_with("ff.net.0.proj.weight")) ++counts.gated;
  }
  return counts;
}

void check_bounds(const WorkCounters& work, const Bounds& bounds) {
  CHECK_THAT(work.launches <= bounds.launches, work.launches, " kernel launches, recorded are ",
             bounds.launches);
  CHECK_THAT(work.bytes <= bounds.bytes, uint64_t(work.bytes), " bytes, recorded are ",
             uint64_t(bounds.bytes));
}

}  // namespace

TEST(
    "a warm spin step asks the system for nothing, packs every weight once and does no more than "
    "recorded") {
  for (const Bounds& bounds :
       {Bounds{DType::F32, 534, 249'650'816}, Bounds{DType::BF16, 535, 151'641'152}})
    check::each(dtype_name(bounds.compute), [&] {
      Device device = cpu();
      WorkCounters work = spin_step_work(device, bounds.compute);
      // Memory asked for in every step is never warm: page faults cost more than the kernel that
      // fills it.
      CHECK_EQUAL(work.system_allocations, uint64_t(0));
      // The noisy images and the targets come in once; the layout in between is one and the same.
      CHECK_EQUAL(work.reorders, uint64_t(2));
      // Once each way, and once more where backward computes the product before a gate again; the
      // kernels keep the opponent's.
      WeightCounts weights = weight_counts(device);
      CHECK_EQUAL(work.packs, weights.forward + weights.backward + weights.gated);
      check_bounds(work, bounds);
    });
}

TEST(
    "a warm sampling step asks the system for nothing, packs nothing and does no more than "
    "recorded") {
  for (const Bounds& bounds :
       {Bounds{DType::F32, 126, 43'429'392}, Bounds{DType::BF16, 126, 21'818'896}})
    check::each(dtype_name(bounds.compute), [&] {
      Device device = cpu();
      WorkCounters work = sampling_step_work(device, bounds.compute);
      CHECK_EQUAL(work.system_allocations, uint64_t(0));
      // Into the engine's layout before the model and out of it after.
      CHECK_EQUAL(work.reorders, uint64_t(2));
      CHECK_EQUAL(work.packs, uint64_t(0));
      check_bounds(work, bounds);
    });
}

TEST("the counters see what they guard") {
  Device device = cpu();
  uint64_t weights = weight_counts(device).forward;
  DeviceProfile profile(device);
  // A frozen model is packed when it is loaded, one under training whenever it is used.
  auto unet = random_unet(device, kStepUnet, {});
  CHECK_EQUAL(profile.work().packs, weights);
  profile.restart();
  sample(*unet, sample_request(device, 1), nullptr, nullptr);
  CHECK_EQUAL(profile.work().packs, uint64_t(0));
  CHECK(profile.work().system_allocations > 0);  // a cold call makes buffers
  auto trained = random_unet(device, kStepUnet, {.trainable = true});
  profile.restart();
  sample(*trained, sample_request(device, 1), nullptr, nullptr);
  CHECK_EQUAL(profile.work().packs, weights);
  // Bytes and operations of one product by hand: 2 · 3·4·5 operations, 4 bytes for each element of
  // y (3,4), x (3,5), w (4,5).
  profile.restart();
  Tensor x = device.zeros({3, 5}, DType::F32), y = device.empty({3, 4}, DType::F32);
  device.kernels().run(LinearForward{.y = y, .x = x, .w = {device.zeros({4, 5}, DType::F32)}});
  CHECK_EQUAL(profile.work().launches, uint64_t(1));
  CHECK_EQUAL(profile.work().flop, 120.0);
  CHECK_EQUAL(profile.work().bytes, 4.0 * (12 + 15 + 20));
}
