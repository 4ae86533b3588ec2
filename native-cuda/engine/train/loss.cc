#include "train/loss.h"

#include <tuple>
#include <utility>

#include "models/layout.h"

namespace spindle {

namespace {

std::pair<std::vector<double>, std::vector<double>> read_sides(Device& device,
                                                               const Tensor& errors,
                                                               int64_t pairs) {
  std::vector<double> all = device.download<double>(errors);
  return {{all.begin(), all.begin() + pairs}, {all.begin() + pairs, all.end()}};
}

Errors read_errors(Device& device, const MicroBatch& batch) {
  Errors e;
  std::tie(e.real, e.generated) = read_sides(device, batch.errors, batch.pairs);
  if (batch.plays())
    std::tie(e.opponent_real, e.opponent_generated) =
        read_sides(device, batch.opponent_errors, batch.pairs);
  return e;
}

class DeviceLoss : public Loss {
 public:
  DeviceLoss(Device& device, PairLoss kind) : device_(device), kind_(kind) {}

  bool on_device() const override { return true; }

  void weigh(const MicroBatch& batch, const Tensor&) override {
    device_.step_kernels().run(PairLossWeights{.weights = batch.weights,
                                               .loss = batch.loss,
                                               .errors = batch.errors,
                                               .opponent_errors = batch.opponent_errors,
                                               .settings = batch.loss_settings,
                                               .factors = batch.pair_factors,
                                               .kind = kind_});
  }

  void measure(const MicroBatch&, const Tensor&) override { one_turn(); }
  void weigh_again(const MicroBatch&) override { one_turn(); }

  TrainBatchResult result(const MicroBatch& batch) override {
    TrainBatchResult result;
    result.errors = read_errors(device_, batch);
    if (batch.plays()) weigh_errors(result.errors, batch.image_weights);
    result.loss = device_.download<double>(batch.loss)[0];
    result.loser_scale = batch.full_loser_scale();
    expect_finite(batch.step, "loss", result.loss);
    return result;
  }

 private:
  [[noreturn]] static void one_turn() {
    throw Error(Code::Internal,
                "[train] loss: expected one timestep per pair on the device, got several");
  }

  Device& device_;
  PairLoss kind_;
};

class HostLoss : public Loss {
 public:
  HostLoss(Device& device, const ObjectiveOptions& objective)
      : device_(device), objective_(objective) {}

  bool on_device() const override { return false; }

  void measure(const MicroBatch& batch, const Tensor& prediction) override {
    Errors errors = read_errors(device_, batch);
    if (objective_.safeguard) errors.overlap = overlap(prediction, batch.target, errors);
    if (!batch.plays())
      errors.weight = batch.image_weights;
    else if (!batch.image_weights.empty())
      weigh_overlap(errors, batch.image_weights);
    if (batch.plays()) weigh_errors(errors, batch.image_weights);
    if (batch.turn == 0)
      errors_ = std::move(errors);
    else
      add_errors(errors_, errors);
  }

  void weigh(const MicroBatch& batch, const Tensor& prediction) override {
    measure(batch, prediction);
    ObjectiveOptions objective = objective_;
    objective.beta = batch.beta;
    terms_ = loss_terms(objective, errors_, 1 / double(batch.step_batch_size));
    expect_finite(batch.step, "loss", terms_.loss);
    weigh_again(batch);
    result_ = {
        .loss = terms_.loss, .loser_scale = terms_.loser_scale, .errors = std::move(errors_)};
  }

  void weigh_again(const MicroBatch& batch) override {
    std::vector<float> weights = terms_.weight_real;
    weights.insert(weights.end(), terms_.weight_generated.begin(), terms_.weight_generated.end());
    if (batch.plays() && !batch.image_weights.empty())
      for (size_t i = 0; i < weights.size(); ++i)
        weights[i] = float(double(weights[i]) * batch.image_weights[i % size_t(batch.pairs)]);
    device_.upload(batch.weights, weights.data());
  }

  TrainBatchResult result(const MicroBatch&) override { return std::move(result_); }

 private:
  std::vector<double> overlap(const Tensor& prediction,
                              const Tensor& target,
                              const Errors& errors) const;

  // Gradients of a turn have its weight once each, so their products have it twice.
  static void weigh_overlap(Errors& errors, const std::vector<double>& weights) {
    if (errors.overlap.empty()) return;
    errors.overlap_real = errors.real;
    for (size_t i = 0; i < weights.size(); ++i) {
      errors.overlap[i] *= weights[i] * weights[i];
      errors.overlap_real[i] *= weights[i] * weights[i];
    }
  }

  Device& device_;
  ObjectiveOptions objective_;
  Errors errors_;  // of the pairs, as far as their turns are measured
  LossTerms terms_;
  TrainBatchResult result_;
};

// a . b = (|a|^2 + |b|^2 - |a - b|^2) / 2, per pair and as a mean over the elements.
std::vector<double> HostLoss::overlap(const Tensor& prediction,
                                      const Tensor& target,
                                      const Errors& e) const {
  int64_t images = prediction.dim(0), pairs = images / 2, size = prediction.numel() / images;
  // With these weights the gradient is the difference to the target itself.
  Tensor difference = device_.empty(prediction.shape(), prediction.dtype());
  device_.kernels().run(MseBackward{
      .dprediction = difference,
      .prediction = prediction,
      .target = target,
      .weights =
          from_floats(device_, std::vector<float>(size_t(images), 0.5F * float(size)), {images})});
  std::vector<int64_t> dims = prediction.shape().dims();
  dims[0] = pairs;
  Tensor e_apart = device_.empty({pairs}, DType::F64);
  device_.kernels().run(MsePerImage{.errors = e_apart,
                                    .prediction = difference.slice(0, Shape(dims)),
                                    .target = difference.slice(pairs * size, Shape(dims))});
  std::vector<double> apart = device_.download<double>(e_apart);
  for (size_t i = 0; i < apart.size(); ++i)
    apart[i] = 0.5 * (e.real[i] + e.generated[i] - apart[i]);
  return apart;
}

}  // namespace

std::unique_ptr<Loss> make_loss(Device& device, const ObjectiveOptions& objective, bool weighed) {
  std::optional<PairLoss> kernel =
      device.host_visible() ? std::nullopt : pair_loss_of(objective, weighed);
  if (kernel) return std::make_unique<DeviceLoss>(device, *kernel);
  return std::make_unique<HostLoss>(device, objective);
}

}  // namespace spindle
