// Pairs with several timesteps, and timesteps that weigh: the trainer beside a small reference in
// double that is written from the paper's formulas.
#include <algorithm>
#include <cmath>
#include <set>

#include "check.h"
#include "lora_files.h"
#include "models/inference.h"
#include "rank_training.h"
#include "temporary.h"
#include "tiny_models.h"
#include "tiny_training.h"
#include "train/timestep_weight.h"
#include "train/trainer.h"

using namespace spindle;
using tiny::distance;

namespace {

Device cpu() { return Device({.backend = "cpu", .threads = 2, .isa = "auto"}); }

std::string schedule_of(const std::string& predicts, int64_t timesteps = 1000) {
  return cat(R"({"num_train_timesteps":)", timesteps,
             R"(,"beta_start":0.00085,"beta_end":0.012,"beta_schedule":"scaled_linear",)",
             R"("prediction_type":")", predicts, "\"}");
}

TrainerOptions options(int64_t timesteps,
                       TimestepWeight weight = TimestepWeight::Constant,
                       const std::string& predicts = "epsilon") {
  TrainerOptions o;
  o.objective.beta = 40;
  o.objective.timesteps_per_pair = timesteps;
  o.objective.timestep_weight = weight;
  o.scheduler_config = schedule_of(predicts);
  o.learning_rate = {.base = 1e-3};
  o.seed = 11;
  return o;
}

// Two U-Nets that are not the same, so that no logit is 0.
std::unique_ptr<Trainer> trainer(Device& device, const TrainerOptions& o) {
  auto unet = tiny::unet(device, {.compute = o.compute, .trainable = true});
  auto opponent = copy_unet(*unet);
  Tensor other = tiny::random(device, {unet->store.master().numel()}, 77);
  for (int64_t i = 0; i < other.numel(); ++i)
    unet->store.master().f32()[i] += 0.02F * other.f32()[i];
  unet->store.commit();
  return std::make_unique<Trainer>(std::move(unet), std::move(opponent), o);
}

constexpr int64_t kPairs = 2, kSize = 256;

TrainBatch batch(Device& device, const std::vector<int64_t>& timesteps) {
  TrainBatch b;
  b.step_batch_size = kPairs;
  b.real = tiny::random(device, {kPairs, 4, 8, 8}, 1);
  b.generated = tiny::random(device, {kPairs, 4, 8, 8}, 2);
  b.text = tiny::random(device, {kPairs, 5, 12}, 3);
  b.noise = tiny::random(device, {kPairs, 4, 8, 8}, 9);
  b.timesteps = timesteps;
  return b;
}

// alpha of the paper, from the floats that training has; 1 before the first.
double alpha_at(const std::vector<float>& alphas, int64_t t) {
  return t < 0 ? 1 : double(alphas[size_t(t)]);
}

// ||x_{t-1} - mu_theta(x_t)||^2 of (4.8) without sigma, in vectors: what the model says of x_t
// becomes its idea of x_0 and of the noise, and those become mu.
struct Ddim {
  double a, before;
  std::string predicts;

  std::pair<double, double> ideas(double x_t, double said) const {
    double s = std::sqrt(a), n = std::sqrt(1 - a);
    if (predicts == "v_prediction") return {s * x_t - n * said, n * x_t + s * said};
    if (predicts == "sample") return {said, (x_t - s * said) / n};
    return {(x_t - n * said) / s, said};
  }
  double mu(double x_t, double said) const {
    auto [x_0, noise] = ideas(x_t, said);
    return std::sqrt(before) * x_0 + std::sqrt(1 - before) * noise;
  }
};

double target_of(const std::string& predicts, double a, double x, double noise) {
  if (predicts == "v_prediction") return std::sqrt(a) * noise - std::sqrt(1 - a) * x;
  return predicts == "sample" ? x : noise;
}

// What `unet` says of the images `x` at t, in double: differences to the targets, and to x_{t-1}.
struct Said {
  std::vector<double> of_target, of_previous;  // mean squares, by pair
};

