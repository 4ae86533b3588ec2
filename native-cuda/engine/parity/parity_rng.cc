// Kind rng: randn.SEED.COUNT is one draw, sequence.SEED two successive draws of 256.
#include "core/error.h"
#include "core/rng.h"
#include "parity/parity.h"

namespace spindle {

namespace {
uint64_t number_in(const std::string& name, size_t begin, size_t end) {
  std::string digits = name.substr(begin, end - begin);
  require(!digits.empty() && digits.size() <= 19 &&
              digits.find_first_not_of("0123456789") == std::string::npos,
          name, ": expected randn.SEED.COUNT or sequence.SEED, got this name");
  return std::stoull(digits);
}
}  // namespace

void replay_rng(Fixture& fixture, Device&) {
  for (const FileTensor& tensor : fixture.expected().tensors()) {
    const std::string& name = tensor.name;
    if (name.starts_with("sequence.")) {
      TorchGenerator generator(number_in(name, 9, name.size()));
      std::vector<float> got = generator.randn(256), second = generator.randn(256);
      got.insert(got.end(), second.begin(), second.end());
      fixture.compare(name, got);
    } else {
      require(name.starts_with("randn."), name,
              ": expected randn.SEED.COUNT or sequence.SEED, got this name");
      TorchGenerator generator(number_in(name, 6, name.find('.', 6)));
      fixture.compare(name, generator.randn(tensor.numel()));
    }
  }
}

}  // namespace spindle
