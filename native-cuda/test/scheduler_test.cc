// Samplers beyond what the golden fixtures hold: every option runs, state is forgotten, bad configs
// are refused by name.
#include <cmath>

#include "check.h"
#include "core/rng.h"
#include "kernels/backend.h"
#include "sample/scheduler.h"
#include "sample/step_table.h"

using namespace spindle;

namespace {
Json config(const std::string& name, Json::Object more = {}) {
  Json json = Json::Object{{"_class_name", name},         {"_diffusers_version", "0"},
                           {"num_train_timesteps", 1000}, {"beta_start", 0.00085},
                           {"beta_end", 0.012},           {"beta_schedule", "scaled_linear"},
                           {"clip_sample", false},        {"steps_offset", 1}};
  for (auto& [key, value] : more) json.set(key, std::move(value));
  return json;
}

void no_noise(float*, int64_t) { throw Error(Code::Internal, "asked for noise"); }

// The best prediction when the data is one point: every sampler must end close to it.
constexpr float kPoint = 0.7f;

std::vector<float> sample_point(Scheduler& scheduler,
                                int64_t steps,
                                const NoiseSource& noise = no_noise) {
  scheduler.set_timesteps(steps);
  std::vector<float> x = {1.3f, -0.4f, 0.2f};
  for (float& v : x) v *= float(scheduler.init_noise_sigma());
  const NoiseSchedule& schedule = scheduler.schedule();
  for (size_t i = 0; i < scheduler.timesteps().size(); ++i) {
    std::vector<float> input = x, out(x.size());
    scheduler.scale_model_input(input.data(), 3, i);
    double t = scheduler.timesteps()[i], low = std::floor(t);
    double a0 = double(schedule.alphas_cumprod[size_t(low)]),
           a1 = double(schedule.alphas_cumprod[std::min<size_t>(999, size_t(low) + 1)]),
           w = t - low;
    double s = std::sqrt((1 - a0) / a0) * (1 - w) + std::sqrt((1 - a1) / a1) * w,
           a = 1 / (1 + s * s);
    for (size_t k = 0; k < x.size(); ++k) {
      double eps = (double(input[k]) - std::sqrt(a) * double(kPoint)) / std::sqrt(1 - a);
      out[k] = float(schedule.prediction_type == PredictionType::Epsilon ? eps
                     : schedule.prediction_type == PredictionType::Sample
                         ? double(kPoint)
                         : std::sqrt(a) * eps - std::sqrt(1 - a) * double(kPoint));
    }
    scheduler.step(x.data(), out.data(), 3, i, noise);
  }
  return x;
}

std::string message_of(const Json& json, double eta = 0) {
  try {
    make_scheduler(json, eta);
  } catch (const Error& e) {
    CHECK(e.code() == Code::InvalidArgument);
    return e.what();
  }
  return "";
}
}  // namespace

