// Data-parallel training: real processes over sockets beside one process with the whole batch.
#include "check.h"
#include "rank_training.h"

using namespace spindle;
using namespace rank_training;

namespace {

Device cpu() { return Device(cpu_options()); }

}  // namespace

TEST("1 rank x 4 pairs, 2 x 2, 1 x 2 x 2, 2 x 2 x 1 and 4 x 1 have the same curves") {
  for (DType compute : {DType::F32, DType::BF16}) {
    Result whole = together(run({.ranks = 1, .compute = compute}));
    CHECK(whole.losses[0] != whole.losses[3]);
    for (auto [world, micro] : std::vector<std::pair<int, int>>{{2, 1}, {1, 2}, {2, 2}, {4, 1}})
      check::each(cat(dtype_name(compute), " ", world, " ranks, ", micro, " micro-batches"), [&] {
        Result got = together(run({.ranks = world, .micro_batches = micro, .compute = compute}));
        double losses = largest_difference(got.losses, whole.losses),
               norms = largest_difference(got.norms, whole.norms),
               weights = largest_difference(got.weights, whole.weights);
        double tolerance = compute == DType::F32 ? 1e-4 : 5e-2;
        CHECK_THAT(losses < tolerance && norms < tolerance, losses, " and ", norms);
        CHECK_THAT(weights < 10 * tolerance, weights);
      });
  }
}

TEST("the same run gives the same bytes again, whatever the size of its buckets") {
  Result first = together(run({.ranks = 3 - 1, .micro_batches = 2}));
  for (int64_t bytes : {int64_t(1), int64_t(4096), int64_t(1) << 30}) {
    Result again = together(run({.ranks = 2, .micro_batches = 2, .bucket_bytes = bytes}));
    CHECK(again.weights == first.weights);
    CHECK(again.norms == first.norms);
  }
}

TEST("gradients leave while backward goes on, and cover every weight") {
  ranks::TemporaryFolder folder;
  auto outcomes = ranks::run(2, [&](int rank) {
    Device device = cpu();
    auto unet = tiny::unet(device, {.trainable = true});
    auto ranks = connect_ranks(ranks::group(folder.path, rank, 2), nullptr);
    GradientBuckets buckets(unet->store, *ranks, 4096);
    std::string text;
    for (int pass = 0; pass < 2; ++pass) {
      Tape tape(device, true);
      UNetInputs inputs{
          tiny::random(device, {1, 8, 8, 4}, 1), {10}, tiny::random(device, {1, 5, 12}, 2)};
      Tensor y = unet->model.forward(tape, inputs);
      unet->store.begin_gradients();
      buckets.begin(true);
      tape.backward(y, tiny::random(device, y.shape(), 3), [&] { buckets.node_done(); });
      // Gradients are the collective's from when they leave, which none does in the first pass.
      std::vector<float> own;
      if (pass == 0) own = tiny::floats(unet->store.gradient());
      buckets.end();
      ranks->wait(nullptr);
      // Both ranks had the same gradients: each sum is twice its own.
      std::vector<float> sums = tiny::floats(unet->store.gradient());
      bool twice = pass == 1 || std::equal(own.begin(), own.end(), sums.begin(),
                                           [](float a, float b) { return 2 * a == b; });
      text += cat(pass, ": ",
                  buckets.overlapped() > buckets.count() / 2 ? "overlapped" : "not overlapped",
                  twice ? "" : ", not summed", "; ");
      static std::vector<float> first;
      if (pass == 0)
        first = sums;
      else
        text += sums == first ? "same sums" : "other sums";
    }
    return text;
  });
  for (const ranks::Outcome& o : outcomes)
    CHECK_EQUAL(o.text, std::string("0: not overlapped; 1: overlapped; same sums"));
}

TEST("state loaded by rank 0 is every rank's, also with another number of ranks") {
  ranks::TemporaryFolder folder;
  std::string state = folder.path + "/state.safetensors";
  auto train = [&](int world, int64_t from, int64_t to, bool load) {
    Plan plan{.ranks = world};
    return ranks::run(world, [&, plan](int rank) {
      Device device = cpu();
      auto t =
          trainer(device, plan, connect_ranks(ranks::group(folder.path, rank, world), nullptr));
      if (load && rank == 0) t->load_state(state);
      t->broadcast_state(nullptr);
      for (int64_t k = from; k < to; ++k) step(*t, plan, rank, k);
      if (rank == 0 && !load) t->save_state(state, {});
      return ranks::bytes_of(tiny::floats(t->unet().store.master()));
    });
  };
  std::string undisturbed = train(2, 0, 4, false)[0].text;
  train(2, 0, 2, false);
  auto resumed = train(2, 2, 4, true);
  CHECK(resumed[0].text == undisturbed);
  CHECK(resumed[1].text == undisturbed);
  auto alone = train(1, 2, 4, true);
  CHECK(alone[0].text.size() == undisturbed.size());
  CHECK(largest_difference(ranks::floats_of(alone[0].text), ranks::floats_of(undisturbed)) < 1e-3);
}

TEST("ranks whose weights went apart say so") {
  auto outcomes = run({.ranks = 2}, [](Trainer& t, int rank, int64_t k) {
    if (rank == 1 && k == 3)
      t.unet().store.master().f32()[0] = std::nextafter(t.unet().store.master().f32()[0], 1.0f);
  });
  for (const ranks::Outcome& o : outcomes)
    CHECK_THAT(
        o.text.starts_with(
            "INTERNAL: [train] ranks: expected rank 1 of 2 to hold the same state as rank 0"),
        o.text);
}

TEST("a rank that fails takes no step, and neither do the others") {
  auto outcomes = run({.ranks = 2}, [](Trainer& t, int rank, int64_t k) {
    if (rank == 1 && k == 2) {
      TrainBatch broken = batch(t.unet().device, k, 2, 2, true);
      broken.real.f32()[0] = NAN;
      t.accumulate(broken, nullptr);
    }
  });
  CHECK_THAT(outcomes[1].text.starts_with("DIVERGED: [train] step 2"), outcomes[1].text);
  CHECK_EQUAL(outcomes[0].text,
              std::string("UNAVAILABLE: [ranks] rank 1 of 2 ended its connection"));
}

TEST("a step is applied once its last micro-batch is in, and takes none after it") {
  auto outcomes = run({.ranks = 1}, [](Trainer& t, int, int64_t k) {
    if (k > 0) return;
    t.accumulate(batch(t.unet().device, 0, 0, 2, false), nullptr);
    CHECK_THROWS(t.apply(0), Code::InvalidArgument);
    t.accumulate(batch(t.unet().device, 0, 2, 2, true), nullptr);
    CHECK_THROWS(t.accumulate(batch(t.unet().device, 0, 0, 2, true), nullptr),
                 Code::InvalidArgument);
    if (check::state().failing) throw Error(Code::Internal, "a check failed");
    t.apply(0);
  });
  CHECK_THAT(outcomes[0].text.size() > 1000, outcomes[0].text);
}
