// The trainer beyond what the golden fixtures hold.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>

#include "check.h"
#include "isas.h"
#include "io/safetensors.h"
#include "models/inference.h"
#include "temporary.h"
#include "tiny_models.h"
#include "tiny_training.h"
#include "train/trainer.h"

using namespace spindle;
using tiny::batch;
using tiny::distance;
using tiny::trainer;

namespace {

TrainerOptions options(Objective objective) {
  TrainerOptions o;
  o.objective.objective = objective;
  o.scheduler_config = tiny::kDdim;
  o.learning_rate = {
      .base = 1e-3, .kind = ScheduleKind::Linear, .warmup_steps = 2, .total_steps = 8};
  o.ema_decay = 0.9;
  o.seed = 11;
  return o;
}

std::vector<float> weights(Trainer& t) { return tiny::floats(t.unet().store.master()); }

Device cpu() { return Device({.backend = "cpu", .threads = 2, .isa = "auto"}); }

}  // namespace

TEST("micro-batches add up to the whole batch") {
  Device device = cpu();
  for (Objective objective : {Objective::SpinLogistic, Objective::Sft}) {
    TrainerOptions o = options(objective);
    auto whole = trainer(device, o), pieces = trainer(device, o);
    double loss = whole->accumulate(batch(device, o, 0, 0, 4, 4), nullptr).loss;
    double sum = pieces->accumulate(batch(device, o, 0, 0, 3, 4), nullptr).loss +
                 pieces->accumulate(batch(device, o, 0, 3, 1, 4), nullptr).loss;
    CHECK_THAT(std::abs(loss - sum) < 1e-6, loss, " and ", sum);
    CHECK(distance(tiny::floats(pieces->unet().store.gradient()),
                   tiny::floats(whole->unet().store.gradient())) < 1e-5);
    double norm = whole->apply(0).grad_norm, norm_of_pieces = pieces->apply(0).grad_norm;
    CHECK(std::abs(norm - norm_of_pieces) < 1e-5 * norm);
  }
}

// Where pairs saturate, the loss has next to no slope. A small beta scales gradients down alike, so
// that some of them lie below what float32 holds in full.
TEST("a step on saturated pairs leaves no subnormal gradients") {
  for (const std::string& isa : available_isas()) {
    Device device({.backend = "cpu", .threads = 2, .isa = isa});
    auto gradient = [&](double beta) {
      TrainerOptions o = options(Objective::SpinLogistic);
      o.objective.beta = beta;
      auto t = trainer(device, o);
      t->accumulate(batch(device, o, 0, 0, 4, 4), nullptr);
      return tiny::floats(t->unet().store.gradient());
    };
    const double small = 1e-32;
    std::vector<float> large = gradient(1), g = gradient(small);
    int64_t expected = 0, subnormal = 0, normal = 0;
    for (size_t i = 0; i < g.size(); ++i) {
      expected += large[i] != 0 && std::abs(double(large[i])) * small < 0x1p-126;
      subnormal += std::fpclassify(g[i]) == FP_SUBNORMAL;
      normal += std::fpclassify(g[i]) == FP_NORMAL;
    }
    CHECK_EQUAL(subnormal, 0);
    CHECK_THAT(expected > 100 && normal > 100, isa, ": ", expected, ", ", normal);
  }
}

TEST("training resumed from a saved state is bit for bit the undisturbed one") {
  Device device = cpu();
  for (DType compute : {DType::F32, DType::BF16}) {
    TrainerOptions o = options(Objective::SpinLogistic);
    o.compute = compute;
    auto undisturbed = trainer(device, o), stopped = trainer(device, o),
         resumed = trainer(device, o);
    auto step = [&](Trainer& t, int64_t k) {
      t.accumulate(batch(device, o, k, 0, 2, 2), nullptr);
      t.apply(k);
    };
    TemporaryFile state, expected, got;
    for (int64_t k = 0; k < 4; ++k) step(*undisturbed, k);
    for (int64_t k = 0; k < 2; ++k) step(*stopped, k);
    stopped->save_state(state.path, {{"step", "2"}});
    CHECK_EQUAL(resumed->load_state(state.path).at("step"), std::string("2"));
    for (int64_t k = 2; k < 4; ++k) step(*resumed, k);
    CHECK(weights(*resumed) == weights(*undisturbed));
    undisturbed->export_weights(expected.path, true);
    resumed->export_weights(got.path, true);
    SafetensorsFile a(expected.path), b(got.path);
    CHECK_EQUAL(a.tensors().size(), b.tensors().size());
    for (const FileTensor& t : a.tensors())
      CHECK_THAT(a.floats(t.name) == b.floats(t.name), t.name);
    CHECK(a.at("down_blocks.0.attentions.0.proj_in.weight").shape ==
          (std::vector<int64_t>{8, 8, 1, 1}));
    CHECK(a.at("conv_in.weight").shape == (std::vector<int64_t>{8, 4, 3, 3}));
  }
}

