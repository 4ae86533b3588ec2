// Two sources of random numbers. TorchGenerator repeats PyTorch's CPU generator, so that a seed
// gives the image that diffusers gives. Philox is counter-based: a draw depends on its coordinates
// alone, so that resuming or re-sharding changes nothing.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <random>
#include <vector>

namespace spindle {

class TorchGenerator {
 public:
  // torch.Generator().manual_seed(seed): the low 32 bits count.
  explicit TorchGenerator(uint64_t seed) : engine_(uint32_t(seed)) {}
  // torch.randn(count, generator=self), float32.
  void randn(float* out, int64_t count);
  std::vector<float> randn(int64_t count);

 private:
  float uniform_float();
  double uniform_double();
  double normal_double();
  std::mt19937 engine_;
  std::optional<double> cached_;  // second value of the last pair, kept between short draws
};

// What a draw is for; part of its coordinates.
enum class Draw : uint32_t {
  Timestep = 1,
  Noise = 2,
  Posterior = 3,
  CaptionDropout = 4,
  Test = 5,
  Adapter = 6
};

// Philox4x32-10, keyed by (seed, iteration), with counter (step, sample, draw, block).
class Philox {
 public:
  Philox(uint64_t seed, uint32_t iteration);
  std::array<uint32_t, 4> block(uint32_t step, uint32_t sample, Draw draw, uint32_t index) const;
  // In [0, 1).
  double uniform(uint32_t step, uint32_t sample, Draw draw, uint32_t index = 0) const;
  // In [0, bound).
  uint32_t integer(uint32_t step,
                   uint32_t sample,
                   Draw draw,
                   uint32_t bound,
                   uint32_t index = 0) const;
  // `count` standard normal values.
  void normal(float* out, int64_t count, uint32_t step, uint32_t sample, Draw draw) const;

  std::array<uint32_t, 2> key() const { return key_; }

  // The bare function, for its published test vectors.
  static std::array<uint32_t, 4> rounds(std::array<uint32_t, 4> counter,
                                        std::array<uint32_t, 2> key);

 private:
  std::array<uint32_t, 2> key_;
};

}  // namespace spindle