Said said(Unet& unet,
          const TrainBatch& b,
          const Tensor& x,
          const std::vector<int64_t>& t,
          const std::string& predicts) {
  NoiseSchedule schedule = NoiseSchedule::parse(schedule_of(predicts));
  Said result;
  for (int64_t i = 0; i < kPairs; ++i) {
    Tensor noisy = unet.device.empty({1, 4, 8, 8}, DType::F32),
           text = b.text.slice(i * 60, {1, 5, 12});
    const float *clean = x.f32() + i * kSize, *noise = b.noise.f32() + i * kSize;
    schedule.add_noise(noisy.f32(), clean, noise, kSize, t[size_t(i)]);
    Tensor prediction = unet_forward(unet, noisy, {float(t[size_t(i)])}, text);
    double a = alpha_at(schedule.alphas_cumprod, t[size_t(i)]),
           before = alpha_at(schedule.alphas_cumprod, t[size_t(i)] - 1);
    Ddim ddim{a, before, predicts};
    double target = 0, previous = 0;
    for (int64_t k = 0; k < kSize; ++k) {
      double x0 = double(clean[k]), e = double(noise[k]), got = double(prediction.f32()[k]),
             x_t = std::sqrt(a) * x0 + std::sqrt(1 - a) * e;
      target += std::pow(got - target_of(predicts, a, x0, e), 2) / double(kSize);
      previous +=
          std::pow(std::sqrt(before) * x0 + std::sqrt(1 - before) * e - ddim.mu(x_t, got), 2) /
          double(kSize);
    }
    result.of_target.push_back(target);
    result.of_previous.push_back(previous);
  }
  return result;
}

double min_snr(double a, const std::string& predicts) {
  double snr = a / (1 - a);
  if (predicts == "v_prediction") return std::min(snr, 5.0) / (snr + 1);
  return predicts == "sample" ? std::min(snr, 5.0) : std::min(snr, 5.0) / snr;
}

// The mean over all timesteps of what scales the errors of x_{t-1}, or of min-SNR.
double mean_weight(TimestepWeight weight, const std::string& predicts) {
  std::vector<float> alphas = NoiseSchedule::parse(schedule_of(predicts)).alphas_cumprod;
  double sum = 0;
  for (int64_t t = 0; t < 1000; ++t) {
    Ddim ddim{alpha_at(alphas, t), alpha_at(alphas, t - 1), predicts};
    // mu is linear in what the model says.
    double slope = ddim.mu(0, 1) - ddim.mu(0, 0);
    sum += weight == TimestepWeight::MinSnr ? min_snr(ddim.a, predicts) : slope * slope;
  }
  return sum / 1000;
}

// -log sigmoid of the paper's (4.8) over the timesteps given, a mean over the pairs.
double reference_loss(Trainer& t,
                      Unet& opponent,
                      const TrainBatch& b,
                      const TrainerOptions& o,
                      const std::string& predicts) {
  const int64_t turns = o.objective.timesteps_per_pair;
  std::vector<double> logits(size_t(kPairs), 0.0);
  double mean = o.objective.timestep_weight == TimestepWeight::Constant
                    ? 1
                    : mean_weight(o.objective.timestep_weight, predicts);
  for (int64_t turn = 0; turn < turns; ++turn) {
    std::vector<int64_t> at;
    for (int64_t i = 0; i < kPairs; ++i) at.push_back(b.timesteps[size_t(i * turns + turn)]);
    Said real = said(t.unet(), b, b.real, at, predicts),
         generated = said(t.unet(), b, b.generated, at, predicts),
         opponent_real = said(opponent, b, b.real, at, predicts),
         opponent_generated = said(opponent, b, b.generated, at, predicts);
    std::vector<float> alphas = NoiseSchedule::parse(schedule_of(predicts)).alphas_cumprod;
    for (size_t i = 0; i < logits.size(); ++i) {
      auto error = [&](const Said& s) {
        switch (o.objective.timestep_weight) {
          case TimestepWeight::Paper:
            return s.of_previous[i] / mean;
          case TimestepWeight::MinSnr:
            return s.of_target[i] * min_snr(alpha_at(alphas, at[i]), predicts) / mean;
          case TimestepWeight::Constant:
            break;
        }
        return s.of_target[i];
      };
      double gain =
          (error(real) - error(opponent_real)) - (error(generated) - error(opponent_generated));
      logits[i] -= 0.5 * o.objective.beta * gain / double(turns);
    }
  }
  double loss = 0;
  for (double logit : logits) loss += std::log1p(std::exp(-logit)) / double(kPairs);
  return loss;
}

}  // namespace

