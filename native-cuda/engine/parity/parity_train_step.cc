// Replays fixtures of training steps.
#include <cmath>

#include "parity/tensors.h"
#include "train/trainer.h"

namespace spindle {

namespace {

Objective fixture_objective(const std::string& name) {
  if (name == "logistic") return Objective::SpinLogistic;
  if (name == "hinge") return Objective::SpinHinge;
  require(name == "mse", "[parity] objective: expected logistic, hinge or mse, got ", name);
  return Objective::Sft;
}

TrainerOptions fixture_options(const Fixture& fixture) {
  Config optimizer(fixture.at("optimizer"), fixture.directory());
  Json scheduler = fixture.at("scheduler");
  scheduler.set("prediction_type", fixture.at("prediction_type"));
  std::vector<double> betas = optimizer.numbers("betas");
  require(betas.size() == 2, "[parity] ", fixture.directory(),
          ": optimizer.betas: expected 2 numbers, got ", betas.size());
  TrainerOptions options;
  options.objective.objective = fixture_objective(fixture.at("objective").string());
  options.objective.beta = fixture.at("beta").number();
  options.scheduler_config = scheduler.dump();
  options.compute = fixture.compute();
  options.learning_rate.base = optimizer.number("lr");
  options.adamw = {.beta1 = betas[0],
                   .beta2 = betas[1],
                   .epsilon = optimizer.number("eps"),
                   .weight_decay = optimizer.number("weight_decay")};
  options.max_grad_norm = optimizer.number("max_grad_norm");
  return options;
}

std::vector<float> floats(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

}  // namespace

// Optimiser steps from recorded batches, noise and timesteps; then every weight.
void replay_train_step(Fixture& fixture, Device& device) {
  TrainerOptions options = fixture_options(fixture);
  ModelSource init = fixture_model(fixture),
              opponent = fixture_model(fixture, "opponent.safetensors");
  Trainer trainer(device, init, is_spin(options.objective.objective) ? &opponent : nullptr,
                  options);
  const SafetensorsFile& inputs = fixture.inputs();
  for (int64_t step = 0; inputs.find(cat("step", step, ".real")); ++step) {
    auto name = [step](const char* tensor) { return cat("step", step, ".", tensor); };
    TrainBatch batch;
    batch.step = step;
    batch.real = read_tensor(device, inputs, name("real"));
    if (is_spin(options.objective.objective))
      batch.generated = read_tensor(device, inputs, name("generated"));
    batch.text = read_tensor(device, inputs, name("encoder_hidden_states"));
    batch.noise = read_tensor(device, inputs, name("noise"));
    batch.timesteps = inputs.integers(name("timesteps"));
    batch.step_batch_size = batch.real.dim(0);
    TrainBatchResult result = trainer.accumulate(batch, nullptr);
    TrainStepResult applied = trainer.apply(step);
    auto compare = [&](const char* tensor, const std::vector<float>& got) {
      if (fixture.expected().find(name(tensor))) fixture.compare(name(tensor), got);
    };
    compare("loss", {float(result.loss)});
    compare("grad_norm", {float(applied.grad_norm)});
    const Errors& e = result.errors;
    compare("real_mse", floats(e.real));
    compare("generated_mse", floats(e.generated));
    compare("real_mse_opponent", floats(e.opponent_real));
    compare("generated_mse_opponent", floats(e.opponent_generated));
    if (!is_spin(options.objective.objective)) continue;
    double wins = 0;
    for (size_t i = 0; i < e.real.size(); ++i)
      wins += (e.real[i] - e.opponent_real[i]) - (e.generated[i] - e.opponent_generated[i]) < 0;
    compare("implicit_accuracy", {float(wins / double(e.real.size()))});
  }
  for (const Parameter& p : trainer.unet().store.parameters())
    if (fixture.expected().find("weights." + p.name))
      fixture.compare("weights." + p.name, in_file_layout(device, p, p.master));
}

}  // namespace spindle
