// Data-parallel training in device memory: the Trainer's ranks on the emulated device, whose values
// go through pinned memory and sockets. Processes fork, which a real driver does not survive:
// there, `spindle up --ranks N` is the check.
#include "cuda_device.h"
#include "rank_training.h"

using namespace spindle;
using namespace rank_training;

namespace {

Plan on_device(Plan plan) {
  plan.device = cuda_options();
  plan.device.threads = 1;
  plan.steps = 3;
  return plan;
}

}  // namespace

TEST(
    "1 rank x 4 pairs, 2 x 2 and 1 x 2 x 2 in device memory have the same curves, and they are the "
    "cpu's") {
  Result host = together(run({.ranks = 2, .steps = 3}), 3);
  Result whole = together(run(on_device({.ranks = 1})), 3);
  CHECK(whole.losses[0] != whole.losses[2]);
  auto agrees = [](const Result& got, const Result& expected, double tolerance) {
    double losses = largest_difference(got.losses, expected.losses),
           norms = largest_difference(got.norms, expected.norms),
           weights = largest_difference(got.weights, expected.weights);
    CHECK_THAT(losses < tolerance && norms < tolerance, losses, " and ", norms);
    CHECK_THAT(weights < 10 * tolerance, weights);
  };
  check::each("the cpu's", [&] { agrees(whole, host, 1e-3); });
  check::each("2 ranks", [&] { agrees(together(run(on_device({.ranks = 2})), 3), whole, 1e-4); });
  // The first of two micro-batches is captured in the second step and replayed in the third, the
  // last is not.
  check::each("1 rank, 2 micro-batches", [&] {
    agrees(together(run(on_device({.ranks = 1, .micro_batches = 2})), 3), whole, 1e-4);
  });
  check::each("2 ranks, 2 micro-batches, bfloat16, the same bytes again whatever the buckets", [&] {
    Plan plan = on_device({.ranks = 2, .micro_batches = 2, .compute = DType::BF16}),
         alone = on_device({.ranks = 1, .compute = DType::BF16});
    plan.steps = alone.steps = 2;
    Result first = together(run(plan), 2);
    agrees(first, together(run(alone), 2), 5e-2);
    plan.bucket_bytes = 1 << 30;
    CHECK(together(run(plan), 2).weights == first.weights);
  });
}

TEST("ranks whose weights went apart in device memory say so") {
  auto outcomes = run(on_device({.ranks = 2}), [](Trainer& t, int rank, int64_t k) {
    if (rank == 1 && k == 1) t.unet().device.memory().clear(t.unet().store.master().slice(0, {1}));
  });
  for (const ranks::Outcome& o : outcomes)
    CHECK_THAT(
        o.text.starts_with(
            "INTERNAL: [train] ranks: expected rank 1 of 2 to hold the same state as rank 0"),
        o.text);
}

TEST("a rank that is killed costs a step: the other keeps the weights of the last one") {
  TemporaryFolder folder;
  Plan plan = on_device({.ranks = 2});
  auto outcomes = ranks::run(2, [&](int rank) {
    Device device(plan.device);
    auto t = trainer(device, plan, connect_ranks(ranks::group(folder.path, rank, 2), nullptr));
    t->broadcast_state(nullptr);
    step(*t, plan, rank, 0);
    std::vector<float> before = tiny::floats(device, t->unet().store.master());
    if (rank == 1) raise(SIGKILL);
    std::string what;
    try {
      step(*t, plan, rank, 1);
    } catch (const Error& e) {
      what = cat(code_name(e.code()), ": ", e.what());
    }
    bool kept = tiny::floats(device, t->unet().store.master()) == before;
    return cat(what, kept ? "" : ", and the weights moved");
  });
  CHECK_EQUAL(outcomes[1].status, SIGKILL);
  CHECK_EQUAL(outcomes[0].text,
              std::string("UNAVAILABLE: [ranks] rank 1 of 2 ended its connection"));
}