TEST("weights of timesteps have the mean 1, and the paper's are its steps of the trajectory") {
  for (const char* predicts : {"epsilon", "v_prediction", "sample"})
    for (TimestepWeight weight : {TimestepWeight::Paper, TimestepWeight::MinSnr})
      check::each(cat(predicts, " ", int(weight)), [&] {
        NoiseSchedule schedule = NoiseSchedule::parse(schedule_of(predicts));
        std::vector<double> got = timestep_weights(schedule, weight);
        CHECK_EQUAL(got.size(), size_t(1000));
        double sum = 0, mean = mean_weight(weight, predicts);
        for (int64_t t = 0; t < 1000; ++t) {
          Ddim ddim{alpha_at(schedule.alphas_cumprod, t), alpha_at(schedule.alphas_cumprod, t - 1),
                    predicts};
          double slope = ddim.mu(0, 1) - ddim.mu(0, 0);
          double expected =
              (weight == TimestepWeight::MinSnr ? min_snr(ddim.a, predicts) : slope * slope) / mean;
          CHECK_THAT(std::abs(got[size_t(t)] - expected) < 1e-9 * (1 + expected), "t ", t, ": ",
                     got[size_t(t)], " and ", expected);
          sum += got[size_t(t)];
        }
        CHECK(std::abs(sum / 1000 - 1) < 1e-12);
      });
  // As the paper's schedule has it, to three digits (of SD 1.5, computed apart from this code).
  NoiseSchedule schedule = NoiseSchedule::parse(schedule_of("epsilon"));
  std::vector<double> paper = timestep_weights(schedule, TimestepWeight::Paper);
  CHECK_THAT(std::abs(paper[0] - 62.4) < 0.1, paper[0]);
  CHECK_THAT(std::abs(paper[199] - 0.31) < 0.01, paper[199]);
  CHECK_THAT(std::abs(paper[999] - 2.7) < 0.1, paper[999]);
}

TEST("a schedule that ends in noise alone is refused where the model predicts noise alone") {
  std::string text = schedule_of("v_prediction");
  text.insert(text.size() - 1, R"(,"rescale_betas_zero_snr":true)");
  NoiseSchedule schedule = NoiseSchedule::parse(text);
  for (TimestepWeight weight : {TimestepWeight::Paper, TimestepWeight::MinSnr})
    for (double w : timestep_weights(schedule, weight)) CHECK(std::isfinite(w) && w >= 0);
  schedule.prediction_type = PredictionType::Epsilon;
  for (double w : timestep_weights(schedule, TimestepWeight::MinSnr)) CHECK(std::isfinite(w));
  CHECK(check::contains(
      check::message([&] { timestep_weights(schedule, TimestepWeight::Paper); }),
      "[train] timestep_weight: expected a noise schedule with signal at every timestep"));
}

