// Training a U-Net.
#include "collective/socket_collective.h"
#include "convert.h"
#include "exports.h"
#include "handles.h"
#include "train/trainer.h"

namespace spindle::addon {

namespace {

TrainerOptions to_options(const Napi::Value& value) {
  Fields fields(value, "options");
  TrainerOptions options;
  options.objective.objective = parse_objective(fields.string("objective"));
  options.objective.beta = fields.number("beta");
  if (!fields.is_null("safeguard")) options.objective.safeguard = fields.number("safeguard");
  options.objective.timesteps_per_pair = fields.integer("timestepsPerPair");
  options.objective.timestep_weight = parse_timestep_weight(fields.string("timestepWeight"));
  options.min_snr_gamma = fields.number("minSnrGamma");
  options.scheduler_config = fields.string("schedulerConfig");
  options.compute = to_precision(fields.value("precision"), fields.at("precision"));
  options.learning_rate = {fields.number("learningRate"), parse_schedule(fields.string("schedule")),
                           fields.integer("warmupSteps"), fields.integer("totalSteps")};
  options.adamw = {fields.number("adamBeta1"), fields.number("adamBeta2"),
                   fields.number("adamEpsilon"), fields.number("weightDecay")};
  options.max_grad_norm = fields.number("maxGradNorm");
  options.ema_decay = fields.number("emaDecay");
  options.activation_checkpointing =
      to_boolean(fields.value("activationCheckpointing"), fields.at("activationCheckpointing"));
  if (!fields.is_null("lora")) {
    Fields lora(fields.value("lora"), fields.at("lora"));
    options.lora = {lora.integer("rank"), lora.number("alpha"),
                    to_strings(lora.value("targets"), lora.at("targets"))};
  }
  options.seed = fields.bigint("seed");
  options.iteration = fields.integer("iteration");
  return options;
}

// Null: this process trains alone.
std::optional<RankGroup> to_ranks(const Napi::Value& value) {
  if (value.IsNull()) return std::nullopt;
  Fields fields(value, "ranks");
  return RankGroup{int(fields.integer("rank")), int(fields.integer("worldSize")),
                   fields.string("address"), fields.string("token"),
                   fields.number("timeoutSeconds")};
}

Napi::Value create_trainer(const Napi::CallbackInfo& info) {
  std::shared_ptr<EngineThread> engine = handle<EngineHandle>(info[0]).engine;
  std::optional<ModelSource> opponent;
  if (!info[2].IsNull()) opponent = to_source(info[2], "opponent");
  return enqueue(
      info.Env(), engine, cancel_token(info[5]),
      [device = &engine->device(), init = to_source(info[1], "init"),
       opponent = std::move(opponent), options = to_options(info[3]),
       ranks = to_ranks(info[4])](const CancelToken* cancel) {
        std::unique_ptr<Collective> group = ranks ? connect_ranks(*ranks, cancel) : nullptr;
        return std::make_shared<PrefetchingTrainer>(*device, init, opponent ? &*opponent : nullptr,
                                                    options, std::move(group));
      },
      [engine](Napi::Env env, std::shared_ptr<PrefetchingTrainer>& trainer) {
        auto made = std::make_unique<TrainerHandle>();
        made->engine = engine;
        made->model = std::move(trainer);
        return to_js_handle(env, std::move(made));
      });
}

// A TrainBatch as plain data.
struct Batch {
  int64_t step, offset, step_batch_size;
  double beta;
  bool last, later;
  TensorData real, text;
  std::optional<TensorData> generated, pooled, time_ids;
};

Batch to_batch(const Napi::Value& value) {
  Fields fields(value, "batch");
  Batch batch{fields.integer("step"),
              fields.integer("offset"),
              fields.integer("stepBatchSize"),
              fields.is_null("beta") ? 0 : fields.number("beta"),
              to_boolean(fields.value("last"), fields.at("last")),
              to_boolean(fields.value("later"), fields.at("later")),
              fields.tensor("real", 4),
              fields.tensor("text", 3),
              fields.optional_tensor("generated", 4),
              fields.optional_tensor("pooled", 2),
              fields.optional_tensor("timeIds", 2)};
  return batch;
}

Napi::Value errors_to_js(Napi::Env env, const std::vector<double>& errors) {
  return from_floats(env, {errors.begin(), errors.end()});
}

Napi::Value result_to_js(Napi::Env env, const TrainBatchResult& r) {
  return from_fields(env,
                     {{"loss", from_number(env, r.loss)},
                      {"loserScale", from_number(env, r.loser_scale)},
                      {"errorReal", errors_to_js(env, r.errors.real)},
                      {"errorGenerated", errors_to_js(env, r.errors.generated)},
                      {"opponentErrorReal", errors_to_js(env, r.errors.opponent_real)},
                      {"opponentErrorGenerated", errors_to_js(env, r.errors.opponent_generated)}});
}

// On the engine's thread.
TrainBatch upload(Device& device, const Batch& batch) {
  TrainBatch b;
  b.step = batch.step;
  b.offset = batch.offset;
  b.step_batch_size = batch.step_batch_size;
  b.beta = batch.beta;
  b.last = batch.last;
  b.later = batch.later;
  b.real = batch.real.upload(device);
  if (batch.generated) b.generated = batch.generated->upload(device);
  b.text = batch.text.upload(device);
  if (batch.pooled) b.pooled = batch.pooled->upload(device);
  if (batch.time_ids) b.time_ids = batch.time_ids->values;
  return b;
}

Napi::Value batch_result_to_js(Napi::Env env, TrainBatchResult& r) {
  return from_fields(env, {{"errors", r.later ? env.Null() : result_to_js(env, r)},
                           {"phases", from_phases(env, r.phases)}});
}

Napi::Value train_accumulate(const Napi::CallbackInfo& info) {
  return handle<TrainerHandle>(info[0]).call(
      info.Env(), cancel_token(info[2]),
      [batch = to_batch(info[1])](PrefetchingTrainer& trainer, const CancelToken* cancel) {
        return trainer.accumulate(upload(trainer.unet().device, batch), cancel);
      },
      batch_result_to_js);
}

Napi::Value train_prefetch(const Napi::CallbackInfo& info) {
  return handle<TrainerHandle>(info[0]).call(
      info.Env(), nullptr,
      [batch = to_batch(info[1])](PrefetchingTrainer& trainer, const CancelToken*) {
        trainer.prefetched = upload(trainer.unet().device, batch);
        return Nothing{};
      },
      nothing_to_js);
}

Napi::Value train_accumulate_prefetched(const Napi::CallbackInfo& info) {
  return handle<TrainerHandle>(info[0]).call(
      info.Env(), cancel_token(info[2]),
      [beta = info[1].IsNull() ? 0 : to_number(info[1], "beta")](PrefetchingTrainer& trainer,
                                                                 const CancelToken* cancel) {
        require(trainer.prefetched.has_value(),
                "[train] prefetched: expected a micro-batch that was prefetched, got none");
        TrainBatch batch = *std::exchange(trainer.prefetched, std::nullopt);
        batch.beta = beta;
        return trainer.accumulate(batch, cancel);
      },
      batch_result_to_js);
}

Napi::Value train_apply(const Napi::CallbackInfo& info) {
  return handle<TrainerHandle>(info[0]).call(
      info.Env(), cancel_token(info[3]),
      [step = to_integer(info[1], "step"), scale = to_number(info[2], "learningRateScale")](
          Trainer& trainer, const CancelToken* cancel) {
        return trainer.apply(step, scale, cancel);
      },
      [](Napi::Env env, TrainStepResult& r) -> Napi::Value {
        Napi::Array errors = Napi::Array::New(env, r.batches.size());
        for (uint32_t i = 0; i < r.batches.size(); ++i) errors[i] = result_to_js(env, r.batches[i]);
        return from_fields(env, {{"gradNorm", from_number(env, r.grad_norm)},
                                 {"learningRate", from_number(env, r.learning_rate)},
                                 {"errors", errors},
                                 {"phases", from_phases(env, r.phases)}});
      });
}

Napi::Value train_broadcast_state(const Napi::CallbackInfo& info) {
  return handle<TrainerHandle>(info[0]).call(
      info.Env(), cancel_token(info[1]),
      [](Trainer& trainer, const CancelToken* cancel) {
        trainer.broadcast_state(cancel);
        return Nothing{};
      },
      nothing_to_js);
}

Napi::Value train_verify_ranks(const Napi::CallbackInfo& info) {
  return handle<TrainerHandle>(info[0]).call(
      info.Env(), cancel_token(info[1]),
      [](Trainer& trainer, const CancelToken* cancel) {
        trainer.verify_ranks(cancel);
        return Nothing{};
      },
      nothing_to_js);
}

Napi::Value train_save_state(const Napi::CallbackInfo& info) {
  return handle<TrainerHandle>(info[0]).call(
      info.Env(), nullptr,
      [path = to_string(info[1], "path"), metadata = to_string_map(info[2], "metadata")](
          Trainer& trainer, const CancelToken*) {
        trainer.save_state(path, metadata);
        return Nothing{};
      },
      nothing_to_js);
}

Napi::Value train_load_state(const Napi::CallbackInfo& info) {
  return handle<TrainerHandle>(info[0]).call(
      info.Env(), nullptr,
      [path = to_string(info[1], "path")](Trainer& trainer, const CancelToken*) {
        return trainer.load_state(path);
      },
      [](Napi::Env env, std::map<std::string, std::string>& metadata) {
        return from_string_map(env, metadata);
      });
}

Napi::Value train_export(const Napi::CallbackInfo& info) {
  return handle<TrainerHandle>(info[0]).call(
      info.Env(), nullptr,
      [path = to_string(info[1], "path"), averaged = to_boolean(info[2], "averaged")](
          Trainer& trainer, const CancelToken*) {
        trainer.export_weights(path, averaged);
        return Nothing{};
      },
      nothing_to_js);
}

Napi::Value train_export_adapters(const Napi::CallbackInfo& info) {
  return handle<TrainerHandle>(info[0]).call(
      info.Env(), nullptr,
      [path = to_string(info[1], "path"), averaged = to_boolean(info[2], "averaged")](
          Trainer& trainer, const CancelToken*) {
        trainer.export_adapters(path, averaged);
        return Nothing{};
      },
      nothing_to_js);
}

}  // namespace

void export_training(Napi::Env env, Napi::Object& exports) {
  add<create_trainer>(env, exports, "createTrainer");
  add<train_accumulate>(env, exports, "trainAccumulate");
  add<train_prefetch>(env, exports, "trainPrefetch");
  add<train_accumulate_prefetched>(env, exports, "trainAccumulatePrefetched");
  add<train_apply>(env, exports, "trainApply");
  add<train_broadcast_state>(env, exports, "trainBroadcastState");
  add<train_verify_ranks>(env, exports, "trainVerifyRanks");
  add<train_save_state>(env, exports, "trainSaveState");
  add<train_load_state>(env, exports, "trainLoadState");
  add<train_export>(env, exports, "trainExport");
  add<train_export_adapters>(env, exports, "trainExportAdapters");
}

}  // namespace spindle::addon
