// The counter-based generator. PyTorch's is checked against PyTorch's own draws by the golden
// fixtures.
#include <cmath>
#include <set>

#include "check.h"
#include "core/rng.h"

using namespace spindle;

TEST("philox: the published vectors of Random123") {
  using Words = std::array<uint32_t, 4>;
  CHECK(Philox::rounds({0, 0, 0, 0}, {0, 0}) ==
        (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  CHECK(Philox::rounds({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) ==
        (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK(
      Philox::rounds({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
      (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST("philox: a draw depends on each of its coordinates and on nothing else") {
  std::set<std::array<uint32_t, 4>> blocks;
  for (uint64_t seed : {0, 1})
    for (uint32_t iteration : {0, 1})
      for (uint32_t step : {0, 1})
        for (uint32_t sample : {0, 1})
          for (Draw draw : {Draw::Noise, Draw::Timestep})
            blocks.insert(Philox(seed, iteration).block(step, sample, draw, 0));
  CHECK_EQUAL(blocks.size(), size_t(32));
  float a[7], b[7];
  Philox(3, 1).normal(a, 7, 5, 6, Draw::Noise);
  Philox again(3, 1);
  again.uniform(1, 1, Draw::Timestep);
  again.normal(b, 7, 5, 6, Draw::Noise);
  for (int i = 0; i < 7; ++i) CHECK_EQUAL(a[i], b[i]);
}

TEST("philox: normal values have the moments of a normal, integers stay within their bound") {
  constexpr int64_t kCount = 200000;
  std::vector<float> x(kCount);
  Philox rng(42, 0);
  rng.normal(x.data(), kCount, 0, 0, Draw::Test);
  double mean = 0, square = 0, fourth = 0;
  for (float v : x) {
    CHECK(std::isfinite(v));
    mean += double(v) / kCount;
    square += double(v) * double(v) / kCount;
    fourth += std::pow(double(v), 4) / kCount;
  }
  CHECK_THAT(std::abs(mean) < 0.01, mean);
  CHECK_THAT(std::abs(square - 1) < 0.02, square);
  CHECK_THAT(std::abs(fourth - 3) < 0.1, fourth);
  std::array<int, 10> counts{};
  for (uint32_t i = 0; i < 20000; ++i) {
    uint32_t k = rng.integer(i, 0, Draw::Timestep, 10);
    CHECK(k < 10);
    ++counts[k];
    double u = rng.uniform(i, 0, Draw::CaptionDropout);
    CHECK(u >= 0 && u < 1);
  }
  for (int c : counts) CHECK_THAT(c > 1800 && c < 2200, c);
}

TEST("torch generator: short draws use both values of a pair, long ones do not touch them") {
  TorchGenerator one(5), pair(5);
  std::vector<float> both = pair.randn(2), first = one.randn(1), second = one.randn(1);
  CHECK_EQUAL(both[0], first[0]);
  CHECK_EQUAL(both[1], second[0]);
  CHECK(TorchGenerator(uint64_t(1) << 32 | 5).randn(16) == TorchGenerator(5).randn(16));
  TorchGenerator kept(9), plain(9);
  kept.randn(1);
  plain.randn(1);
  kept.randn(32);
  float cached = kept.randn(1)[0];
  CHECK_EQUAL(cached, plain.randn(1)[0]);
}
