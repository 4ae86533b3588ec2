// What a spin objective plays against: the frozen model that the generated images came from. It is
// either a U-Net of its own or, with LoRA, the U-Net under training with other adapters or with
// none.
//
// What may go wrong: an opponent on the shared U-Net leaves its own adapters active. Whoever runs
// the model next must activate the adapters that it needs.
#pragma once
#include <memory>

#include "train/adapters.h"
#include "train/micro_batch.h"

namespace spindle {

class Opponent {
 public:
  virtual ~Opponent() = default;
  // Errors of the opponent's prediction, into `batch.opponent_errors` (N).
  void measure(const MicroBatch& batch) const;

 private:
  // The U-Net, made to compute as the opponent.
  virtual Unet& activated() const = 0;
};

// A frozen U-Net that is nobody else's.
std::unique_ptr<Opponent> make_opponent(std::unique_ptr<Unet> unet);
// `base` with these adapters on it; null: with none.
std::unique_ptr<Opponent> make_opponent(Unet& base, std::unique_ptr<Adapters> adapters);

}  // namespace spindle