TEST("schedulers: with a perfect model every configuration arrives at the data, again and again") {
  std::vector<Json> configs;
  for (const char* spacing : {"leading", "trailing", "linspace"})
    for (const char* prediction : {"epsilon", "v_prediction"}) {
      Json::Object base = {{"timestep_spacing", spacing},
                           {"prediction_type", prediction},
                           {"steps_offset", std::string(spacing) == "leading" ? 1 : 0}};
      auto with = [&](const char* name, Json::Object more) {
        more.insert(more.end(), base.begin(), base.end());
        configs.push_back(config(name, more));
      };
      with("DDIMScheduler", {});
      with("DDIMScheduler", {{"beta_schedule", "linear"}, {"set_alpha_to_one", false}});
      with("DDIMScheduler", {{"beta_schedule", "squaredcos_cap_v2"}});
      with("PNDMScheduler", {{"skip_prk_steps", true}});
      with("PNDMScheduler", {{"skip_prk_steps", false}});
      for (const char* solver : {"midpoint", "heun"})
        for (bool karras : {false, true})
          with("DPMSolverMultistepScheduler",
               {{"solver_type", solver}, {"use_karras_sigmas", karras}});
      with("DPMSolverMultistepScheduler",
           {{"solver_order", 1}, {"final_sigmas_type", "sigma_min"}});
      with("DPMSolverMultistepScheduler", {{"euler_at_final", true}, {"lower_order_final", false}});
      with("EulerDiscreteScheduler", {});
      with("EulerDiscreteScheduler",
           {{"use_karras_sigmas", true}, {"final_sigmas_type", "sigma_min"}});
      with("EulerAncestralDiscreteScheduler", {});
      for (bool karras : {false, true}) {
        with("HeunDiscreteScheduler", {{"use_karras_sigmas", karras}});
        for (const char* solver : {"midpoint", "heun"})
          with("DPMSolverMultistepScheduler", {{"algorithm_type", "sde-dpmsolver++"},
                                               {"solver_type", solver},
                                               {"use_karras_sigmas", karras}});
        for (int64_t order : {1, 2, 3})
          for (const char* solver : {"bh1", "bh2"})
            with("UniPCMultistepScheduler",
                 {{"solver_order", order}, {"solver_type", solver}, {"use_karras_sigmas", karras}});
      }
      with("UniPCMultistepScheduler", {{"final_sigmas_type", "sigma_min"},
                                       {"lower_order_final", false},
                                       {"disable_corrector", Json::Array{0, 3}}});
      with("LCMScheduler", {});
      for (const char* variance : {"fixed_small", "fixed_small_log"})
        with("DDPMScheduler", {{"variance_type", variance}});
    }
  configs.push_back(config("DDIMScheduler", {{"prediction_type", "sample"}}));
  for (const char* name : {"DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
                           "HeunDiscreteScheduler", "LCMScheduler", "DDPMScheduler"})
    configs.push_back(config(name, {{"prediction_type", "sample"}}));
  for (const Json& json : configs)
    check::each(json.dump(), [&] {
      std::unique_ptr<Scheduler> scheduler = make_scheduler(json);
      auto sampled = [&](int64_t steps) {
        TorchGenerator generator(11);
        return sample_point(*scheduler, steps,
                            [&](float* out, int64_t count) { generator.randn(out, count); });
      };
      std::vector<float> first = sampled(25);
      for (float v : first) CHECK_THAT(std::abs(v - kPoint) < 0.08, v);
      sampled(10);
      CHECK(sampled(25) == first);
    });
}

// Step by step as a backend does it that keeps all of it in its own memory.
std::vector<float> sample_by_table(Scheduler& scheduler,
                                   int64_t steps,
                                   double guidance,
                                   const std::function<float(size_t, size_t, float)>& model,
                                   std::vector<float> x,
                                   const NoiseSource& noise) {
  std::unique_ptr<Backend> kernels = make_reference_kernels();
  BufferPool pool;
  scheduler.set_timesteps(steps);
  std::vector<float> table = step_table(scheduler, guidance);
  int64_t n = int64_t(x.size()), calls = int64_t(scheduler.timesteps().size());
  SamplerTensors s{Tensor(pool, {kSamplerRows, n}, DType::F32),
                   Tensor(pool, {calls, kSamplerColumns}, DType::F32),
                   Tensor(pool, {1}, DType::F64)};
  std::copy(table.begin(), table.end(), s.table.f32());
  std::fill(s.memory.f32(), s.memory.f32() + s.memory.numel(),
            NAN);  // what no step left may not be read
  std::copy(x.begin(), x.end(), s.memory.f32());
  *s.at.data<double>() = 0;
  Tensor input(pool, {2, n}, DType::F32), timesteps(pool, {4}, DType::F32),
      output(pool, {2, n}, DType::F32), z(pool, {n}, DType::F32);
  for (size_t i = 0; i < size_t(calls); ++i) {
    kernels->run(SamplerInput{.input = input, .timesteps = timesteps, .sampler = s});
    for (int64_t k = 0; k < 4; ++k)
      CHECK_EQUAL(timesteps.f32()[k], float(scheduler.timesteps()[i]));
    for (int64_t k = 0; k < 2 * n; ++k) output.f32()[k] = model(i, size_t(k), input.f32()[k]);
    if (scheduler.linear_step(i).draws) noise(z.f32(), n);
    kernels->run(SamplerStep{.sampler = s, .output = output, .noise = z});
  }
  CHECK_EQUAL(*s.at.data<double>(), double(calls));
  return {s.memory.f32(), s.memory.f32() + n};
}