TEST("the loss of k weighed timesteps is the paper's exact one over them, and so are gradients") {
  Device device = cpu();
  for (const char* predicts : {"epsilon", "v_prediction", "sample"})
    for (TimestepWeight weight :
         {TimestepWeight::Constant, TimestepWeight::Paper, TimestepWeight::MinSnr})
      for (int64_t turns : {1, 3})
        check::each(cat(predicts, ", weight ", int(weight), ", k ", turns), [&] {
          TrainerOptions o = options(turns, weight, predicts);
          auto t = trainer(device, o);
          auto opponent = tiny::unet(device);
          std::vector<int64_t> timesteps = turns == 1
                                               ? std::vector<int64_t>{40, 700}
                                               : std::vector<int64_t>{40, 500, 930, 700, 120, 333};
          TrainBatch b = batch(device, timesteps);
          double expected = reference_loss(*t, *opponent, b, o, predicts);
          TrainBatchResult result = t->accumulate(b, nullptr);
          CHECK_THAT(std::abs(result.loss - expected) < 2e-4 * (1 + std::abs(expected)),
                     result.loss, " and ", expected);
          // The errors that are told give the same logit by the usual formula.
          double told = 0;
          for (size_t i = 0; i < size_t(kPairs); ++i) {
            const Errors& e = result.errors;
            double gain =
                (e.real[i] - e.opponent_real[i]) - (e.generated[i] - e.opponent_generated[i]);
            told += std::log1p(std::exp(0.5 * o.objective.beta * gain)) / double(kPairs);
          }
          CHECK_THAT(std::abs(told - result.loss) < 1e-9, told, " and ", result.loss);
          // Along its own direction, the gradient is the reference's difference quotient.
          Tensor master = t->unet().store.master();
          std::vector<float> gradient = tiny::floats(t->unet().store.gradient()),
                             start = tiny::floats(master);
          double norm = 0;
          for (float g : gradient) norm += double(g) * double(g);
          norm = std::sqrt(norm);
          CHECK(norm > 0);
          auto at = [&](double step) {
            for (size_t i = 0; i < start.size(); ++i)
              master.f32()[i] = float(double(start[i]) + step * double(gradient[i]) / norm);
            t->unet().store.commit();
            return reference_loss(*t, *opponent, b, o, predicts);
          };
          const double h = 2e-3;
          double slope = (at(h) - at(-h)) / (2 * h);
          CHECK_THAT(std::abs(slope - norm) < 2e-2 * norm, slope, " and ", norm);
        });
}

TEST("timesteps of a pair are drawn without replacement, and the first is that of a single one") {
  Device device = cpu();
  // All of six: the loss is that of six given ones, in any order.
  TrainerOptions o = options(6);
  o.scheduler_config = schedule_of("epsilon", 6);
  auto drawn = trainer(device, o), given = trainer(device, o);
  TrainBatch b = batch(device, {});
  double loss = drawn->accumulate(b, nullptr).loss;
  b.timesteps = {0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0};
  double expected = given->accumulate(b, nullptr).loss;
  CHECK_THAT(std::abs(loss - expected) < 1e-6, loss, " and ", expected);
  CHECK(distance(tiny::floats(drawn->unet().store.gradient()),
                 tiny::floats(given->unet().store.gradient())) < 1e-4);
  // Other steps and places have other ones: of 1000, three in turn.
  TrainerOptions some = options(3), one = options(1);
  MicroBatchPreparer three(device, some), single(device, one);
  std::set<float> firsts;
  for (int64_t step = 0; step < 4; ++step) {
    TrainBatch at = batch(device, {});
    at.step = step;
    std::vector<std::set<float>> seen{size_t(kPairs)};
    for (int64_t turn = 0; turn < 3; ++turn) {
      MicroBatch m, alone;
      three.prepare(m, at, turn);
      if (turn == 0) {
        single.prepare(alone, at);
        CHECK(tiny::floats(m.inputs.timestep_values) == tiny::floats(alone.inputs.timestep_values));
        CHECK(tiny::floats(m.inputs.sample) == tiny::floats(alone.inputs.sample));
      }
      for (int64_t i = 0; i < kPairs; ++i) {
        float t = m.inputs.timestep_values.f32()[i];
        CHECK_EQUAL(t, m.inputs.timestep_values.f32()[kPairs + i]);
        seen[size_t(i)].insert(t);
        if (turn == 0) firsts.insert(t);
      }
    }
    for (const std::set<float>& each : seen) CHECK_EQUAL(each.size(), size_t(3));
  }
  CHECK(firsts.size() > 5);
  TrainerOptions many = options(7);
  many.scheduler_config = schedule_of("epsilon", 6);
  CHECK(check::contains(check::message([&] { trainer(device, many); }),
                        "[train] timesteps_per_pair: expected at most the model's 6 timesteps, "
                        "got 7"));
}

