// Multi-head attention of the diffusion models: projections without bias unless asked, output
// projection with.
#pragma once
#include <unordered_map>

#include "nn/linear.h"

namespace spindle::nn {

struct AttentionOptions {
  int64_t query_dim;
  int64_t context_dim;  // of what is attended to
  int64_t heads;
  bool qkv_bias = false;
};

// Keys and values by layer of a context that stays the same over many passes: a prompt's over the
// steps of sampling. The first pass fills it; to be used with one context and unchanged weights,
// and only where no gradient is needed.
class KeysValues {
 public:
  struct Pair {
    Tensor keys, values;  // (B, Tk, C)
  };
  Pair& of(const void* layer) { return by_layer_[layer]; }
  // The values of another context of the same shapes, in the tensors that are here.
  void replace(DeviceMemory& memory, const KeysValues& other) {
    for (auto& [layer, pair] : by_layer_) {
      const Pair& from = other.by_layer_.at(layer);
      memory.copy(pair.keys, from.keys);
      memory.copy(pair.values, from.values);
    }
  }

 private:
  std::unordered_map<const void*, Pair> by_layer_;
};

class Attention {
 public:
  Attention(const Scope& scope, const AttentionOptions& options);
  // x (B, Tq, C), context (B, Tk, D) -> (B, Tq, C) + residual. `kept` may be null; a tape that
  // records leaves it alone.
  Tensor operator()(Tape& tape,
                    const Tensor& x,
                    const Tensor& context,
                    const Tensor& residual,
                    KeysValues* kept = nullptr) const;

 private:
  Linear to_q_, to_k_, to_v_, to_out_;
  AttentionArgs args_;
};

}  // namespace spindle::nn
