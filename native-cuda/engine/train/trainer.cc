#include "train/trainer.h"

#include <cmath>
#include <cstring>

#include "core/digest.h"
#include "models/layout.h"

namespace spindle {

namespace {

std::unique_ptr<Unet> make_opponent(Device& device, const ModelSource& init, const ModelSource* opponent, const TrainerOptions& options) {
  if (!is_spin(options.objective.objective) || options.lora) return nullptr;
  return load_unet(device, opponent ? *opponent : init, {.compute = options.compute});
}

std::unique_ptr<Unet> make_unet(Device& device, const ModelSource& init, const TrainerOptions& options) {
  if (!options.lora) return load_unet(device, init, {.compute = options.compute, .trainable = true});
  ModelSource base = init;
  base.adapters.clear();
  return load_unet(device, base, {.compute = options.compute, .pass_through = true});
}

// A source's only adapter file, as it is; "" for none.
std::string adapter_of(const ModelSource& source) {
  if (source.adapters.empty()) return "";
  require(source.adapters.size() == 1 && source.adapters[0].scale == 1, source.label, ": expected one adapter with scale 1 to train on, got ", source.adapters.size(), ", the first with scale ", source.adapters[0].scale);
  return source.adapters[0].path;
}

Predicts predicts(PredictionType type) {
  switch (type) {
    case PredictionType::Epsilon: return Predicts::Noise;
    case PredictionType::Velocity: return Predicts::Velocity;
    case PredictionType::Sample: return Predicts::Image;
  }
  return Predicts::Noise;
}

void copy(const Tensor& to, const Tensor& from) { std::memcpy(to.raw(), from.raw(), from.bytes()); }

}  // namespace

// Real images, then generated ones, in one batch.
struct Trainer::Prepared {
  UNetInputs inputs;
  Tensor target;  // (B or 2B, h, w, C) float32
  std::vector<double> weight;  // of each image's error; empty: 1
};

Trainer::Trainer(Device& device, const ModelSource& init, const ModelSource* opponent, const TrainerOptions& options, std::unique_ptr<Collective> ranks)
    : Trainer(make_unet(device, init, options), make_opponent(device, init, opponent, options), options, std::move(ranks)) {
  if (!adapters_) return;
  if (std::string path = adapter_of(init); !path.empty()) adapters_->load(path);
  if (ema_) copy(ema_, trained().master());
  if (!plays()) return;
  const ModelSource& other = opponent ? *opponent : init;
  require(other.weights == init.weights, "[train] opponent: expected the weights that the adapters lie on (", init.label, "), got ", other.label);
  if (std::string path = adapter_of(other); !path.empty()) {
    opponent_adapters_ = std::make_unique<Adapters>(*unet_, *options_.lora, WeightUse::Frozen);
    opponent_adapters_->load(path);
  }
}

Trainer::Trainer(std::unique_ptr<Unet> unet, std::unique_ptr<Unet> opponent, const TrainerOptions& options, std::unique_ptr<Collective> ranks)
    : options_(options), schedule_(NoiseSchedule::parse(options.scheduler_config)), philox_(options.seed, uint32_t(options.iteration)), unet_(std::move(unet)), opponent_(std::move(opponent)), shared_(bool(ranks)), ranks_(std::move(ranks)) {
  require(options.iteration >= 0, "[train] iteration: expected 0 or more, got ", options.iteration);
  require(options.min_snr_gamma >= 0 && (options.min_snr_gamma == 0 || !plays()), "[train] min_snr_gamma: expected 0 or more, and 0 for a spin objective, got ", options.min_snr_gamma);
  if (options.objective.safeguard) require(plays() && *options.objective.safeguard >= 0 && *options.objective.safeguard <= 1, "[train] safeguard: expected a number from 0 to 1 and a spin objective, got ", *options.objective.safeguard);
  require(options.ema_decay >= 0 && options.ema_decay < 1, "[train] ema_decay: expected 0 or more and below 1, got ", options.ema_decay);
  ensure(unet_->store.trainable() == !options.lora && bool(opponent_) == (plays() && !options.lora), "[train] the models do not suit the objective");
  if (options.lora) {
    adapters_ = std::make_unique<Adapters>(*unet_, *options.lora, WeightUse::Trained);
    adapters_->initialise(philox_);
  }
  adamw_.emplace(trained(), options.adamw);
  if (options.ema_decay > 0) {
    ema_ = unet_->device.empty(trained().master().shape(), DType::F32);
    copy(ema_, trained().master());
  }
  if (shared_) buckets_ = std::make_unique<GradientBuckets>(trained(), *ranks_, options.bucket_bytes);
}

void Trainer::check(const TrainBatch& b) const {
  const UNet2DConditionConfig& config = unet_->model.config();
  require(b.step >= 0 && b.offset >= 0, "[train] step and offset: expected 0 or more, got ", b.step, " and ", b.offset);
  require(b.real.rank() == 4 && b.real.numel() > 0 && b.real.dim(1) == config.in_channels, "[train] real: expected (B, ", config.in_channels, ", h, w), got ", b.real.shape());
  int64_t pairs = b.real.dim(0);
  require(b.offset + pairs <= b.step_batch_size, "[train] step_batch_size: expected at least offset ", b.offset, " + ", pairs, ", got ", b.step_batch_size);
  require(bool(b.generated) == plays(), "[train] generated: expected ", plays() ? "images for a spin objective, got none" : "none for sft, got images");
  if (b.generated) require(b.generated.shape() == b.real.shape(), "[train] generated: expected ", b.real.shape(), ", got ", b.generated.shape());
  require(b.text.rank() == 3 && b.text.dim(0) == pairs && b.text.dim(2) == config.cross_attention_dim, "[train] text: expected (", pairs, ", T, ", config.cross_attention_dim, "), got ", b.text.shape());
  require(b.beta >= 0, "[train] beta: expected 0 or more, got ", b.beta);
  require(bool(b.pooled) == config.text_time() && b.time_ids.empty() != config.text_time(), "[train] pooled and time_ids: expected ", config.text_time() ? "both with this model's text_time embedding" : "none with this model");
  if (b.pooled) require(b.pooled.rank() == 2 && b.pooled.dim(0) == pairs && b.time_ids.size() % size_t(pairs) == 0, "[train] pooled and time_ids: expected ", pairs, " rows, got ", b.pooled.shape(), " and ", b.time_ids.size(), " numbers");
  if (b.noise) require(b.noise.shape() == b.real.shape(), "[train] noise: expected ", b.real.shape(), ", got ", b.noise.shape());
  require(b.timesteps.empty() || int64_t(b.timesteps.size()) == pairs, "[train] timesteps: expected ", pairs, ", got ", b.timesteps.size());
  for (int64_t t : b.timesteps) require(t >= 0 && t < schedule_.num_train_timesteps, "[train] timesteps: expected values below ", schedule_.num_train_timesteps, ", got ", t);
  if (gathering_) require(*gathering_ == b.step, "[train] step: expected a micro-batch of step ", *gathering_, " or its apply, got step ", b.step);
  require(!shared_ || !gathering_ || !complete_, "[train] last: expected no micro-batch of step ", b.step, " after this rank's last one");
}

Trainer::Prepared Trainer::prepare(const TrainBatch& b) const {
  Device& device = unet_->device;
  int64_t pairs = b.real.dim(0), size = b.real.numel() / pairs, sides = b.generated ? 2 : 1;
  std::vector<int64_t> dims = b.real.shape().dims();
  dims[0] = sides * pairs;
  Tensor noisy = device.empty(Shape(dims), DType::F32), target = device.empty(Shape(dims), DType::F32);
  Prepared prepared;
  std::vector<float> drawn(static_cast<size_t>(size));
  prepared.inputs.timesteps.resize(size_t(sides * pairs));
  for (int64_t i = 0; i < pairs; ++i) {
    uint32_t position = uint32_t(b.offset + i);
    int64_t timestep = b.timesteps.empty() ? int64_t(philox_.integer(uint32_t(b.step), position, Draw::Timestep, uint32_t(schedule_.num_train_timesteps))) : b.timesteps[size_t(i)];
    const float* noise = b.noise ? b.noise.f32() + i * size : drawn.data();
    if (options_.min_snr_gamma > 0) prepared.weight.push_back(min_snr_weight(double(schedule_.alphas_cumprod[size_t(timestep)]), options_.min_snr_gamma, predicts(schedule_.prediction_type)));
    if (!b.noise) philox_.normal(drawn.data(), size, uint32_t(b.step), position, Draw::Noise);
    for (int64_t side = 0; side < sides; ++side) {  // both sides share noise and timestep
      int64_t row = side * pairs + i;
      const float* x = (side == 0 ? b.real : b.generated).f32() + i * size;
      schedule_.add_noise(noisy.f32() + row * size, x, noise, size, timestep);
      schedule_.target(target.f32() + row * size, x, noise, size, timestep);
      prepared.inputs.timesteps[size_t(row)] = float(timestep);
    }
  }
  auto both_sides = [&](const Tensor& x) {
    std::vector<int64_t> rows = x.shape().dims();
    rows[0] *= sides;
    Tensor all = device.empty(Shape(rows), DType::F32);
    for (int64_t side = 0; side < sides; ++side) std::memcpy(all.f32() + side * x.numel(), x.raw(), x.bytes());
    return to_dtype(device, all, options_.compute);
  };
  if (b.pooled) prepared.inputs.text_embeds = both_sides(b.pooled);
  for (int64_t side = 0; side < sides; ++side) prepared.inputs.time_ids.insert(prepared.inputs.time_ids.end(), b.time_ids.begin(), b.time_ids.end());
  prepared.inputs.sample = to_nhwc(device, noisy, options_.compute);
  prepared.inputs.text = both_sides(b.text);
  prepared.target = to_nhwc(device, target, DType::F32);
  return prepared;
}

std::vector<double> Trainer::errors(const Tensor& prediction, const Tensor& target) const {
  Tensor e = unet_->device.empty({prediction.dim(0)}, DType::F64);
  unet_->device.kernels().mse_per_image(e, prediction, target);
  return {e.data<double>(), e.data<double>() + e.numel()};
}

// a . b = (|a|^2 + |b|^2 - |a - b|^2) / 2, per pair and as a mean over the elements.
std::vector<double> Trainer::overlap(const Tensor& prediction, const Tensor& target, const Errors& e) const {
  Device& device = unet_->device;
  int64_t images = prediction.dim(0), pairs = images / 2, size = prediction.numel() / images;
  // With these weights the gradient is the difference to the target itself.
  Tensor difference = device.empty(prediction.shape(), prediction.dtype());
  device.kernels().mse_backward(difference, prediction, target, from_floats(device, std::vector<float>(size_t(images), 0.5F * float(size)), {images}));
  std::vector<int64_t> dims = prediction.shape().dims();
  dims[0] = pairs;
  std::vector<double> apart = errors(difference.slice(0, Shape(dims)), difference.slice(pairs * size, Shape(dims)));
  for (size_t i = 0; i < apart.size(); ++i) apart[i] = 0.5 * (e.real[i] + e.generated[i] - apart[i]);
  return apart;
}

Tensor Trainer::opponent_forward(Tape& tape, const UNetInputs& inputs) const {
  if (opponent_) return opponent_->model.forward(tape, inputs);
  if (opponent_adapters_) opponent_adapters_->activate();
  else Adapters::deactivate(*unet_);
  return unet_->model.forward(tape, inputs);
}

template <class F>
auto Trainer::in_group(F&& work) {
  if (shared_ && !ranks_) throw Error(Code::Unavailable, "[train] ranks: expected a group, got none: this rank left it when a step failed");
  try {
    return work();
  } catch (...) {
    buckets_.reset();
    ranks_.reset();
    throw;
  }
}

TrainBatchResult Trainer::accumulate(const TrainBatch& batch, const CancelToken* cancel) {
  check(batch);
  return in_group([&] { return gather(batch, cancel); });
}

TrainBatchResult Trainer::gather(const TrainBatch& batch, const CancelToken* cancel) {
  std::optional<int64_t> gathering = gathering_;
  gathering_.reset();  // set again only when everything went well
  check_cancelled(cancel);
  Device& device = unet_->device;
  PhaseClock clock;
  TrainBatchResult result;
  auto pairs = batch.real.dim(0);
  Prepared prepared = prepare(batch);
  if (plays()) {
    clock.time("opponent_forward", [&] {
      Tape tape(device, false);
      std::vector<double> e = errors(opponent_forward(tape, prepared.inputs), prepared.target);
      result.errors.opponent_real.assign(e.begin(), e.begin() + pairs);
      result.errors.opponent_generated.assign(e.begin() + pairs, e.end());
    });
    check_cancelled(cancel);
  }
  Tape tape(device, true, options_.activation_checkpointing);
  Tensor prediction;
  clock.time("forward", [&] {
    if (adapters_) adapters_->activate();
    prediction = unet_->model.forward(tape, prepared.inputs);
    std::vector<double> e = errors(prediction, prepared.target);
    result.errors.real.assign(e.begin(), e.begin() + pairs);
    result.errors.generated.assign(e.begin() + pairs, e.end());
  });
  ObjectiveOptions objective = options_.objective;
  if (batch.beta > 0) objective.beta = batch.beta;
  if (objective.safeguard) result.errors.overlap = overlap(prediction, prepared.target, result.errors);
  result.errors.weight = prepared.weight;
  LossTerms terms = loss_terms(objective, result.errors, 1 / double(batch.step_batch_size));
  result.loss = terms.loss;
  result.loser_scale = terms.loser_scale;
  if (!std::isfinite(result.loss)) throw Error(Code::Diverged, cat("[train] step ", batch.step, ": expected a finite loss, got ", result.loss));
  check_cancelled(cancel);
  clock.time("backward", [&] {
    std::vector<float> weights = terms.weight_real;
    weights.insert(weights.end(), terms.weight_generated.begin(), terms.weight_generated.end());
    Tensor gradient = device.empty(prediction.shape(), prediction.dtype());
    device.kernels().mse_backward(gradient, prediction, prepared.target, from_floats(device, weights, {int64_t(weights.size())}));
    if (!gathering) trained().begin_gradients();
    if (!buckets_) {
      tape.backward(prediction, gradient);
      return;
    }
    buckets_->begin(batch.last);
    tape.backward(prediction, gradient, [&] { buckets_->node_done(); });
    if (batch.last) trained().finish_gradients();
    buckets_->end();
  });
  gathering_ = batch.step;
  complete_ = batch.last;
  result.phases = clock.phases();
  return result;
}

TrainStepResult Trainer::apply(int64_t step, double learning_rate_scale, const CancelToken* cancel) {
  require(learning_rate_scale > 0 && std::isfinite(learning_rate_scale), "[train] learning_rate_scale: expected a positive number, got ", learning_rate_scale);
  require(gathering_ == step, "[train] apply: expected the step that was accumulated, got ", step);
  require(!shared_ || complete_, "[train] apply: expected this rank's last micro-batch of step ", step, " first, got none marked as the last");
  return in_group([&] { return update(step, learning_rate_scale, cancel); });
}

TrainStepResult Trainer::update(int64_t step, double learning_rate_scale, const CancelToken* cancel) {
  gathering_.reset();
  ParameterStore& store = trained();
  Kernels& kernels = unet_->device.kernels();
  PhaseClock clock;
  TrainStepResult result;
  if (ranks_) clock.time("all_reduce", [&] { ranks_->wait(cancel); });  // what backward did not hide
  clock.time("optimizer", [&] {
    store.finish_gradients();
    result.grad_norm = std::sqrt(kernels.sum_of_squares(store.gradient()));
    if (!std::isfinite(result.grad_norm)) throw Error(Code::Diverged, cat("[train] step ", step, ": expected a finite gradient norm, got ", result.grad_norm));
    double scale = options_.max_grad_norm > 0 ? std::min(1.0, options_.max_grad_norm / (result.grad_norm + 1e-6)) : 1.0;
    result.learning_rate = options_.learning_rate.at(step) * learning_rate_scale;
    adamw_->step(result.learning_rate, step + 1, scale);
    if (ema_) kernels.lerp(ema_, store.master(), 1 - options_.ema_decay);
    store.commit();
  });
  result.phases = clock.phases();
  return result;
}

std::vector<ParameterValues> Trainer::state() const {
  const ParameterStore& store = trained();
  std::vector<ParameterValues> values = {{"weights.", &store, store.master()}, {"adam_m.", &store, adamw_->m()}, {"adam_v.", &store, adamw_->v()}};
  if (ema_) values.push_back({"ema.", &store, ema_});
  return values;
}

void Trainer::share_state(const CancelToken* cancel) {
  if (!shared_) return;
  in_group([&] {
    for (const ParameterValues& values : state()) {
      Tensor arena = values.arena;
      ranks_->broadcast({arena.f32(), arena.numel()}, cancel);
    }
  });
  gathering_.reset();
  trained().commit();
  verify_ranks(cancel);
}

void Trainer::verify_ranks(const CancelToken* cancel) {
  if (!shared_) return;
  in_group([&] {
    std::string mine = cat(trained().numel(), " parameters");
    for (const ParameterValues& values : state()) mine += cat(" ", values.prefix, std::hex, digest_of(values.arena.raw(), values.arena.bytes()));
    std::vector<std::string> all = ranks_->gather(mine, cancel);
    for (size_t r = 0; r < all.size(); ++r) ensure(all[r] == all[0], "[train] ranks: expected rank ", r, " of ", all.size(), " to hold the same state as rank 0 (", all[0], "), got ", all[r]);
  });
}

void Trainer::save_state(const std::string& path, const std::map<std::string, std::string>& metadata) const { save_parameters(path, state(), metadata); }

std::map<std::string, std::string> Trainer::load_state(const std::string& path) {
  gathering_.reset();
  std::map<std::string, std::string> metadata = load_saved_parameters(path, state());
  trained().commit();
  return metadata;
}

Tensor Trainer::exported(bool averaged) const {
  require(!averaged || ema_, "[train] averaged: expected a training with ema_decay, got one without");
  return averaged ? ema_ : trained().master();
}

void Trainer::export_weights(const std::string& path, bool averaged) const {
  if (adapters_) adapters_->save_merged(path, exported(averaged));
  else save_parameters(path, {{"", &unet_->store, exported(averaged)}});
}

void Trainer::export_adapters(const std::string& path, bool averaged) const {
  require(adapters_ != nullptr, "[train] export_adapters: expected a training of adapters, got one of the weights");
  adapters_->save(path, exported(averaged));
}

}  // namespace spindle
