#include "core/rng.h"

#include <cmath>
#include <numbers>

namespace spindle {

namespace {
constexpr double kTwoPi = 2 * std::numbers::pi;

// PyTorch's normal_fill_16: the first half gives radii, the second angles. Double inside, so that
// every libm gives the same floats.
void box_muller_16(float* data) {
  for (int j = 0; j < 8; ++j) {
    double radius = std::sqrt(-2 * std::log(1.0 - double(data[j])));
    double theta = kTwoPi * double(data[j + 8]);
    data[j] = float(radius * std::cos(theta));
    data[j + 8] = float(radius * std::sin(theta));
  }
}

uint64_t splitmix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
}  // namespace

float TorchGenerator::uniform_float() { return float(engine_() & 0xffffffu) * 0x1p-24f; }

double TorchGenerator::uniform_double() {
  uint64_t high = engine_(), low = engine_();
  return double((high << 32 | low) & ((uint64_t(1) << 53) - 1)) * 0x1p-53;
}

double TorchGenerator::normal_double() {
  if (cached_) {
    double x = *cached_;
    cached_.reset();
    return x;
  }
  double u1 = uniform_double(), u2 = uniform_double();
  double radius = std::sqrt(-2 * std::log1p(-u2)), theta = kTwoPi * u1;
  cached_ = radius * std::sin(theta);
  return radius * std::cos(theta);
}

void TorchGenerator::randn(float* out, int64_t count) {
  if (count < 16) {
    for (int64_t i = 0; i < count; ++i) out[i] = float(normal_double());
    return;
  }
  for (int64_t i = 0; i < count; ++i) out[i] = uniform_float();
  for (int64_t i = 0; i + 16 <= count; i += 16) box_muller_16(out + i);
  if (count % 16 != 0) {  // the last 16 are drawn anew
    float* tail = out + count - 16;
    for (int64_t i = 0; i < 16; ++i) tail[i] = uniform_float();
    box_muller_16(tail);
  }
}

std::vector<float> TorchGenerator::randn(int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  randn(out.data(), count);
  return out;
}

Philox::Philox(uint64_t seed, uint32_t iteration) {
  uint64_t key = splitmix64(seed ^ splitmix64(iteration));
  key_ = {uint32_t(key), uint32_t(key >> 32)};
}

std::array<uint32_t, 4> Philox::rounds(std::array<uint32_t, 4> c, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = uint64_t(0xd2511f53u) * c[0], p1 = uint64_t(0xcd9e8d57u) * c[2];
    c = {uint32_t(p1 >> 32) ^ c[1] ^ key[0], uint32_t(p1), uint32_t(p0 >> 32) ^ c[3] ^ key[1],
         uint32_t(p0)};
    key[0] += 0x9e3779b9u;
    key[1] += 0xbb67ae85u;
  }
  return c;
}

std::array<uint32_t, 4> Philox::block(uint32_t step,
                                      uint32_t sample,
                                      Draw draw,
                                      uint32_t index) const {
  return rounds({index, sample, step, uint32_t(draw)}, key_);
}

double Philox::uniform(uint32_t step, uint32_t sample, Draw draw, uint32_t index) const {
  auto words = block(step, sample, draw, index);
  return double((uint64_t(words[0]) << 32 | words[1]) >> 11) * 0x1p-53;
}

// 64 random bits against a 32-bit bound: the bias is below 2^-32.
uint32_t Philox::integer(uint32_t step,
                         uint32_t sample,
                         Draw draw,
                         uint32_t bound,
                         uint32_t index) const {
  auto words = block(step, sample, draw, index);
  uint64_t low = uint64_t(words[1]) * bound;
  return uint32_t((uint64_t(words[0]) * bound + (low >> 32)) >> 32);
}

void Philox::normal(float* out, int64_t count, uint32_t step, uint32_t sample, Draw draw) const {
  for (int64_t i = 0; i < count; i += 4) {
    auto words = block(step, sample, draw, uint32_t(i / 4));
    float four[4];
    for (size_t pair = 0; pair < 2; ++pair) {
      // (0, 1], so that the logarithm is finite
      double u = (double(words[2 * pair]) + 1) * 0x1p-32, v = double(words[2 * pair + 1]) * 0x1p-32;
      double radius = std::sqrt(-2 * std::log(u));
      four[2 * pair] = float(radius * std::cos(kTwoPi * v));
      four[2 * pair + 1] = float(radius * std::sin(kTwoPi * v));
    }
    for (int64_t k = 0; k < 4 && i + k < count; ++k) out[i + k] = four[k];
  }
}

}  // namespace spindle
