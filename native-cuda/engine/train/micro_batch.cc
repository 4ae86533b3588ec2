#include "train/micro_batch.h"

#include <map>

#include "train/timestep_weight.h"

namespace spindle {

namespace {

// Images of a pair: with an opponent, the real one and the generated one.
int64_t sides_of(const TrainBatch& given) { return given.generated ? 2 : 1; }

Shape with_rows(const Shape& shape, int64_t rows) {
  std::vector<int64_t> dims = shape.dims();
  dims[0] = rows;
  return Shape(dims);
}

}  // namespace

bool MicroBatch::fits(const TrainBatch& given) const {
  const Tensor &noisy = intermediate.noisy, &text = intermediate.text;
  return noisy && text && noisy.dim(0) == sides_of(given) * given.real.dim(0) &&
         noisy.dim(2) == given.real.dim(2) && noisy.dim(3) == given.real.dim(3) &&
         text.dim(1) == given.text.dim(1);
}

MicroBatchPreparer::MicroBatchPreparer(Device& device, const TrainerOptions& options)
    : device_(device),
      schedule_(NoiseSchedule::parse(options.scheduler_config)),
      philox_(options.seed, uint32_t(options.iteration)),
      compute_(options.compute),
      beta_(options.objective.beta),
      min_snr_gamma_(options.min_snr_gamma),
      turns_(options.objective.timesteps_per_pair),
      timestep_weights_(timestep_weights(schedule_, options.objective.timestep_weight)) {
  require(turns_ <= schedule_.num_train_timesteps,
          "[train] timesteps_per_pair: expected at most the model's ",
          schedule_.num_train_timesteps, " timesteps, got ", turns_);
}

Tensor& MicroBatchPreparer::reuse(Tensor& t, const Shape& shape, DType dtype) const {
  if (!t || !(t.shape() == shape) || t.dtype() != dtype) t = device_.empty(shape, dtype);
  return t;
}

void MicroBatchPreparer::prepare(MicroBatch& batch, const TrainBatch& given, int64_t turn) const {
  batch.turn = turn;
  batch.step = given.step;
  batch.pairs = given.real.dim(0);
  batch.step_batch_size = given.step_batch_size;
  batch.last = given.last;
  batch.beta = given.beta > 0 ? given.beta : beta_;
  Draws draws = draw(given, turn);
  batch.image_weights = std::move(draws.image_weights);
  device_.upload(reuse(batch.intermediate.coefficients, {batch.pairs, 4}),
                 draws.coefficients.data());
  add_noise(batch, given);
  to_model_layout(batch);
  condition(batch, given);
  device_.upload(reuse(batch.inputs.timestep_values, {int64_t(draws.timesteps.size())}),
                 draws.timesteps.data());
  double settings[] = {batch.beta, 1 / double(batch.step_batch_size)};
  device_.upload(reuse(batch.loss_settings, {2}, DType::F64), settings);
  if (given.generated && !batch.image_weights.empty())
    device_.upload(reuse(batch.pair_factors, {batch.pairs}, DType::F64),
                   batch.image_weights.data());
  make_room(batch);
}

// Without replacement, by the shuffle of Fisher and Yates as far as this turn: what it swapped is
// kept alone. The first turn's is what a pair with one timestep has.
int64_t MicroBatchPreparer::timestep_of(const TrainBatch& given, int64_t pair, int64_t turn) const {
  if (!given.timesteps.empty()) return given.timesteps[size_t(pair * turns_ + turn)];
  std::map<int64_t, int64_t> moved;
  auto at = [&](int64_t i) {
    auto found = moved.find(i);
    return found == moved.end() ? i : found->second;
  };
  for (int64_t i = 0;; ++i) {
    uint32_t left = uint32_t(schedule_.num_train_timesteps - i);
    int64_t chosen =
        i + int64_t(philox_.integer(uint32_t(given.step), uint32_t(given.offset + pair),
                                    Draw::Timestep, left, uint32_t(i)));
    int64_t timestep = at(chosen);
    if (i == turn) return timestep;
    moved[chosen] = at(i);
  }
}

double MicroBatchPreparer::weight_of(int64_t timestep) const {
  if (min_snr_gamma_ > 0)
    return min_snr_weight(double(schedule_.alphas_cumprod[size_t(timestep)]), min_snr_gamma_,
                          predicts(schedule_));
  double weight = timestep_weights_.empty() ? 1 : timestep_weights_[size_t(timestep)];
  return weight / double(turns_);
}

MicroBatchPreparer::Draws MicroBatchPreparer::draw(const TrainBatch& given, int64_t turn) const {
  int64_t pairs = given.real.dim(0), sides = sides_of(given);
  bool weighed = min_snr_gamma_ > 0 || turns_ > 1 || !timestep_weights_.empty();
  Draws draws;
  draws.timesteps.resize(size_t(sides * pairs));
  for (int64_t i = 0; i < pairs; ++i) {
    int64_t timestep = timestep_of(given, i, turn);
    if (weighed) draws.image_weights.push_back(weight_of(timestep));
    std::array<float, 4> c = schedule_.coefficients(timestep);
    draws.coefficients.insert(draws.coefficients.end(), c.begin(), c.end());
    for (int64_t side = 0; side < sides; ++side)
      draws.timesteps[size_t(side * pairs + i)] = float(timestep);
  }
  return draws;
}

// Both images of a pair have the noise and the timestep in common, and all its turns the noise.
void MicroBatchPreparer::add_noise(MicroBatch& batch, const TrainBatch& given) const {
  MicroBatch::Intermediate& on_the_way = batch.intermediate;
  Tensor noise = given.noise;
  if (!noise) {
    double places[] = {double(given.step), double(given.offset)};
    device_.upload(reuse(on_the_way.places, {2}, DType::F64), places);
    noise = reuse(on_the_way.noise, given.real.shape());
    device_.step_kernels().run(NormalNoise{
        .noise = noise, .philox = philox_, .draw = Draw::Noise, .places = on_the_way.places});
  }
  int64_t sides = sides_of(given);
  Shape images = with_rows(given.real.shape(), sides * batch.pairs);
  reuse(on_the_way.noisy, images);
  reuse(on_the_way.clean_target, images);
  for (int64_t side = 0; side < sides; ++side) {
    int64_t first = side * given.real.numel();
    device_.step_kernels().run(
        Diffuse{.noisy = on_the_way.noisy.slice(first, given.real.shape()),
                .target = on_the_way.clean_target.slice(first, given.real.shape()),
                .x = side == 0 ? given.real : given.generated,
                .noise = noise,
                .coefficients = on_the_way.coefficients});
  }
}

void MicroBatchPreparer::to_model_layout(MicroBatch& batch) const {
  const Tensor &noisy = batch.intermediate.noisy, &target = batch.intermediate.clean_target;
  Shape nhwc{noisy.dim(0), noisy.dim(2), noisy.dim(3), noisy.dim(1)};
  device_.kernels().run(NchwToNhwc{.y = reuse(batch.inputs.sample, nhwc, compute_), .x = noisy});
  device_.kernels().run(NchwToNhwc{.y = reuse(batch.target, nhwc), .x = target});
}

void MicroBatchPreparer::condition(MicroBatch& batch, const TrainBatch& given) const {
  repeat(batch.inputs.text, batch.intermediate.text, given.text, sides_of(given));
  if (!given.pooled) return;
  repeat(batch.inputs.text_embeds, batch.intermediate.pooled, given.pooled, sides_of(given));
  std::vector<float> ids;
  for (int64_t side = 0; side < sides_of(given); ++side)
    ids.insert(ids.end(), given.time_ids.begin(), given.time_ids.end());
  device_.upload(reuse(batch.inputs.time_id_values, {int64_t(ids.size())}), ids.data());
}

void MicroBatchPreparer::repeat(Tensor& out, Tensor& wide, const Tensor& x, int64_t sides) const {
  reuse(wide, with_rows(x.shape(), sides * x.dim(0)));
  for (int64_t side = 0; side < sides; ++side)
    device_.memory().copy(wide.slice(side * x.numel(), x.shape()), x);
  if (compute_ == DType::F32)
    out = wide;
  else
    device_.kernels().run(Cast{.y = reuse(out, wide.shape(), compute_), .x = wide});
}

void MicroBatchPreparer::make_room(MicroBatch& batch) const {
  int64_t images = batch.target.dim(0);
  reuse(batch.errors, {images}, DType::F64);
  if (images > batch.pairs) reuse(batch.opponent_errors, {images}, DType::F64);
  reuse(batch.loss, {1}, DType::F64);
  reuse(batch.weights, {images});
}

}  // namespace spindle