TEST("k timesteps in micro-batches, and resumed, give the undisturbed run") {
  Device device = cpu();
  TrainerOptions o = options(3, TimestepWeight::Paper);
  o.objective.safeguard = 0.3;
  auto whole = tiny::trainer(device, o), pieces = tiny::trainer(device, o);
  // Of the first step the model is its opponent; the second has all to tell.
  for (int64_t k = 0; k < 2; ++k) {
    double loss = whole->accumulate(tiny::batch(device, o, k, 0, 4, 4), nullptr).loss;
    double sum = pieces->accumulate(tiny::batch(device, o, k, 0, 3, 4), nullptr).loss +
                 pieces->accumulate(tiny::batch(device, o, k, 3, 1, 4), nullptr).loss;
    CHECK_THAT(std::abs(loss - sum) < 1e-4, loss, " and ", sum);
    CHECK(distance(tiny::floats(pieces->unet().store.gradient()),
                   tiny::floats(whole->unet().store.gradient())) < 1e-3);
    whole->apply(k);
    pieces->apply(k);
  }
  auto step = [&](Trainer& t, int64_t k) {
    t.accumulate(tiny::batch(device, o, k, 0, 2, 2), nullptr);
    t.apply(k);
  };
  auto stopped = tiny::trainer(device, o), resumed = tiny::trainer(device, o);
  TemporaryFile state;
  step(*stopped, 0);
  stopped->save_state(state.path, {});
  step(*stopped, 1);
  resumed->load_state(state.path);
  step(*resumed, 1);
  CHECK(tiny::floats(stopped->unet().store.master()) ==
        tiny::floats(resumed->unet().store.master()));
}

TEST("the safeguard over k timesteps is that of all their gradients together") {
  Device device = cpu();
  TrainerOptions o = options(2, TimestepWeight::MinSnr);
  const double mu = 0.6;
  o.objective.safeguard = mu;
  auto t = trainer(device, o);
  TrainBatch b = batch(device, {40, 500, 700, 120});
  // Images that are nearly alike, so that there is something to guard.
  for (int64_t i = 0; i < b.real.numel(); ++i)
    b.generated.f32()[i] = b.real.f32()[i] + 0.05F * b.generated.f32()[i];
  TrainBatchResult result = t->accumulate(b, nullptr);
  NoiseSchedule schedule = NoiseSchedule::parse(o.scheduler_config);
  std::vector<double> weights = timestep_weights(schedule, o.objective.timestep_weight);
  double expected = 0;
  for (int64_t i = 0; i < kPairs; ++i) {
    double own = 0, both = 0;
    for (int64_t turn = 0; turn < 2; ++turn) {
      int64_t at = b.timesteps[size_t(2 * i + turn)];
      Tensor noisy = device.empty({1, 4, 8, 8}, DType::F32),
             text = b.text.slice(i * 60, {1, 5, 12});
      auto difference = [&](const Tensor& x) {
        schedule.add_noise(noisy.f32(), x.f32() + i * kSize, b.noise.f32() + i * kSize, kSize, at);
        std::vector<float> d = tiny::floats(unet_forward(t->unet(), noisy, {float(at)}, text));
        // d loss / d prediction has the weight of its timestep, once.
        for (int64_t k = 0; k < kSize; ++k)
          d[size_t(k)] = float(weights[size_t(at)]) * (d[size_t(k)] - b.noise.f32()[i * kSize + k]);
        return d;
      };
      std::vector<float> real = difference(b.real), generated = difference(b.generated);
      for (size_t k = 0; k < real.size(); ++k) {
        own += double(real[k]) * double(real[k]);
        both += double(real[k]) * double(generated[k]);
      }
    }
    expected += (both > 0 ? std::clamp((1 - mu) * own / both, 0.0, 1.0) : 1) / double(kPairs);
  }
  CHECK(expected < 0.9);
  CHECK_THAT(std::abs(result.loser_scale - expected) < 1e-4, result.loser_scale, " and ", expected);
}