TEST("a loss that is not finite stops the step and leaves the weights as they were") {
  Device device = cpu();
  for (Objective objective : {Objective::SpinLogistic, Objective::SpinHinge, Objective::Sft}) {
    TrainerOptions o = options(objective);
    auto t = trainer(device, o);
    std::vector<float> before = weights(*t);
    TrainBatch broken = batch(device, o, 0, 0, 2, 2);
    broken.real.f32()[5] = std::numeric_limits<float>::quiet_NaN();
    CHECK_THROWS(t->accumulate(broken, nullptr), Code::Diverged);
    CHECK_THROWS(t->apply(0), Code::InvalidArgument);
    CHECK(weights(*t) == before);
    t->accumulate(batch(device, o, 0, 0, 2, 2), nullptr);
    t->apply(0);
    CHECK(weights(*t) != before);
  }
}

TEST("a gradient norm that is not finite changes nothing") {
  Device device = cpu();
  TrainerOptions o = options(Objective::Sft);
  auto t = trainer(device, o);
  std::vector<float> before = weights(*t);
  t->accumulate(batch(device, o, 0, 0, 2, 2), nullptr);
  t->unet().store.gradient().f32()[0] = std::numeric_limits<float>::infinity();
  CHECK_THROWS(t->apply(0), Code::Diverged);
  CHECK(weights(*t) == before);
}

TEST("a cancelled micro-batch drops the step's gradients") {
  Device device = cpu();
  TrainerOptions o = options(Objective::Sft);
  auto t = trainer(device, o), other = trainer(device, o);
  t->accumulate(batch(device, o, 0, 0, 2, 4), nullptr);
  CancelToken token;
  token.cancel();
  CHECK_THROWS(t->accumulate(batch(device, o, 0, 2, 2, 4), &token), Code::Cancelled);
  for (Trainer* each : {t.get(), other.get()}) {
    each->accumulate(batch(device, o, 0, 0, 4, 4), nullptr);
    each->apply(0);
  }
  CHECK(weights(*t) == weights(*other));
}

TEST("batches that do not fit are refused") {
  Device device = cpu();
  TrainerOptions o = options(Objective::SpinLogistic);
  auto t = trainer(device, o);
  TrainBatch b = batch(device, o, 0, 0, 2, 2);
  b.generated = Tensor();
  CHECK_THROWS(t->accumulate(b, nullptr), Code::InvalidArgument);
  b = batch(device, o, 0, 0, 2, 2);
  b.step_batch_size = 1;
  CHECK_THROWS(t->accumulate(b, nullptr), Code::InvalidArgument);
  t->accumulate(batch(device, o, 0, 0, 1, 2), nullptr);
  CHECK_THROWS(t->accumulate(batch(device, o, 1, 1, 1, 2), nullptr), Code::InvalidArgument);
  CHECK_THROWS(t->apply(1), Code::InvalidArgument);
}

TEST("learning rates warm up and decay") {
  LearningRate linear{
      .base = 1, .kind = ScheduleKind::Linear, .warmup_steps = 10, .total_steps = 100};
  CHECK(std::abs(linear.at(0) - 0.1) < 1e-12);
  CHECK(std::abs(linear.at(9) - 1) < 1e-12);
  CHECK(std::abs(linear.at(99) - 1.0 / 90) < 1e-12);
  CHECK_EQUAL(linear.at(100), 0.0);
  LearningRate cosine{
      .base = 2, .kind = ScheduleKind::Cosine, .warmup_steps = 0, .total_steps = 100};
  CHECK_EQUAL(cosine.at(0), 2.0);
  CHECK(std::abs(cosine.at(50) - 1) < 1e-12);
  LearningRate constant{
      .base = 3, .kind = ScheduleKind::Constant, .warmup_steps = 4, .total_steps = 100};
  CHECK_EQUAL(constant.at(1), 1.5);
  CHECK_EQUAL(constant.at(90), 3.0);
}

