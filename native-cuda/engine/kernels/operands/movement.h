// Values brought to other places, and tables that are looked up.
#pragma once
#include <span>

#include "kernels/operands/operand.h"

namespace spindle {

struct ConcatChannels {
  static constexpr const char* kName = "concat_channels";
  Tensor y;  // (...,Ca+Cb)
  Tensor a;  // (...,Ca)
  Tensor b;  // (...,Cb)

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.a, op.b); }
};

// Backward of ConcatChannels.
struct SplitChannels {
  static constexpr const char* kName = "split_channels";
  GradSlot da = {};  // (...,Ca)
  GradSlot db = {};  // (...,Cb)
  Tensor dy;         // (...,Ca+Cb)

  static auto outputs(auto& op) { return std::tie(op.da, op.db); }
  static auto inputs(auto& op) { return std::tie(op.dy); }
};

// To y's height and width.
struct UpsampleNearestForward {
  static constexpr const char* kName = "upsample_nearest_forward";
  Tensor y;  // (B,Ho,Wo,C)
  Tensor x;  // (B,H,W,C)

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.x); }
};

struct UpsampleNearestBackward {
  static constexpr const char* kName = "upsample_nearest_backward";
  GradSlot dx;  // (B,H,W,C)
  Tensor dy;    // (B,Ho,Wo,C)

  static auto outputs(auto& op) { return std::tie(op.dx); }
  static auto inputs(auto& op) { return std::tie(op.dy); }
};

// y = table[ids], rounded to y's type
struct EmbeddingForward {
  static constexpr const char* kName = "embedding_forward";
  Tensor y;                      // (count,C)
  Tensor table;                  // (N,C)
  std::span<const int32_t> ids;  // (count), the host's

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.table); }
};

// y = x[rows]
struct GatherRows {
  static constexpr const char* kName = "gather_rows";
  Tensor y;                       // (count,C)
  Tensor x;                       // (N,C)
  std::span<const int32_t> rows;  // (count), the host's

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.x); }
};

struct TimestepArgs {
  bool flip_sin_to_cos = true;
  double freq_shift = 0;
  double max_period = 10000;
};

// Sines and cosines of the timesteps.
struct TimestepEmbedding {
  static constexpr const char* kName = "timestep_embedding";
  Tensor y;          // (B,dim)
  Tensor timesteps;  // (B) float32
  TimestepArgs args = {};

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.timesteps); }
};

// Types may differ: also the cast.
struct NchwToNhwc {
  static constexpr const char* kName = "nchw_to_nhwc";
  Tensor y;  // (B,H,W,C)
  Tensor x;  // (B,C,H,W)

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.x); }
};

struct NhwcToNchw {
  static constexpr const char* kName = "nhwc_to_nchw";
  Tensor y;  // (B,C,H,W)
  Tensor x;  // (B,H,W,C)

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.x); }
};

}  // namespace spindle

#define SPINDLE_MOVEMENT_KERNELS(X) \
  X(ConcatChannels)                 \
  X(SplitChannels)                  \
  X(UpsampleNearestForward)         \
  X(UpsampleNearestBackward)        \
  X(EmbeddingForward)               \
  X(GatherRows)                     \
  X(TimestepEmbedding)              \
  X(NchwToNhwc)                     \
  X(NhwcToNchw)