TEST("schedulers: every step as sums of products gives what the step gives") {
  std::vector<std::pair<Json, double>> configs;
  for (const char* spacing : {"leading", "trailing", "linspace"})
    for (const char* prediction : {"epsilon", "v_prediction", "sample"}) {
      auto with = [&](const char* name, Json::Object more, double eta = 0) {
        more.insert(more.end(), {{"timestep_spacing", spacing},
                                 {"prediction_type", prediction},
                                 {"steps_offset", std::string(spacing) == "leading" ? 1 : 0}});
        configs.push_back({config(name, more), eta});
      };
      with("DDIMScheduler", {});
      with("DDIMScheduler",
           {{"clip_sample", true}, {"clip_sample_range", 0.8}, {"set_alpha_to_one", false}}, 0.6);
      for (const char* solver : {"midpoint", "heun"})
        for (bool karras : {false, true})
          with("DPMSolverMultistepScheduler",
               {{"solver_type", solver},
                {"use_karras_sigmas", karras},
                {"final_sigmas_type", karras ? "sigma_min" : "zero"}});
      with("DPMSolverMultistepScheduler", {{"solver_order", 1}});
      with("DPMSolverMultistepScheduler", {{"algorithm_type", "sde-dpmsolver++"}});
      for (bool karras : {false, true}) {
        with("UniPCMultistepScheduler", {{"solver_order", 3}, {"use_karras_sigmas", karras}});
        with("HeunDiscreteScheduler", {{"use_karras_sigmas", karras}, {"clip_sample", karras}});
      }
      with("LCMScheduler", {});
      with("DDPMScheduler", {{"clip_sample", true}, {"clip_sample_range", 0.8}});
      with("DDPMScheduler", {{"variance_type", "fixed_large"}});
      if (std::string(prediction) == "sample") continue;
      with("EulerAncestralDiscreteScheduler", {});
      for (bool skip : {false, true}) with("PNDMScheduler", {{"skip_prk_steps", skip}});
      with("EulerDiscreteScheduler", {});
      with("EulerDiscreteScheduler",
           {{"use_karras_sigmas", true}, {"final_sigmas_type", "sigma_min"}});
    }
  // Of the step, of the value (the second half are the conditional ones), of the input.
  auto model = [](size_t i, size_t k, float input) {
    return std::sin(float(3 * i + k)) * 0.3f + 0.5f * std::tanh(input);
  };
  constexpr double kGuidanceScale = 2.5;
  for (auto& [json, eta] : configs)
    for (int64_t steps : {1, 2, 7, 20})
      check::each(
          cat(json.dump(), ", eta ", eta, ", ", steps, " steps"), [&, json = json, eta = eta] {
            std::unique_ptr<Scheduler> scheduler = make_scheduler(json, eta);
            if (json.dump().find("\"skip_prk_steps\":false") != std::string::npos && steps < 4)
              return;
            TorchGenerator first(5), second(5);
            scheduler->set_timesteps(steps);
            std::vector<float> x = {1.3f, -0.4f, 0.2f, 2.0f, -1.1f}, start;
            size_t n = x.size();
            for (float& value : x) value *= float(scheduler->init_noise_sigma());
            start = x;
            for (size_t i = 0; i < scheduler->timesteps().size(); ++i) {
              std::vector<float> input = x, output(n);
              scheduler->scale_model_input(input.data(), int64_t(n), i);
              for (size_t k = 0; k < n; ++k) {
                float uncond = model(i, k, input[k]), cond = model(i, n + k, input[k]);
                output[k] = uncond + float(kGuidanceScale) * (cond - uncond);
              }
              scheduler->step(x.data(), output.data(), int64_t(n), i,
                              [&](float* out, int64_t count) { first.randn(out, count); });
            }
            std::vector<float> got =
                sample_by_table(*scheduler, steps, kGuidanceScale, model, start,
                                [&](float* out, int64_t count) { second.randn(out, count); });
            for (size_t k = 0; k < n; ++k)
              CHECK_THAT(std::abs(got[k] - x[k]) <= 2e-5f * std::max(1.0f, std::abs(x[k])),
                         "value ", k, ": ", got[k], ", expected ", x[k]);
          });
}

