// One table of cases per op, with odd sizes on purpose: channels that are no multiple of 8 or 16,
// single pixels, images that are not square, odd head widths. Gradient checks and every backend's
// comparison with the reference go through the same tables.
#pragma once
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace spindle::cases {

struct Conv2dCase {
  int64_t batch, height, width, in, out, filter_height, filter_width;
  Conv2dArgs args;
  bool bias = true, per_image = false, residual = false;
  Activation activation = Activation::None;  // kernels only: ops::conv2d has none
  Shape x() const { return {batch, height, width, in}; }
  Shape w() const { return {out, filter_height, filter_width, in}; }
  Shape y() const {
    return {batch, args.out_size(height, filter_height), args.out_size(width, filter_width), out};
  }
  std::string name() const {
    return cat("conv2d ", x(), " * ", w(), " stride ", args.stride, " pad ", args.pad_before, ",",
               args.pad_after);
  }
};
inline const std::vector<Conv2dCase> kConv2d = {
    {2, 5, 7, 5, 7, 3, 3, {1, 1, 1}},
    {1, 4, 3, 9, 17, 1, 1, {1, 0, 0}, false},
    {2, 7, 5, 8, 6, 3, 3, {2, 1, 1}},
    {1, 6, 6, 4, 3, 3, 3, {2, 0, 1}},
    {2, 5, 8, 3, 9, 3, 3, {2, 0, 1}, false},
    {1, 1, 1, 33, 1, 3, 3, {1, 1, 1}},
    {2, 1, 9, 3, 20, 3, 3, {1, 1, 1}, true, true, true},
    {1, 8, 12, 3, 18, 4, 4, {4, 0, 0}, false},
    {2, 6, 4, 2, 5, 5, 3, {1, 1, 2}},
    {3, 3, 2, 24, 16, 1, 1, {1, 0, 0}, true, false, true},
    {1, 6, 6, 16, 16, 3, 3, {1, 1, 1}, true, false, true},
    {2, 3, 3, 17, 20, 3, 3, {1, 1, 1}, true, true, false, Activation::Silu},
    {1, 6, 5, 40, 50, 3, 3, {1, 1, 1}, true, true, true, Activation::QuickGelu},
    {2, 9, 11, 65, 70, 3, 3, {1, 1, 1}},
    {1, 18, 16, 32, 64, 3, 3, {1, 1, 1}, true, true, false},
    {1, 1, 1, 3, 4, 3, 3, {2, 1, 1}},
    {1, 5, 4, 6, 5, 1, 1, {2, 0, 0}},
    {1, 4, 5, 130, 70, 3, 3, {1, 1, 1}},
    {2, 3, 2, 261, 65, 3, 3, {1, 1, 1}, true, false, true},
    {2, 9, 8, 37, 42, 3, 3, {1, 1, 1}, true, true, true},  // Winograd, odd on every side
    {3, 8, 8, 32, 33, 3, 3, {1, 1, 1}, false},
    {1, 7, 11, 260, 261, 3, 3, {1, 1, 1}, true, true, true},  // Winograd with a filter past the
                                                              // cache
    {2, 22, 23, 16, 20, 3, 3, {1, 1, 1}, true, true, true},   // few channels, images too large for
                                                              // sums in double
    {1, 27, 26, 24, 17, 3, 3, {1, 1, 1}},
    // few inputs: copied rows, whole tiles of outputs and cut ones, panels of columns, long chains
    {1, 50, 49, 3, 16, 3, 3, {1, 1, 1}},
    {2, 19, 18, 3, 130, 3, 3, {1, 1, 1}, true, true, true},
    {1, 40, 39, 16, 20, 3, 3, {2, 0, 1}, true, false, true},
    {2, 17, 18, 33, 34, 3, 3, {2, 1, 1}, false},
    {1, 18, 17, 64, 40, 3, 3, {2, 1, 1}, true, true, false},
    {1, 10, 9, 4, 6, 5, 3, {1, 1, 2}},
    // few outputs: nine filters as one product, rows shorter and longer than its tiles
    {1, 49, 50, 16, 3, 3, 3, {1, 1, 1}, true, true, true},
    {2, 9, 11, 64, 8, 3, 3, {1, 1, 1}, true, false, true},
    {1, 9, 8, 300, 4, 3, 3, {1, 1, 1}, false, true, false},
    {2, 4, 67, 130, 5, 3, 3, {1, 1, 1}},
    // tiles of 16 and 32 rows and columns, whole and cut; steps of 32 values along k; blocks of
    // positions over images and rows
    {1, 34, 32, 32, 48, 3, 3, {2, 1, 1}},
    {3, 8, 8, 64, 96, 3, 3, {1, 1, 1}, true, true, true},
    {2, 5, 6, 300, 40, 1, 1, {1, 0, 0}},
    {1, 20, 32, 20, 200, 3, 3, {1, 1, 1}},
    {5, 4, 4, 33, 18, 3, 3, {1, 1, 1}},
};

// Enough tiles that a filter's gradient takes Winograd's large squares: one block of sums, two
// parts of the tiles, four blocks over small images, and more blocks than are worth it. Each has
// channels that fill no vector.
inline const std::vector<Conv2dCase> kFilterGradients = {
    {3, 33, 31, 40, 70, 3, 3, {1, 1, 1}},
    {1, 93, 91, 33, 34, 3, 3, {1, 1, 1}},
    {64, 4, 4, 110, 130, 3, 3, {1, 1, 1}},
    {1, 33, 32, 162, 138, 3, 3, {1, 1, 1}},
};

struct LinearCase {
  int64_t batch, rows, k, n;  // rows per image
  bool bias = true, per_image = false, residual = false;
  Activation activation = Activation::None;  // kernels only
  int64_t m() const { return batch * rows; }
  std::string name() const { return cat("linear ", Shape{batch, rows, k}, " * ", Shape{n, k}); }
};
inline const std::vector<LinearCase> kLinear = {
    {1, 1, 1, 1},
    {2, 3, 5, 7},
    {1, 1, 17, 33},
    {3, 4, 24, 40, true, true, true},
    {2, 9, 65, 10, false},
    {2, 5, 16, 32, true, true, false, Activation::Gelu},
    {1, 77, 40, 20, true, false, false, Activation::QuickGelu},
    {2, 1, 320, 48, true, false, false, Activation::Silu},
    {2, 70, 130, 150, true, false, true},
    {1, 100, 1101, 70},
    {1, 3, 2501, 65},
    {1, 600, 36, 200},
    {1, 17, 288, 31, false},
    {1, 530, 70, 200},
    {1, 300, 270, 65},
};

struct GroupNormCase {
  Shape x;
  GroupNormArgs args;
  std::string name() const {
    return cat("group_norm ", x, " groups ", args.groups, args.silu ? " silu" : "");
  }
};
inline const std::vector<GroupNormCase> kGroupNorm = {
    {{2, 3, 5, 12}, {4, 1e-5}},
    {{1, 1, 1, 8}, {2, 1e-5}},
    {{1, 1, 1, 4}, {4, 1e-6, true}},
    {{2, 7, 15}, {3, 1e-5, true}},
    {{3, 4, 4, 32}, {32, 1e-6, true}},
    {{1, 9, 2, 40}, {1, 1e-5}},
    {{2, 5, 3, 34}, {2, 1e-5, true}},
    {{2, 11, 13, 96}, {32, 1e-5, true}},
    {{1, 19, 17, 24}, {4, 1e-5, true}},
    {{2, 25, 21, 520},
     {8, 1e-5, true}},  // two blocks of pixels; more than the cache is counted on for
};

struct LayerNormCase {
  Shape x;
  std::string name() const { return cat("layer_norm ", x); }
};
inline const std::vector<LayerNormCase> kLayerNorm = {{{2, 3, 5}}, {{1, 1, 8}},  {{3, 1}},
                                                      {{4, 17}},   {{3, 7, 40}}, {{2, 35, 130}}};

struct AttentionCase {
  int64_t batch, queries, keys, heads, width;
  bool causal = false;
  double scale = 0;
  int64_t channels() const { return heads * width; }
  Shape q() const { return {batch, queries, channels()}; }
  Shape k() const { return {batch, keys, channels()}; }
  AttentionArgs args() const { return {heads, causal, scale}; }
  std::string name() const {
    return cat("attention ", q(), " on ", keys, " keys, ", heads, " heads",
               causal ? ", causal" : "", scale != 0 ? ", scaled" : "");
  }
};
inline const std::vector<AttentionCase> kAttention = {
    {1, 1, 1, 1, 5},
    {2, 3, 4, 2, 5},
    {1, 6, 6, 3, 8, true},
    {2, 7, 7, 2, 40, true},
    {1, 16, 77, 2, 80},
    {1, 5, 9, 1, 160},
    {2, 4, 130, 2, 24},
    {1, 3, 5, 2, 7, false, 0.5},
    {1, 9, 300, 1, 40},
    {3, 17, 17, 2, 16},
    {1, 70, 70, 2, 40},
    {1, 77, 77, 1, 16, true},
    {2, 33, 65, 3, 64},
    {1, 130, 130, 1, 9},
    // several blocks of queries and of keys, the text's length, and few heads for the threads
    {1, 200, 77, 2, 40},
    {1, 197, 600, 1, 40},
    {1, 203, 203, 1, 40, true},
    {1, 540, 530, 1, 7, true},
    {1, 290, 33, 1, 144},
    {1, 140, 150, 2, 16, false, 20},  // late keys that outweigh the first by far
};

// Shapes for what works element by element.
inline const std::vector<Shape> kElementwise = {{1}, {7}, {3, 5, 11}, {2, 129}, {4, 1024}};
inline const std::vector<Activation> kActivations = {Activation::Silu, Activation::Gelu,
                                                     Activation::QuickGelu};
inline const char* activation_name(Activation kind) {
  switch (kind) {
    case Activation::None:
      return "none";
    case Activation::Silu:
      return "silu";
    case Activation::Gelu:
      return "gelu";
    case Activation::QuickGelu:
      return "quick_gelu";
  }
  return "";
}

struct LinearGegluCase {
  int64_t rows, k, n;  // n of the output
  bool bias = true;
  std::string name() const { return cat("linear_geglu ", Shape{rows, k}, " * ", Shape{2 * n, k}); }
};
inline const std::vector<LinearGegluCase> kLinearGeglu = {{1, 1, 1},
                                                          {3, 5, 7, false},
                                                          {9, 24, 64},
                                                          {97, 17, 128},
                                                          {5, 300, 96, false}};

// Shapes of geglu's output.
inline const std::vector<Shape> kGeglu = {{1, 1}, {3, 5}, {2, 3, 17}, {5, 65}, {2, 9, 160}};

struct ConcatCase {
  Shape a, b;
  Shape y() const {
    std::vector<int64_t> dims = a.dims();
    dims.back() += b[-1];
    return Shape(dims);
  }
  std::string name() const { return cat("concat_channels ", a, " and ", b); }
};
inline const std::vector<ConcatCase> kConcat = {{{2, 3, 5, 3}, {2, 3, 5, 5}},
                                                {{1, 1, 1, 1}, {1, 1, 1, 1}},
                                                {{7, 16}, {7, 33}},
                                                {{2, 4, 40}, {2, 4, 7}}};

struct UpsampleCase {
  Shape x;
  int64_t height, width;
  Shape y() const { return {x[0], height, width, x[3]}; }
  std::string name() const { return cat("upsample_nearest ", x, " to ", height, " x ", width); }
};
inline const std::vector<UpsampleCase> kUpsample = {{{1, 1, 1, 5}, 2, 2},
                                                    {{2, 3, 5, 7}, 6, 10},
                                                    {{1, 3, 3, 16}, 5, 5},
                                                    {{2, 2, 7, 17}, 4, 13},
                                                    {{1, 4, 4, 8}, 4, 4}};

struct RowsCase {
  Shape x, rows;
  std::string name() const { return cat("rows ", rows, " of ", x); }
};
inline const std::vector<RowsCase> kRows = {{{2, 3, 5}, {3, 5}},
                                            {{4, 17}, {17}},
                                            {{3, 2, 40}, {2, 40}},
                                            {{1, 9}, {9}}};

// (B, ..., C), summed over what is between.
inline const std::vector<Shape> kPerImage = {{3, 2, 5, 7}, {1, 40}, {2, 9, 33}, {2, 17, 16}};

// (B, H, W, C) and (B, C, H, W).
inline const std::vector<Shape> kTranspose = {{2, 5, 3, 7},
                                              {1, 1, 1, 4},
                                              {2, 16, 8, 33},
                                              {1, 9, 1, 3},
                                              {4, 3, 3, 16}};

struct TableCase {
  int64_t rows, width;
  std::vector<int32_t> ids;
  std::string name() const {
    return cat("rows of a table ", Shape{rows, width}, ", ", ids.size(), " of them");
  }
};
inline const std::vector<TableCase> kTable = {{1, 1, {0}},
                                              {11, 7, {3, 10, 0, 3, 5}},
                                              {50, 33, {49, 1, 2, 3, 0, 0, 17, 48, 9}}};

struct TimestepCase {
  int64_t width;
  TimestepArgs args;
  std::string name() const {
    return cat("timestep_embedding of width ", width, args.flip_sin_to_cos ? ", flipped" : "",
               " shift ", args.freq_shift);
  }
};
inline const std::vector<TimestepCase> kTimestep = {{4, {}},
                                                    {10, {false, 1, 10000}},
                                                    {34, {true, 0, 10000}},
                                                    {320, {true, 1, 1000}}};

inline const std::vector<Shape> kL2Normalize = {{1, 5}, {3, 33}, {2, 512}, {4, 1}};
inline const std::vector<Shape> kLoss = {{1, 1}, {2, 3, 5, 4}, {5, 129}, {3, 8, 9, 4}};
inline const std::vector<int64_t> kFlat = {1, 15, 16, 17, 1000, 70001};

}  // namespace spindle::cases