namespace {

// The objectives once more, in double and as the papers write them, on whole predictions: a pair's
// four differences to the targets.
struct Pair {
  std::vector<double> real, generated, opponent_real, opponent_generated;
};

double mean_square(const std::vector<double>& x) {
  double sum = 0;
  for (double v : x) sum += v * v;
  return sum / double(x.size());
}

double paper_loss(Objective objective, double beta, const Pair& p) {
  // log-ratio of the winner over the loser, model against opponent
  double h = 0.5 * ((mean_square(p.opponent_real) - mean_square(p.real)) -
                    (mean_square(p.opponent_generated) - mean_square(p.generated)));
  switch (objective) {
    case Objective::SpinLogistic:
      return -std::log(1 / (1 + std::exp(-beta * h)));
    case Objective::SpinHinge:
      return std::max(0.0, 1 - beta * h);
    case Objective::SpinIpo:
      return beta * beta * std::pow(h - 1 / (2 * beta), 2);
    case Objective::Sft:
      return mean_square(p.real);
  }
  return 0;
}

std::vector<Pair> some_pairs(size_t size) {
  std::vector<Pair> pairs(3);
  uint32_t number = 0;
  for (Pair& p : pairs)
    for (std::vector<double>* values :
         {&p.real, &p.generated, &p.opponent_real, &p.opponent_generated}) {
      std::vector<float> drawn(size);
      Philox(5, 0).normal(drawn.data(), int64_t(size), ++number, 0, Draw::Test);
      values->assign(drawn.begin(), drawn.end());
    }
  // One pair whose sides point the same way, so that the safeguard has something to do.
  for (size_t i = 0; i < size; ++i)
    pairs[0].generated[i] = 1.5 * pairs[0].real[i] + 0.1 * pairs[0].generated[i];
  return pairs;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

Errors errors_of(const std::vector<Pair>& pairs) {
  Errors e;
  for (const Pair& p : pairs) {
    e.real.push_back(mean_square(p.real));
    e.generated.push_back(mean_square(p.generated));
    e.opponent_real.push_back(mean_square(p.opponent_real));
    e.opponent_generated.push_back(mean_square(p.opponent_generated));
    e.overlap.push_back(dot(p.real, p.generated) / double(p.real.size()));
  }
  return e;
}

}  // namespace

TEST("losses and gradients of the objectives are those of the papers' formulas") {
  const size_t size = 6;
  const double h = 1e-6, scale = 0.25;
  for (Objective objective :
       {Objective::SpinLogistic, Objective::SpinHinge, Objective::SpinIpo, Objective::Sft})
    for (double beta : {0.7, 3.0}) {
      std::vector<Pair> pairs = some_pairs(size);
      LossTerms terms = loss_terms({.objective = objective, .beta = beta}, errors_of(pairs), scale);
      double loss = 0;
      for (const Pair& p : pairs) loss += scale * paper_loss(objective, beta, p);
      CHECK_THAT(std::abs(terms.loss - loss) < 1e-9, terms.loss, " and ", loss);
      for (size_t i = 0; i < pairs.size(); ++i)
        for (size_t k = 0; k < size; ++k)
          for (bool real : {true, false}) {
            if (!real && objective == Objective::Sft) continue;
            double& x = real ? pairs[i].real[k] : pairs[i].generated[k];
            double x0 = x;
            x = x0 + h;
            double up = paper_loss(objective, beta, pairs[i]);
            x = x0 - h;
            double down = paper_loss(objective, beta, pairs[i]);
            x = x0;
            double expected = scale * (up - down) / (2 * h);
            double got = double(real ? terms.weight_real[i] : terms.weight_generated[i]) * 2 /
                         double(size) * x0;
            CHECK_THAT(std::abs(got - expected) < 1e-6 * (1 + std::abs(expected)), got, " and ",
                       expected);
          }
    }
}

TEST("the safeguard keeps the winner's error from rising, to first order, and no more than that") {
  const double beta = 1;
  std::vector<Pair> pairs = some_pairs(16);
  for (double mu : {0.0, 0.4, 1.0}) {
    LossTerms with = loss_terms(
        {.objective = Objective::SpinLogistic, .beta = beta, .safeguard = mu}, errors_of(pairs), 1);
    LossTerms without =
        loss_terms({.objective = Objective::SpinLogistic, .beta = beta}, errors_of(pairs), 1);
    CHECK_EQUAL(with.loss, without.loss);
    double lambdas = 0;
    for (size_t i = 0; i < pairs.size(); ++i) {
      // Gradients of the two errors along predictions, in double.
      const Pair& p = pairs[i];
      double n = double(p.real.size()), aa = 4 / n / n * dot(p.real, p.real),
             ab = 4 / n / n * dot(p.real, p.generated);
      double lambda = ab > 0 ? std::clamp((1 - mu) * aa / ab, 0.0, 1.0) : 1;
      lambdas += lambda;
      CHECK(with.weight_real[i] == without.weight_real[i]);
      CHECK_THAT(std::abs(double(with.weight_generated[i]) -
                          lambda * double(without.weight_generated[i])) < 1e-6,
                 with.weight_generated[i], " and ", lambda, " of ", without.weight_generated[i]);
      // Rate of the winner's error along the step: -(w_real a + w_generated b) . a
      double rate = -(double(with.weight_real[i]) * aa + double(with.weight_generated[i]) * ab);
      CHECK_THAT(rate <= -mu * double(with.weight_real[i]) * aa + 1e-7, rate);
    }
    CHECK(std::abs(with.loser_scale - lambdas) < 1e-9);
    CHECK(std::abs(without.loser_scale - 3) < 1e-12);
    // Unguarded, the first pair's winner would get worse.
    double aa = dot(pairs[0].real, pairs[0].real), ab = dot(pairs[0].real, pairs[0].generated);
    CHECK(-(double(without.weight_real[0]) * aa + double(without.weight_generated[0]) * ab) > 0);
  }
}

TEST("a training with the safeguard has the overlap of the model's own predictions") {
  Device device = cpu();
  TrainerOptions o = options(Objective::SpinLogistic);
  o.objective.safeguard = 0.3;
  auto t = trainer(device, o);
  TrainBatch b = batch(device, o, 0, 0, 2, 2);
  b.noise = tiny::random(device, {2, 4, 8, 8}, 9);
  b.timesteps = {40, 700};
  Errors errors = t->accumulate(b, nullptr).errors;
  NoiseSchedule schedule = NoiseSchedule::parse(tiny::kDdim);
  for (int64_t i = 0; i < 2; ++i) {
    std::vector<std::vector<double>> differences;
    for (const Tensor& x : {b.real, b.generated}) {
      Tensor noisy = device.empty({1, 4, 8, 8}, DType::F32),
             text = b.text.slice(i * 60, {1, 5, 12});
      schedule.add_noise(noisy.f32(), x.f32() + i * 256, b.noise.f32() + i * 256, 256,
                         b.timesteps[size_t(i)]);
      Tensor prediction = unet_forward(t->unet(), noisy, {float(b.timesteps[size_t(i)])}, text);
      std::vector<double>& d = differences.emplace_back();
      for (int64_t k = 0; k < 256; ++k)
        d.push_back(double(prediction.f32()[k]) - double(b.noise.f32()[i * 256 + k]));
    }
    double expected = dot(differences[0], differences[1]) / 256;
    CHECK_THAT(std::abs(errors.overlap[size_t(i)] - expected) < 1e-5, errors.overlap[size_t(i)],
               " and ", expected);
  }
}

TEST("min-SNR weighs images as its paper says, for both kinds of prediction") {
  Device device = cpu();
  NoiseSchedule schedule = NoiseSchedule::parse(tiny::kDdim);
  for (const char* predicts : {"epsilon", "v_prediction"}) {
    TrainerOptions plain = options(Objective::Sft);
    std::string config = tiny::kDdim;
    plain.scheduler_config =
        config.substr(0, config.size() - 1) + R"(,"prediction_type":")" + predicts + "\"}";
    TrainerOptions weighed = plain;
    weighed.min_snr_gamma = 5;
    auto a = trainer(device, plain), b = trainer(device, weighed);
    for (int64_t timestep : {0, 300, 999}) {
      TrainBatch one = batch(device, plain, 0, 0, 1, 1);
      one.timesteps = {timestep};
      TrainBatchResult unweighed = a->accumulate(one, nullptr),
                       result = b->accumulate(one, nullptr);
      double alpha = double(schedule.alphas_cumprod[size_t(timestep)]), snr = alpha / (1 - alpha);
      double weight = std::string(predicts) == "epsilon" ? std::min(snr, 5.0) / snr
                                                         : std::min(snr, 5.0) / (snr + 1);
      CHECK_THAT(std::abs(result.loss - weight * unweighed.loss) < 1e-6, result.loss, " and ",
                 weight, " of ", unweighed.loss);
      CHECK_EQUAL(result.errors.real[0], unweighed.errors.real[0]);
      // And so are the gradients, to their rounding.
      std::vector<float> expected = tiny::floats(a->unet().store.gradient());
      for (float& g : expected) g *= float(weight);
      CHECK(distance(tiny::floats(b->unet().store.gradient()), expected) < 1e-4);
      a->apply(0, 1e-12);
      b->apply(0, 1e-12);
    }
  }
  TrainerOptions bad = options(Objective::SpinLogistic);
  bad.min_snr_gamma = 5;
  CHECK_THROWS(trainer(device, bad), Code::InvalidArgument);
}

TEST("a step may have a beta and a share of the learning rate of its own") {
  Device device = cpu();
  TrainerOptions o = options(Objective::SpinLogistic);
  auto configured = trainer(device, o);
  o.objective.beta = 500;
  auto other = trainer(device, o);
  // The opponent is the model itself at first, so that beta shows in the gradient alone.
  TrainBatch b = batch(device, o, 0, 0, 2, 2);
  other->accumulate(b, nullptr);
  b.beta = 500;
  configured->accumulate(b, nullptr);
  CHECK(tiny::floats(configured->unet().store.gradient()) ==
        tiny::floats(other->unet().store.gradient()));
  CHECK_EQUAL(configured->apply(0, 0.5).learning_rate, 0.5 * other->apply(0).learning_rate);
  CHECK(weights(*configured) != weights(*other));
}
