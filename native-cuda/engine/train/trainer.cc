#include "train/trainer.h"

#include <cmath>

#include "models/layout.h"
#include "train/rank_state.h"

namespace spindle {

namespace {

// Key of a saved state: what the libraries chose, so that resuming repeats it.
const char* const kAlgorithms = "algorithms";

std::unique_ptr<Unet> make_opponent(Device& device,
                                    const ModelSource& init,
                                    const ModelSource* opponent,
                                    const TrainerOptions& options) {
  if (!is_spin(options.objective.objective) || options.lora) return nullptr;
  return load_unet(device, opponent ? *opponent : init, {.compute = options.compute});
}

std::unique_ptr<Unet> make_unet(Device& device,
                                const ModelSource& init,
                                const TrainerOptions& options) {
  if (!options.lora)
    return load_unet(device, init, {.compute = options.compute, .trainable = true});
  ModelSource base = init;
  base.adapters.clear();
  return load_unet(device, base, {.compute = options.compute, .pass_through = true});
}

// A source's only adapter file, as it is; "" for none.
std::string adapter_of(const ModelSource& source) {
  if (source.adapters.empty()) return "";
  require(source.adapters.size() == 1 && source.adapters[0].scale == 1, source.label,
          ": expected one adapter with scale 1 to train on, got ", source.adapters.size(),
          ", the first with scale ", source.adapters[0].scale);
  return source.adapters[0].path;
}

Predicts predicts(PredictionType type) {
  switch (type) {
    case PredictionType::Epsilon:
      return Predicts::Noise;
    case PredictionType::Velocity:
      return Predicts::Velocity;
    case PredictionType::Sample:
      return Predicts::Image;
  }
  return Predicts::Noise;
}

// A tensor of this shape: the one that is there, or a new one.
Tensor& shaped(Device& device, Tensor& t, const Shape& shape, DType dtype) {
  if (!t || !(t.shape() == shape) || t.dtype() != dtype) t = device.empty(shape, dtype);
  return t;
}

void expect_finite(int64_t step, const char* what, double value) {
  if (!std::isfinite(value))
    throw Error(Code::Diverged,
                cat("[train] step ", step, ": expected a finite ", what, ", got ", value));
}

std::vector<double> pieces(const std::vector<double>& all, int64_t first, int64_t count) {
  return {all.begin() + first, all.begin() + first + count};
}

}  // namespace

// Real images, then generated ones, in one batch. float32 where nothing else is said.
struct Trainer::Prepared {
  UNetInputs inputs;
  Tensor target;                   // (B or 2B, h, w, C)
  std::vector<double> weight;      // of each image's error; empty: 1
  Tensor errors, opponent_errors;  // (B or 2B) float64
  Tensor loss, settings;           // (1) and (2) float64: PairLossWeights
  Tensor weights;                  // (B or 2B): d loss / d error
  Tensor places, coefficients, noise, noisy, clean_target, text, pooled;  // on the way there
};

Trainer::Trainer(Device& device,
                 const ModelSource& init,
                 const ModelSource* opponent,
                 const TrainerOptions& options,
                 std::unique_ptr<Collective> ranks)
    : Trainer(make_unet(device, init, options),
              make_opponent(device, init, opponent, options),
              options,
              std::move(ranks)) {
  if (!adapters_) return;
  if (std::string path = adapter_of(init); !path.empty()) adapters_->load(path);
  if (ema_) device.memory().copy(ema_, trained().master());
  if (!plays()) return;
  const ModelSource& other = opponent ? *opponent : init;
  require(other.weights == init.weights,
          "[train] opponent: expected the weights that the adapters lie on (", init.label,
          "), got ", other.label);
  if (std::string path = adapter_of(other); !path.empty()) {
    opponent_adapters_ = std::make_unique<Adapters>(*unet_, *options_.lora, WeightUse::Frozen);
    opponent_adapters_->load(path);
  }
}

Trainer::Trainer(std::unique_ptr<Unet> unet,
                 std::unique_ptr<Unet> opponent,
                 const TrainerOptions& options,
                 std::unique_ptr<Collective> ranks)
    : options_(options),
      schedule_(NoiseSchedule::parse(options.scheduler_config)),
      philox_(options.seed, uint32_t(options.iteration)),
      unet_(std::move(unet)),
      opponent_(std::move(opponent)),
      shared_(bool(ranks)),
      ranks_(ranks ? unet_->device.memory().connect_memory(std::move(ranks)) : nullptr),
      graphed_(unet_->device),
      results_(unet_->device) {
  require(options.iteration >= 0, "[train] iteration: expected 0 or more, got ", options.iteration);
  require(options.min_snr_gamma >= 0 && (options.min_snr_gamma == 0 || !plays()),
          "[train] min_snr_gamma: expected 0 or more, and 0 for a spin objective, got ",
          options.min_snr_gamma);
  if (options.objective.safeguard)
    require(plays() && *options.objective.safeguard >= 0 && *options.objective.safeguard <= 1,
            "[train] safeguard: expected a number from 0 to 1 and a spin objective, got ",
            *options.objective.safeguard);
  require(options.ema_decay >= 0 && options.ema_decay < 1,
          "[train] ema_decay: expected 0 or more and below 1, got ", options.ema_decay);
  ensure(unet_->store.trainable() == !options.lora && bool(opponent_) == (plays() && !options.lora),
         "[train] the models do not suit the objective");
  if (options.lora) {
    adapters_ = std::make_unique<Adapters>(*unet_, *options.lora, WeightUse::Trained);
    adapters_->initialise(philox_);
  }
  adamw_.emplace(trained(), options.adamw);
  if (options.ema_decay > 0) {
    ema_ = unet_->device.empty(trained().master().shape(), DType::F32);
    unet_->device.memory().copy(ema_, trained().master());
  }
  if (shared_)
    buckets_ = std::make_unique<GradientBuckets>(trained(), *ranks_, options.bucket_bytes);
}

Trainer::~Trainer() = default;

void Trainer::check(const TrainBatch& b) const {
  const UNet2DConditionConfig& config = unet_->model.config();
  require(b.step >= 0 && b.offset >= 0, "[train] step and offset: expected 0 or more, got ", b.step,
          " and ", b.offset);
  require(b.real.rank() == 4 && b.real.numel() > 0 && b.real.dim(1) == config.in_channels,
          "[train] real: expected (B, ", config.in_channels, ", h, w), got ", b.real.shape());
  int64_t pairs = b.real.dim(0);
  require(b.offset + pairs <= b.step_batch_size,
          "[train] step_batch_size: expected at least offset ", b.offset, " + ", pairs, ", got ",
          b.step_batch_size);
  require(bool(b.generated) == plays(), "[train] generated: expected ",
          plays() ? "images for a spin objective, got none" : "none for sft, got images");
  if (b.generated)
    require(b.generated.shape() == b.real.shape(), "[train] generated: expected ", b.real.shape(),
            ", got ", b.generated.shape());
  require(
      b.text.rank() == 3 && b.text.dim(0) == pairs && b.text.dim(2) == config.cross_attention_dim,
      "[train] text: expected (", pairs, ", T, ", config.cross_attention_dim, "), got ",
      b.text.shape());
  require(b.beta >= 0, "[train] beta: expected 0 or more, got ", b.beta);
  require(
      bool(b.pooled) == config.text_time() && b.time_ids.empty() != config.text_time(),
      "[train] pooled and time_ids: expected ",
      config.text_time() ? "both with this model's text_time embedding" : "none with this model");
  if (b.pooled)
    require(
        b.pooled.rank() == 2 && b.pooled.dim(0) == pairs && b.time_ids.size() % size_t(pairs) == 0,
        "[train] pooled and time_ids: expected ", pairs, " rows, got ", b.pooled.shape(), " and ",
        b.time_ids.size(), " numbers");
  if (b.noise)
    require(b.noise.shape() == b.real.shape(), "[train] noise: expected ", b.real.shape(), ", got ",
            b.noise.shape());
  require(b.timesteps.empty() || int64_t(b.timesteps.size()) == pairs,
          "[train] timesteps: expected ", pairs, ", got ", b.timesteps.size());
  for (int64_t t : b.timesteps)
    require(t >= 0 && t < schedule_.num_train_timesteps,
            "[train] timesteps: expected values below ", schedule_.num_train_timesteps, ", got ",
            t);
  if (gathering_)
    require(*gathering_ == b.step, "[train] step: expected a micro-batch of step ", *gathering_,
            " or its apply, got step ", b.step);
  require(!shared_ || !gathering_ || !complete_, "[train] last: expected no micro-batch of step ",
          b.step, " after this rank's last one");
}

void Trainer::prepare(const TrainBatch& b, Prepared& p) const {
  Device& device = unet_->device;
  Kernels& kernels = device.kernels();
  int64_t pairs = b.real.dim(0), sides = b.generated ? 2 : 1, images = sides * pairs;
  std::vector<float> coefficients, timesteps(static_cast<size_t>(images));
  p.weight.clear();
  for (int64_t i = 0; i < pairs; ++i) {
    uint32_t position = uint32_t(b.offset + i);
    int64_t timestep = b.timesteps.empty()
                           ? int64_t(philox_.integer(uint32_t(b.step), position, Draw::Timestep,
                                                     uint32_t(schedule_.num_train_timesteps)))
                           : b.timesteps[size_t(i)];
    if (options_.min_snr_gamma > 0)
      p.weight.push_back(min_snr_weight(double(schedule_.alphas_cumprod[size_t(timestep)]),
                                        options_.min_snr_gamma,
                                        predicts(schedule_.prediction_type)));
    std::array<float, 4> c = schedule_.coefficients(timestep);
    coefficients.insert(coefficients.end(), c.begin(), c.end());
    for (int64_t side = 0; side < sides; ++side)
      timesteps[size_t(side * pairs + i)] = float(timestep);
  }
  device.upload(shaped(device, p.coefficients, {pairs, 4}, DType::F32), coefficients.data());
  Tensor noise = b.noise;
  if (!noise) {
    double places[] = {double(b.step), double(b.offset)};
    device.upload(shaped(device, p.places, {2}, DType::F64), places);
    noise = shaped(device, p.noise, b.real.shape(), DType::F32);
    device.step_kernels().run(
        NormalNoise{.noise = noise, .philox = philox_, .draw = Draw::Noise, .places = p.places});
  }
  std::vector<int64_t> dims = b.real.shape().dims();
  dims[0] = images;
  shaped(device, p.noisy, Shape(dims), DType::F32);
  shaped(device, p.clean_target, Shape(dims), DType::F32);
  for (int64_t side = 0; side < sides; ++side) {  // both sides share noise and timestep
    int64_t first = side * b.real.numel();
    Tensor noisy = p.noisy.slice(first, b.real.shape()),
           target = p.clean_target.slice(first, b.real.shape());
    device.step_kernels().run(Diffuse{.noisy = noisy,
                                      .target = target,
                                      .x = side == 0 ? b.real : b.generated,
                                      .noise = noise,
                                      .coefficients = p.coefficients});
  }
  Shape nhwc{images, dims[2], dims[3], dims[1]};
  kernels.run(
      NchwToNhwc{.y = shaped(device, p.inputs.sample, nhwc, options_.compute), .x = p.noisy});
  kernels.run(NchwToNhwc{.y = shaped(device, p.target, nhwc, DType::F32), .x = p.clean_target});
  // Both sides have the prompt in common.
  auto both_sides = [&](Tensor& wide, Tensor& out, const Tensor& x) {
    std::vector<int64_t> rows = x.shape().dims();
    rows[0] = images;
    shaped(device, wide, Shape(rows), DType::F32);
    for (int64_t side = 0; side < sides; ++side)
      device.memory().copy(wide.slice(side * x.numel(), x.shape()), x);
    if (options_.compute == DType::F32)
      out = wide;
    else
      kernels.run(Cast{.y = shaped(device, out, wide.shape(), options_.compute), .x = wide});
  };
  both_sides(p.text, p.inputs.text, b.text);
  if (b.pooled) {
    both_sides(p.pooled, p.inputs.text_embeds, b.pooled);
    std::vector<float> ids = b.time_ids;
    if (sides == 2) ids.insert(ids.end(), b.time_ids.begin(), b.time_ids.end());
    device.upload(shaped(device, p.inputs.time_id_values, {int64_t(ids.size())}, DType::F32),
                  ids.data());
  }
  device.upload(shaped(device, p.inputs.timestep_values, {images}, DType::F32), timesteps.data());
  double settings[] = {b.beta > 0 ? b.beta : options_.objective.beta,
                       1 / double(b.step_batch_size)};
  device.upload(shaped(device, p.settings, {2}, DType::F64), settings);
  shaped(device, p.errors, {images}, DType::F64);
  shaped(device, p.opponent_errors, {images}, DType::F64);
  shaped(device, p.loss, {1}, DType::F64);
  shaped(device, p.weights, {images}, DType::F32);
}

// a . b = (|a|^2 + |b|^2 - |a - b|^2) / 2, per pair and as a mean over the elements.
std::vector<double> Trainer::overlap(const Tensor& prediction,
                                     const Tensor& target,
                                     const Errors& e) const {
  Device& device = unet_->device;
  int64_t images = prediction.dim(0), pairs = images / 2, size = prediction.numel() / images;
  // With these weights the gradient is the difference to the target itself.
  Tensor difference = device.empty(prediction.shape(), prediction.dtype());
  device.kernels().run(MseBackward{
      .dprediction = difference,
      .prediction = prediction,
      .target = target,
      .weights =
          from_floats(device, std::vector<float>(size_t(images), 0.5F * float(size)), {images})});
  std::vector<int64_t> dims = prediction.shape().dims();
  dims[0] = pairs;
  Tensor e_apart = device.empty({pairs}, DType::F64);
  device.kernels().run(MsePerImage{.errors = e_apart,
                                   .prediction = difference.slice(0, Shape(dims)),
                                   .target = difference.slice(pairs * size, Shape(dims))});
  std::vector<double> apart = device.download<double>(e_apart);
  for (size_t i = 0; i < apart.size(); ++i)
    apart[i] = 0.5 * (e.real[i] + e.generated[i] - apart[i]);
  return apart;
}

Tensor Trainer::opponent_forward(Tape& tape, const UNetInputs& inputs) const {
  if (opponent_) return opponent_->model.forward(tape, inputs);
  if (opponent_adapters_)
    opponent_adapters_->activate();
  else
    Adapters::deactivate(*unet_);
  return unet_->model.forward(tape, inputs);
}

template <class F>
auto Trainer::in_group(F&& work) {
  if (shared_ && !ranks_)
    throw Error(Code::Unavailable,
                "[train] ranks: expected a group, got none: this rank left it when a step failed");
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
  Kernels& kernels = device.kernels();
  PhaseClock clock;
  TrainBatchResult result;
  auto pairs = batch.real.dim(0);
  Prepared here;
  if (!device.host_visible()) {
    // What was captured has the addresses of the tensors of its shapes.
    if (kept_ &&
        !(kept_->noisy.dim(0) == (plays() ? 2 : 1) * pairs &&
          kept_->noisy.dim(2) == batch.real.dim(2) && kept_->noisy.dim(3) == batch.real.dim(3) &&
          kept_->text.dim(1) == batch.text.dim(1))) {
      graphed_.reset();
      kept_.reset();
    }
    if (!kept_) kept_ = std::make_unique<Prepared>();
  }
  Prepared& prepared = kept_ ? *kept_ : here;
  prepare(batch, prepared);
  // The loss as a kernel, with nothing read before the end; or on the host, between forward and
  // backward.
  std::optional<PairLoss> loss_kernel =
      device.host_visible() ? std::nullopt : pair_loss_of(options_.objective, prepared.weight);
  auto read_errors = [&](std::vector<double>& real, std::vector<double>& generated,
                         const Tensor& tensor) {
    std::vector<double> e = device.download<double>(tensor);
    real = pieces(e, 0, pairs);
    generated = pieces(e, pairs, int64_t(e.size()) - pairs);
  };
  auto read_loss = [&](double loss) {
    result.loss = loss;
    expect_finite(batch.step, "loss", loss);
  };
  if (!gathering) results_.begin();
  auto work = [&] {
    if (plays()) {
      clock.time("opponent_forward", [&] {
        Tape tape(device, false);
        kernels.run(MsePerImage{.errors = prepared.opponent_errors,
                                .prediction = opponent_forward(tape, prepared.inputs),
                                .target = prepared.target});
      });
      check_cancelled(cancel);
    }
    Tape tape(device, true, options_.activation_checkpointing);
    Tensor prediction;
    clock.time("forward", [&] {
      if (adapters_) adapters_->activate();
      prediction = unet_->model.forward(tape, prepared.inputs);
      kernels.run(MsePerImage{
          .errors = prepared.errors, .prediction = prediction, .target = prepared.target});
    });
    if (loss_kernel) {
      device.step_kernels().run(PairLossWeights{.weights = prepared.weights,
                                                .loss = prepared.loss,
                                                .errors = prepared.errors,
                                                .opponent_errors = prepared.opponent_errors,
                                                .settings = prepared.settings,
                                                .kind = *loss_kernel});
    } else {
      read_errors(result.errors.real, result.errors.generated, prepared.errors);
      if (plays())
        read_errors(result.errors.opponent_real, result.errors.opponent_generated,
                    prepared.opponent_errors);
      ObjectiveOptions objective = options_.objective;
      if (batch.beta > 0) objective.beta = batch.beta;
      if (objective.safeguard)
        result.errors.overlap = overlap(prediction, prepared.target, result.errors);
      result.errors.weight = prepared.weight;
      LossTerms terms = loss_terms(objective, result.errors, 1 / double(batch.step_batch_size));
      result.loser_scale = terms.loser_scale;
      read_loss(terms.loss);
      terms.weight_real.insert(terms.weight_real.end(), terms.weight_generated.begin(),
                               terms.weight_generated.end());
      device.upload(prepared.weights, terms.weight_real.data());
    }
    check_cancelled(cancel);
    clock.time("backward", [&] {
      Tensor gradient = device.empty(prediction.shape(), prediction.dtype());
      kernels.run(MseBackward{.dprediction = gradient,
                              .prediction = prediction,
                              .target = prepared.target,
                              .weights = prepared.weights});
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
  };
  if (loss_kernel) {
    // One stay on the device: how long its parts take is for a profiler of the device to say.
    clock.time("micro_batch", [&] {
      // What sends gradients on their way is not captured: the group may break off, and a capture
      // of its sums would outlive it.
      if (buckets_ && batch.last)
        graphed_.eager(work);
      else if (graphed_.run(gathering ? "adds" : "stores", work))
        written_ = trained().written();
      else
        trained().set_written(written_);
      if (plays()) result.loser_scale = double(pairs) / double(batch.step_batch_size);
      result.later = batch.later;
      if (batch.later)
        return results_.keep(prepared.loss, prepared.errors,
                             plays() ? prepared.opponent_errors : Tensor(), result.loser_scale);
      read_errors(result.errors.real, result.errors.generated, prepared.errors);
      if (plays())
        read_errors(result.errors.opponent_real, result.errors.opponent_generated,
                    prepared.opponent_errors);
      read_loss(device.download<double>(prepared.loss)[0]);
    });
    check_cancelled(cancel);
  } else {
    work();
  }
  gathering_ = batch.step;
  complete_ = batch.last;
  result.phases = clock.phases();
  return result;
}

TrainStepResult Trainer::apply(int64_t step,
                               double learning_rate_scale,
                               const CancelToken* cancel) {
  require(learning_rate_scale > 0 && std::isfinite(learning_rate_scale),
          "[train] learning_rate_scale: expected a positive number, got ", learning_rate_scale);
  require(gathering_ == step, "[train] apply: expected the step that was accumulated, got ", step);
  require(!shared_ || complete_, "[train] apply: expected this rank's last micro-batch of step ",
          step, " first, got none marked as the last");
  return in_group([&] { return update(step, learning_rate_scale, cancel); });
}

TrainStepResult Trainer::update(int64_t step,
                                double learning_rate_scale,
                                const CancelToken* cancel) {
  gathering_.reset();
  ParameterStore& store = trained();
  PhaseClock clock;
  TrainStepResult result;
  if (ranks_)
    clock.time("all_reduce", [&] { ranks_->wait(cancel); });  // what backward did not hide
  clock.time("optimizer", [&] {
    store.finish_gradients();
    result.learning_rate = options_.learning_rate.at(step) * learning_rate_scale;
    Device& device = unet_->device;
    device.upload(shaped(device, scalars_, {kStepScalars}, DType::F64),
                  adamw_->scalars(result.learning_rate, step + 1, 1 - options_.ema_decay).data());
    device.step_kernels().run(ClipGradient{
        .scalars = scalars_, .gradient = store.gradient(), .max_norm = options_.max_grad_norm});
    adamw_->step(scalars_, ema_);
  });
  // All of the step was asked for. A loss that is not finite has such gradients, and those were not
  // applied.
  clock.time("results", [&] {
    std::vector<double> values;
    result.batches = results_.read(scalars_, values);
    result.grad_norm = values[kNorm];
    for (const TrainBatchResult& batch : result.batches) expect_finite(step, "loss", batch.loss);
    expect_finite(step, "gradient norm", result.grad_norm);
  });
  result.phases = clock.phases();
  return result;
}

std::vector<ParameterValues> Trainer::state() const {
  const ParameterStore& store = trained();
  std::vector<ParameterValues> values = {{"weights.", &store, store.master()},
                                         {"adam_m.", &store, adamw_->m()},
                                         {"adam_v.", &store, adamw_->v()}};
  if (ema_) values.push_back({"ema.", &store, ema_});
  return values;
}

void Trainer::broadcast_state(const CancelToken* cancel) {
  if (!shared_) return;
  in_group([&] { broadcast_values(*ranks_, state(), cancel); });
  gathering_.reset();
  trained().commit();
  verify_ranks(cancel);
}

void Trainer::verify_ranks(const CancelToken* cancel) {
  if (!shared_) return;
  in_group([&] { verify_values(*ranks_, state(), cancel); });
}

void Trainer::save_state(const std::string& path,
                         const std::map<std::string, std::string>& metadata) const {
  std::map<std::string, std::string> all = metadata;
  if (std::string algorithms = unet_->device.kernels().algorithms(); !algorithms.empty())
    all[kAlgorithms] = algorithms;
  save_parameters(path, state(), all);
}

std::map<std::string, std::string> Trainer::load_state(const std::string& path) {
  gathering_.reset();
  std::map<std::string, std::string> metadata = load_saved_parameters(path, state());
  trained().commit();
  if (auto algorithms = metadata.extract(kAlgorithms))
    if (std::string why = unet_->device.kernels().pin_algorithms(algorithms.mapped()); !why.empty())
      metadata["warning"] = cat("the same bytes as before cannot be promised: ", why);
  return metadata;
}

Tensor Trainer::exported(bool averaged) const {
  require(!averaged || ema_,
          "[train] averaged: expected a training with ema_decay, got one without");
  return averaged ? ema_ : trained().master();
}

void Trainer::export_weights(const std::string& path, bool averaged) const {
  if (adapters_)
    adapters_->save_merged(path, exported(averaged));
  else
    save_parameters(path, {{"", &unet_->store, exported(averaged)}});
}

void Trainer::export_adapters(const std::string& path, bool averaged) const {
  require(adapters_ != nullptr,
          "[train] export_adapters: expected a training of adapters, got one of the weights");
  adapters_->save(path, exported(averaged));
}

}  // namespace spindle
