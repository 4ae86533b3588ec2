#include "train/trainer.h"

#include <cmath>
#include <utility>

#include "train/rank_state.h"

namespace spindle {

namespace {

// Key of a saved state: what the libraries chose, so that resuming repeats it.
const char* const kAlgorithms = "algorithms";

std::unique_ptr<Unet> load_opponent(Device& device,
                                    const ModelSource& init,
                                    const ModelSource* opponent,
                                    const TrainerOptions& options) {
  if (!options.plays() || options.lora) return nullptr;
  return load_unet(device, opponent ? *opponent : init, {.compute = options.compute});
}

std::unique_ptr<Unet> load_trained(Device& device,
                                   const ModelSource& init,
                                   const TrainerOptions& options) {
  if (!options.lora) {
    return load_unet(device, init, {.compute = options.compute, .trainable = true});
  }
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

}  // namespace

Trainer::Trainer(Device& device,
                 const ModelSource& init,
                 const ModelSource* opponent,
                 const TrainerOptions& options,
                 std::unique_ptr<Collective> ranks)
    : Trainer(load_trained(device, init, options),
              load_opponent(device, init, opponent, options),
              options,
              std::move(ranks)) {
  if (!adapters_) return;
  if (std::string path = adapter_of(init); !path.empty()) adapters_->load(path);
  if (ema_) device.memory().copy(ema_, trained().master());
  if (!options.plays()) return;
  const ModelSource& other = opponent ? *opponent : init;
  require(other.weights == init.weights,
          "[train] opponent: expected the weights that the adapters lie on (", init.label,
          "), got ", other.label);
  if (std::string path = adapter_of(other); !path.empty()) {
    auto adapters = std::make_unique<Adapters>(*unet_, *options.lora, WeightUse::Frozen);
    adapters->load(path);
    opponent_ = make_opponent(*unet_, std::move(adapters));
  }
}

Trainer::Trainer(std::unique_ptr<Unet> unet,
                 std::unique_ptr<Unet> opponent,
                 const TrainerOptions& options,
                 std::unique_ptr<Collective> ranks)
    : options_(options),
      unet_(std::move(unet)),
      preparer_(unet_->device, options),
      loss_(make_loss(unet_->device, options.objective, options.min_snr_gamma > 0)),
      scalars_(unet_->device.empty({kStepScalars}, DType::F64)),
      results_(unet_->device),
      multi_rank_(bool(ranks)),
      ranks_(multi_rank_ ? unet_->device.memory().connect_memory(std::move(ranks)) : nullptr),
      graphed_(unet_->device) {
  check_options(options);
  ensure(unet_->store.trainable() == !options.lora &&
             bool(opponent) == (options.plays() && !options.lora),
         "[train] the models do not suit the objective");
  if (options.lora) {
    adapters_ = std::make_unique<Adapters>(*unet_, *options.lora, WeightUse::Trained);
    adapters_->initialise(Philox(options.seed, uint32_t(options.iteration)));
  }
  if (options.plays())
    opponent_ = opponent ? make_opponent(std::move(opponent)) : make_opponent(*unet_, nullptr);
  adamw_.emplace(trained(), options.adamw);
  if (options.ema_decay > 0) {
    ema_ = unet_->device.empty(trained().master().shape(), DType::F32);
    unet_->device.memory().copy(ema_, trained().master());
  }
  if (multi_rank_)
    buckets_ = std::make_unique<GradientBuckets>(trained(), *ranks_, options.bucket_bytes);
}

Trainer::~Trainer() = default;

template <class F>
auto Trainer::with_ranks(F&& work) {
  if (multi_rank_ && !ranks_)
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

void Trainer::check(const TrainBatch& batch) const {
  check_batch(batch, {.model = unet_->model.config(),
                      .plays = options_.plays(),
                      .num_train_timesteps = preparer_.num_train_timesteps(),
                      .timesteps_per_pair = preparer_.turns()});
  if (!open_step_) return;
  require(*open_step_ == batch.step, "[train] step: expected a micro-batch of step ", *open_step_,
          " or its apply, got step ", batch.step);
  require(!multi_rank_ || !complete_, "[train] last: expected no micro-batch of step ", batch.step,
          " after this rank's last one");
}

TrainBatchResult Trainer::accumulate(const TrainBatch& batch, const CancelToken* cancel) {
  check(batch);
  return with_ranks([&] { return run(batch, cancel); });
}

TrainBatchResult Trainer::run(const TrainBatch& given, const CancelToken* cancel) {
  // The step is open again only when everything went well.
  bool first = !std::exchange(open_step_, std::nullopt);
  check_cancelled(cancel);
  PhaseClock clock;
  // A host's memory is free for others between micro-batches.
  MicroBatch fresh;
  MicroBatch& batch = unet_->device.host_visible() ? fresh : captured_batch(given);
  if (first) results_.begin();
  batch.first = first;
  TrainBatchResult result;
  if (loss_->on_device()) {
    preparer_.prepare(batch, given);
    // One stay on the device: how long its parts take is for a profiler of the device to say.
    clock.time("micro_batch", [&] {
      gather_captured(batch, clock, cancel);
      result = given.later ? results_.keep(batch) : loss_->result(batch);
    });
    check_cancelled(cancel);
  } else {
    gather_turns(batch, given, clock, cancel);
    result = loss_->result(batch);
  }
  open_step_ = given.step;
  complete_ = given.last;
  result.phases = clock.phases();
  return result;
}

MicroBatch& Trainer::captured_batch(const TrainBatch& given) {
  if (!captured_batch_ || !captured_batch_->fits(given)) {
    graphed_.reset();
    captured_batch_ = std::make_unique<MicroBatch>();
  }
  return *captured_batch_;
}

void Trainer::gather_captured(const MicroBatch& batch,
                              PhaseClock& clock,
                              const CancelToken* cancel) {
  auto work = [&] { gather(batch, clock, cancel); };
  // What sends gradients on their way is not captured: the ranks may break off, and a capture of
  // their sums would outlive them.
  if (buckets_ && batch.last)
    graphed_.eager(work);
  else if (graphed_.run(batch.first ? "stores" : "adds", work))
    written_ = trained().written();
  else
    trained().set_written(written_);
}

void Trainer::gather_turns(MicroBatch& batch,
                           const TrainBatch& given,
                           PhaseClock& clock,
                           const CancelToken* cancel) {
  const int64_t before = preparer_.turns() - 1;
  for (int64_t turn = 0; turn < before; ++turn) {
    preparer_.prepare(batch, given, turn);
    clock.time("opponent_forward", [&] { opponent_->measure(batch); });
    check_cancelled(cancel);
    Tape tape(unet_->device, false);
    loss_->measure(batch, clock.time("forward", [&] { return forward(tape, batch); }));
    check_cancelled(cancel);
  }
  preparer_.prepare(batch, given, before);
  batch.last = given.last && before == 0;
  gather(batch, clock, cancel);
  for (int64_t turn = 0; turn < before; ++turn) {
    check_cancelled(cancel);
    preparer_.prepare(batch, given, turn);
    batch.first = false;
    batch.last = given.last && turn == before - 1;
    Tape tape(unet_->device, true, options_.activation_checkpointing);
    Tensor prediction = clock.time("forward", [&] { return forward(tape, batch); });
    loss_->weigh_again(batch);
    clock.time("backward", [&] { backward(tape, batch, prediction); });
  }
}

void Trainer::gather(const MicroBatch& batch, PhaseClock& clock, const CancelToken* cancel) {
  if (opponent_) {
    clock.time("opponent_forward", [&] { opponent_->measure(batch); });
    check_cancelled(cancel);
  }
  Tape tape(unet_->device, true, options_.activation_checkpointing);
  Tensor prediction = clock.time("forward", [&] { return forward(tape, batch); });
  loss_->weigh(batch, prediction);
  check_cancelled(cancel);
  clock.time("backward", [&] { backward(tape, batch, prediction); });
}

Tensor Trainer::forward(Tape& tape, const MicroBatch& batch) const {
  if (adapters_) adapters_->activate();
  Tensor prediction = unet_->model.forward(tape, batch.inputs);
  unet_->device.kernels().run(
      MsePerImage{.errors = batch.errors, .prediction = prediction, .target = batch.target});
  return prediction;
}

void Trainer::backward(Tape& tape, const MicroBatch& batch, const Tensor& prediction) {
  Device& device = unet_->device;
  Tensor gradient = device.empty(prediction.shape(), prediction.dtype());  // (N, h, w, C)
  device.kernels().run(MseBackward{.dprediction = gradient,
                                   .prediction = prediction,
                                   .target = batch.target,
                                   .weights = batch.weights});
  if (batch.first) trained().begin_gradients();
  if (!buckets_) {
    tape.backward(prediction, gradient);
    return;
  }
  buckets_->begin(batch.last);
  tape.backward(prediction, gradient, [&] { buckets_->node_done(); });
  if (batch.last) trained().finish_gradients();
  buckets_->end();
}

TrainStepResult Trainer::apply(int64_t step,
                               double learning_rate_scale,
                               const CancelToken* cancel) {
  require(learning_rate_scale > 0 && std::isfinite(learning_rate_scale),
          "[train] learning_rate_scale: expected a positive number, got ", learning_rate_scale);
  require(open_step_ == step, "[train] apply: expected the step that was accumulated, got ", step);
  require(!multi_rank_ || complete_,
          "[train] apply: expected this rank's last micro-batch of step ", step,
          " first, got none marked as the last");
  return with_ranks([&] { return update(step, learning_rate_scale, cancel); });
}

TrainStepResult Trainer::update(int64_t step,
                                double learning_rate_scale,
                                const CancelToken* cancel) {
  open_step_.reset();
  ParameterStore& store = trained();
  PhaseClock clock;
  TrainStepResult result;
  if (ranks_)
    clock.time("all_reduce", [&] { ranks_->wait(cancel); });  // what backward did not hide
  clock.time("optimizer", [&] {
    store.finish_gradients();
    result.learning_rate = options_.learning_rate.at(step) * learning_rate_scale;
    Device& device = unet_->device;
    device.upload(scalars_,
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
  if (!multi_rank_) return;
  with_ranks([&] { broadcast_values(*ranks_, state(), cancel); });
  open_step_.reset();
  trained().commit();
  verify_ranks(cancel);
}

void Trainer::verify_ranks(const CancelToken* cancel) {
  if (!multi_rank_) return;
  with_ranks([&] { verify_values(*ranks_, state(), cancel); });
}

void Trainer::save_state(const std::string& path,
                         const std::map<std::string, std::string>& metadata) const {
  std::map<std::string, std::string> all = metadata;
  if (std::string algorithms = unet_->device.kernels().algorithms(); !algorithms.empty())
    all[kAlgorithms] = algorithms;
  save_parameters(path, state(), all);
}

std::map<std::string, std::string> Trainer::load_state(const std::string& path) {
  open_step_.reset();
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
