#include "train/opponent.h"

namespace spindle {

namespace {

class OwnUnet : public Opponent {
 public:
  explicit OwnUnet(std::unique_ptr<Unet> unet) : unet_(std::move(unet)) {}

 private:
  Unet& activated() const override { return *unet_; }

  std::unique_ptr<Unet> unet_;
};

class AdaptedBase : public Opponent {
 public:
  AdaptedBase(Unet& base, std::unique_ptr<Adapters> adapters)
      : base_(base), adapters_(std::move(adapters)) {}

 private:
  Unet& activated() const override {
    if (adapters_)
      adapters_->activate();
    else
      Adapters::deactivate(base_);
    return base_;
  }

  Unet& base_;
  std::unique_ptr<Adapters> adapters_;  // null: none
};

}  // namespace

void Opponent::measure(const MicroBatch& batch) const {
  Unet& unet = activated();
  Tape tape(unet.device, false);
  unet.device.kernels().run(MsePerImage{.errors = batch.opponent_errors,
                                        .prediction = unet.model.forward(tape, batch.inputs),
                                        .target = batch.target});
}

std::unique_ptr<Opponent> make_opponent(std::unique_ptr<Unet> unet) {
  return std::make_unique<OwnUnet>(std::move(unet));
}

std::unique_ptr<Opponent> make_opponent(Unet& base, std::unique_ptr<Adapters> adapters) {
  return std::make_unique<AdaptedBase>(base, std::move(adapters));
}

}  // namespace spindle