TEST("ddim: eta adds noise of the right size and clipping clips") {
  int64_t asked = 0;
  auto noise = [&](float* out, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = 0;
    asked += count;
  };
  std::unique_ptr<Scheduler> scheduler = make_scheduler(config("DDIMScheduler"), 1.0);
  for (float v : sample_point(*scheduler, 20, noise)) CHECK_THAT(std::abs(v - kPoint) < 0.08, v);
  CHECK_EQUAL(asked, 60);
  std::unique_ptr<Scheduler> clipped = make_scheduler(
      config("DDIMScheduler",
             {{"clip_sample", true}, {"clip_sample_range", 0.25}, {"set_alpha_to_one", true}}));
  for (float v : sample_point(*clipped, 20)) CHECK_THAT(std::abs(v - 0.25f) < 0.02, v);
}

TEST("schedulers: one step, and as many steps as there are timesteps, work") {
  for (const char* name :
       {"DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler",
        "LCMScheduler", "DDPMScheduler"})
    check::each(name, [&] {
      std::unique_ptr<Scheduler> scheduler =
          make_scheduler(config(name, {{"skip_prk_steps", true},
                                       {"steps_offset", 0},
                                       {"timestep_spacing", "leading"},
                                       {"original_inference_steps", 1000}}));
      TorchGenerator generator(3);
      for (int64_t steps : {1, 2, 3, 999})
        for (float v : sample_point(*scheduler, steps, [&](float* out, int64_t count) {
               generator.randn(out, count);
             }))
          CHECK(std::isfinite(v));
      CHECK_THROWS(scheduler->set_timesteps(0), Code::InvalidArgument);
      CHECK_THROWS(scheduler->set_timesteps(1001), Code::InvalidArgument);
    });
}

TEST("schedulers: unknown keys and unsupported values are refused by name") {
  CHECK_EQUAL(
      message_of(config("DDIMScheduler", {{"sampler", 1}})),
      std::string(
          "scheduler_config.json: sampler: expected a known key, got this one with value 1"));
  CHECK(message_of(config("DPMSolverSDEScheduler"))
            .find("_class_name: expected DDIMScheduler, DDPMScheduler, PNDMScheduler, ") !=
        std::string::npos);
  struct Row {
    const char* name;
    const char* key;
    Json value;
  };
  for (const Row& row : std::initializer_list<Row>{
           {"DDIMScheduler", "thresholding", true},
           {"DDIMScheduler", "beta_schedule", "sigmoid"},
           {"DDIMScheduler", "timestep_spacing", "random"},
           {"DDIMScheduler", "prediction_type", "flow"},
           {"DDIMScheduler", "num_train_timesteps", 1},
           {"DDIMScheduler", "num_train_timesteps", "many"},
           {"DDIMScheduler", "steps_offset", 0.5},
           {"PNDMScheduler", "prediction_type", "sample"},
           {"EulerDiscreteScheduler", "prediction_type", "sample"},
           {"EulerDiscreteScheduler", "interpolation_type", "log_linear"},
           {"EulerDiscreteScheduler", "timestep_type", "continuous"},
           {"DDIMScheduler", "timestep_type", "continuous"},
           {"PNDMScheduler", "use_flow_sigmas", true},
           {"DDIMScheduler", "beta_start", Json()},
           {"EulerDiscreteScheduler", "sigma_max", 80},
           {"EulerDiscreteScheduler", "use_beta_sigmas", true},
           {"DPMSolverMultistepScheduler", "algorithm_type", "sde-dpmsolver"},
           {"EulerAncestralDiscreteScheduler", "prediction_type", "sample"},
           {"HeunDiscreteScheduler", "use_exponential_sigmas", true},
           {"HeunDiscreteScheduler", "rescale_betas_zero_snr", true},
           {"UniPCMultistepScheduler", "predict_x0", false},
           {"UniPCMultistepScheduler", "lower_order_final", false},
           {"UniPCMultistepScheduler", "solver_order", 4},
           {"UniPCMultistepScheduler", "solver_p", "DDIMScheduler"},
           {"UniPCMultistepScheduler", "sigma_max", 10},
           {"LCMScheduler", "original_inference_steps", 1001},
           {"LCMScheduler", "thresholding", true},
           {"DDPMScheduler", "variance_type", "learned_range"},
           {"DDPMScheduler", "variance_type", "fixed_large_log"},
           {"DPMSolverMultistepScheduler", "solver_order", 3},
           {"DPMSolverMultistepScheduler", "solver_type", "bh1"},
           {"DPMSolverMultistepScheduler", "use_lu_lambdas", true},
           {"DPMSolverMultistepScheduler", "use_flow_sigmas", true},
           {"DPMSolverMultistepScheduler", "lambda_min_clipped", -5.1},
           {"DPMSolverMultistepScheduler", "variance_type", "learned_range"}})
    check::each(cat(row.name, ".", row.key), [&] {
      std::string message = message_of(config(row.name, {{row.key, row.value}}));
      CHECK_THAT(message.find(cat(row.key, ": expected ")) != std::string::npos, message);
      CHECK_THAT(message.find(cat("got ", row.value.dump())) != std::string::npos, message);
    });
  CHECK(message_of(config("PNDMScheduler"), 0.5).find("eta: expected 0 for PNDMScheduler") !=
        std::string::npos);
  CHECK(message_of(config("DDIMScheduler", {{"trained_betas", Json::Array{0.1, 0.2}}}))
            .find("trained_betas: expected num_train_timesteps = 1000 values, got 2") !=
        std::string::npos);
  // Another scheduler's key has no effect, as in diffusers.
  CHECK_EQUAL(
      message_of(config("DDIMScheduler", {{"skip_prk_steps", true}, {"algorithm_type", "deis"}})),
      std::string());
}