TEST("adapters are trained on k timesteps as whole weights are") {
  Device device = cpu();
  tiny::BaseFiles base(device);
  TrainerOptions o = options(3, TimestepWeight::Paper), one = options(1, TimestepWeight::Paper);
  for (TrainerOptions* each : {&o, &one})
    each->lora = {.rank = 3, .alpha = 6, .targets = {"to_q", "to_k", "to_v", "to_out.0"}};
  auto run = [&](const TrainerOptions& with, double& loss) {
    Trainer t(device, base.source(), nullptr, with);
    for (int64_t k = 0; k < 3; ++k) {
      loss = t.accumulate(tiny::batch(device, with, k, 0, 2, 2), nullptr).loss;
      t.apply(k);
    }
    return tiny::floats(t.trained().master());
  };
  double loss = 0, again = 0, other = 0;
  std::vector<float> first = run(o, loss);
  CHECK(loss != std::log(2.0) && std::isfinite(loss));
  CHECK(first == run(o, again));
  CHECK(first != run(one, other));
}

TEST("k timesteps take the memory of one") {
  Device device = cpu();
  auto peak = [&](int64_t turns) {
    TrainerOptions o = options(turns);
    auto t = tiny::trainer(device, o);
    device.pool().reset_peak();
    t->accumulate(tiny::batch(device, o, 0, 0, 4, 4), nullptr);
    return double(device.pool().stats().peak_bytes);
  };
  double one = peak(1), five = peak(5);
  CHECK_THAT(five < 1.02 * one, five, " and ", one);
}

TEST("ranks share out pairs of k timesteps as one process has them") {
  using namespace rank_training;
  auto changed = [](Plan plan) {
    plan.timesteps_per_pair = 3;
    plan.steps = 3;
    return plan;
  };
  Result whole = together(run(changed({.ranks = 1})), 3);
  for (auto [world, micro] : std::vector<std::pair<int, int>>{{2, 1}, {2, 2}}) {
    Result got = together(run(changed({.ranks = world, .micro_batches = micro})), 3);
    CHECK(largest_difference(got.losses, whole.losses) < 1e-4);
    CHECK(largest_difference(got.norms, whole.norms) < 1e-3);
    CHECK(largest_difference(got.weights, whole.weights) < 1e-3);
  }
  CHECK(largest_difference(together(run({.ranks = 1, .steps = 3}), 3).losses, whole.losses) > 1e-3);
}

TEST("what is not finite in any turn stops the step and leaves the weights as they were") {
  Device device = cpu();
  TrainerOptions o = options(3);
  auto t = tiny::trainer(device, o);
  std::vector<float> before = tiny::floats(t->unet().store.master());
  TrainBatch broken = tiny::batch(device, o, 0, 0, 2, 2);
  broken.generated.f32()[5] = NAN;
  CHECK_THROWS(t->accumulate(broken, nullptr), Code::Diverged);
  CHECK_THROWS(t->apply(0), Code::InvalidArgument);
  CHECK(tiny::floats(t->unet().store.master()) == before);
  TrainerOptions sft = options(3);
  sft.objective.objective = Objective::Sft;
  CHECK_THROWS(tiny::trainer(device, sft), Code::InvalidArgument);
  sft = options(1, TimestepWeight::Paper);
  sft.objective.objective = Objective::Sft;
  CHECK_THROWS(tiny::trainer(device, sft), Code::InvalidArgument);
}
