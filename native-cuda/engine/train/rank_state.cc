#include "train/rank_state.h"

#include "core/digest.h"

namespace spindle {

void broadcast_values(Collective& ranks,
                      const std::vector<ParameterValues>& state,
                      const CancelToken* cancel) {
  for (const ParameterValues& values : state)
    ranks.broadcast({values.arena.f32(), values.arena.numel()}, cancel);
}

void verify_values(Collective& ranks,
                   const std::vector<ParameterValues>& state,
                   const CancelToken* cancel) {
  std::string mine = cat(state.front().store->numel(), " parameters");
  for (const ParameterValues& values : state) {
    Device& device = values.store->device();
    std::vector<float> copy =
        device.host_visible() ? std::vector<float>() : device.download<float>(values.arena);
    const void* bytes = copy.empty() ? values.arena.raw() : copy.data();
    mine += cat(" ", values.prefix, std::hex, digest_of(bytes, values.arena.bytes()));
  }
  std::vector<std::string> all = ranks.gather(mine, cancel);
  for (size_t r = 0; r < all.size(); ++r)
    ensure(all[r] == all[0], "[train] ranks: expected rank ", r, " of ", all.size(),
           " to hold the same state as rank 0 (", all[0], "), got ", all[r]);
}

}  // namespace spindle