TEST("noise schedule: what is added can be taken away, and velocity is what it should be") {
  NoiseSchedule schedule =
      NoiseSchedule::parse(config("DDIMScheduler", {{"prediction_type", "v_prediction"}}).dump());
  float x[2] = {0.5f, -1}, noise[2] = {-0.25f, 2}, noisy[2], target[2];
  schedule.add_noise(noisy, x, noise, 2, 700);
  schedule.target(target, x, noise, 2, 700);
  double a = double(schedule.alphas_cumprod[700]);
  for (int i = 0; i < 2; ++i)
    CHECK(std::abs(std::sqrt(a) * double(noisy[i]) - std::sqrt(1 - a) * double(target[i]) -
                   double(x[i])) < 1e-6);
  CHECK_THROWS(schedule.add_noise(noisy, x, noise, 2, 1000), Code::InvalidArgument);
  // Of a model that was trained with other noise, or told other times.
  for (const char* text : {R"({"use_flow_sigmas":true})", R"({"timestep_type":"continuous"})"})
    CHECK_THROWS(NoiseSchedule::parse(text), Code::InvalidArgument);
  NoiseSchedule zero =
      NoiseSchedule::parse(config("DDIMScheduler", {{"rescale_betas_zero_snr", true}}).dump());
  CHECK_EQUAL(zero.alphas_cumprod.back(), 0.0f);
  Json::Array betas(1000, Json(0.01));
  NoiseSchedule trained =
      NoiseSchedule::parse(config("DDIMScheduler", {{"trained_betas", betas}}).dump());
  CHECK(std::abs(trained.alphas_cumprod[9] - std::pow(0.99f, 10.0f)) < 1e-5f);
}

TEST("schedulers: a step of two calls is two of them, and the last one has one") {
  for (int64_t steps : {1, 2, 12}) {
    std::unique_ptr<Scheduler> heun = make_scheduler(config("HeunDiscreteScheduler"));
    heun->set_timesteps(steps);
    CHECK_EQUAL(int64_t(heun->timesteps().size()), 2 * steps - 1);
  }
  std::unique_ptr<Scheduler> lcm = make_scheduler(config("LCMScheduler"));
  lcm->set_timesteps(4);
  CHECK((lcm->timesteps() == std::vector<double>{999, 759, 499, 259}));
  CHECK_THROWS(lcm->set_timesteps(51), Code::InvalidArgument);
}

TEST("noise schedule: betas that a config leaves out are those of its class") {
  auto last = [](const char* name, Json::Object more = {}) {
    more.push_back({"_class_name", name});
    return NoiseSchedule::parse(Json(more).dump()).alphas_cumprod.back();
  };
  Json::Object spelled = {{"beta_start", 0.00085}, {"beta_end", 0.012}};
  CHECK_EQUAL(last("HeunDiscreteScheduler"), last("DDPMScheduler", spelled));
  CHECK_EQUAL(last("KDPM2DiscreteScheduler"), last("DDPMScheduler", spelled));
  spelled.push_back({"beta_schedule", "scaled_linear"});
  CHECK_EQUAL(last("LCMScheduler"), last("DDPMScheduler", spelled));
  CHECK(last("LCMScheduler") != last("DDPMScheduler"));
}
