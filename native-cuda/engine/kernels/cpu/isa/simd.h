// The inner loops of the cpu backend, once per instruction set: a table of plain functions. Files
// under isa/ are compiled with that set's flags, so they include nothing that could leak inline
// code into the rest (no standard containers).
//
// What every entry keeps: sums run in an order fixed by the arguments, so that bytes depend on
// shapes and values alone.
#pragma once
#include <cstdint>

#include "kernels/cpu/isa/attention_calls.h"
#include "kernels/cpu/isa/convolution_calls.h"
#include "kernels/cpu/isa/product_calls.h"

namespace spindle::cpu {

struct AdamWCall {
  float grad_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
  float step_size;            // learning rate / (1 - beta1^step)
  float inv_sqrt_correction;  // 1 / sqrt(1 - beta2^step)
  float epsilon;
  float decay;  // 1 - learning rate * weight decay
};

enum class Unary : int { None, Silu, Gelu, QuickGelu };

struct Simd {
  const char* name;
  int width;        // floats in a vector
  int max_vectors;  // vectors in a packed panel
  int rows_for[5];  // rows of a tile, by vectors
  int rows_for_bf16[5];
  void (*gemm_f32)(const GemmCall&);
  void (*gemm_f32_wide)(const GemmCall&);  // sums in double
  void (*gemm_bf16)(const GemmCall&);
  // Sums of rows_for[vectors] (rows_for_bf16) rows that are finished and stored without leaving
  // registers; c is room for them, and `accumulate` of the call is not looked at. Null where
  // another kernel makes the sums.
  void (*gemm_f32_store)(const GemmCall&, const TileStore&);
  void (*gemm_bf16_store)(const GemmCall&, const TileStore&);
  // The same for full panels of values, and of gates in a panel of their own: y = (value + bias) *
  // gelu(gate + gate_bias); c has room for both.
  void (*gemm_f32_geglu)(const GemmCall& values,
                         const void* gates,
                         const float* gate_bias,
                         const TileStore&);
  void (*gemm_bf16_geglu)(const GemmCall& values,
                          const void* gates,
                          const float* gate_bias,
                          const TileStore&);
  void (*outer_f32)(const OuterCall&);
  void (*outer_f32_wide)(const OuterCall&);  // sums in double within a block
  void (*outer_pairs)(const OuterPairsCall&);
  // sum[r] += the values of row r in `count` pairs of positions, [pair][rows][2] and `step`
  // elements from one to the next.
  void (*pair_sums)(float* sum, const uint16_t* pairs, int64_t count, int64_t rows, int64_t step);
  // Packs positions of dy, rows [0, m) of `stride`, for outer_pairs: row r starts at out + r *
  // pitch for r a multiple of outer_pairs_tile, with room for whole tiles of rows; positions are
  // padded with zeros to whole steps. `out` may start at any step of the pitch.
  void (*outer_pairs_pack)(uint16_t* out,
                           const uint16_t* dy,
                           int64_t positions,
                           int64_t m,
                           int64_t stride,
                           int64_t pitch);
  int outer_pairs_tile;  // rows packed together
  int outer_pairs_rows;  // rows of a call at most, a multiple of the tile
  int outer_pairs_step;  // positions
  // Panels of right-hand sides from float32: out[k][width] = x[k * k_stride + n] (rows) or x[n *
  // n_stride + k] (transposed), zero from `columns` on; with `pairs` as bfloat16, [(k + 1) /
  // 2][width][2], an odd tail padded with zero.
  void (*pack_rows)(void* out,
                    const float* x,
                    int64_t k_stride,
                    int64_t columns,
                    int64_t k,
                    int64_t width,
                    bool pairs);
  void (*pack_transposed)(void* out,
                          const float* x,
                          int64_t n_stride,
                          int64_t columns,
                          int64_t k,
                          int64_t width,
                          bool pairs);
  // Winograd's convolution of squares of size * size output pixels, size 2 or 4, s = (size + 2)^2
  // slices; see winograd.inl. The transforms: of squares of size + 2 pixels: out[s][stride], a
  // square's channels `ld` after the last one's, zero up to a multiple of the width; of a packed
  // panel of nine taps, turned by 180 degrees when `reversed`: out[s][k][width]; of s products to
  // the squares they make. Their adjoints: of squares of gradients; to dw[9][ld] from the sums of a
  // filter.
  void (*winograd_input)(float* out,
                         int64_t stride,
                         int64_t ld,
                         const SquareRow& squares,
                         int64_t channels,
                         int size,
                         bool bf16);
  void (*winograd_filter)(float* out,
                          const void* taps,
                          int64_t k,
                          int64_t width,
                          int size,
                          bool reversed,
                          bool pairs);
  void (*winograd_products)(const SliceProducts&);
  void (*winograd_output)(const float* products,
                          int64_t stride,
                          int64_t ld,
                          const OutputRow& squares,
                          int size,
                          bool bf16);
  void (*winograd_gradient)(float* out,
                            int64_t stride,
                            int64_t ld,
                            const SquareRow& squares,
                            int64_t channels,
                            int size,
                            bool bf16);
  void (*winograd_filter_gradient)(float* dw,
                                   int64_t ld,
                                   const FilterSums& sums,
                                   int64_t n,
                                   int size,
                                   bool accumulate);
  bool winograd_bf16;  // false where products of bfloat16 are so fast that fewer float32 ones gain
                       // nothing
  // Convolutions of few channels; see narrow.inl.
  void (*narrow)(const NarrowCall&, bool from_bf16, bool to_bf16);
  void (*shifted)(const ShiftedCall&, bool bf16);
  int narrow_rows[3];  // outputs of a tile, by vectors
  // out[2 i] = even[i], out[2 i + 1] = odd[i] for i < n; zero up to padded. A null row counts as
  // zeros.
  void (*interleave)(uint16_t* out,
                     const uint16_t* even,
                     const uint16_t* odd,
                     int64_t n,
                     int64_t padded);
  void (*store_row)(const RowCall&, bool bf16);

  // Conversions of n contiguous elements.
  void (*to_f32)(float* y, const uint16_t* x, int64_t n);
  void (*to_bf16)(uint16_t* y, const float* x, int64_t n);

  // Group norm over `pixels` rows of `channels`: per-channel sums, in double, added to what is
  // there.
  void (*channel_sums)(double* sum, const void* x, int64_t pixels, int64_t channels, bool bf16);
  void (*channel_square_sums)(double* sum,
                              const void* x,
                              const float* mean,
                              int64_t pixels,
                              int64_t channels,
                              bool bf16);
  // y = f((x - mean) * scale + shift), f = silu or identity
  void (*normalize)(void* y,
                    const void* x,
                    const float* mean,
                    const float* scale,
                    const float* shift,
                    int64_t pixels,
                    int64_t channels,
                    bool silu,
                    bool bf16);
  // dz = dy * f'(z), z = (x - mean) * scale + shift; adds sum(dz) and sum(dz * (x - mean) * rstd)
  // per channel. Where f is silu, dz goes to `kept_dz` too unless that is null.
  void (*norm_gradient_sums)(double* sum_dz,
                             double* sum_dz_xhat,
                             float* kept_dz,
                             const void* dy,
                             const void* x,
                             const float* scale,
                             const float* shift,
                             const float* mean,
                             const float* rstd,
                             int64_t pixels,
                             int64_t channels,
                             bool silu,
                             bool bf16);
  // dx (+)= dz * c_dz + (x - mean) * c_x + c_1, per channel; dz is the kept one, unless that is
  // null
  void (*norm_gradient_apply)(void* dx,
                              const float* kept_dz,
                              const void* dy,
                              const void* x,
                              const float* mean,
                              const float* scale,
                              const float* shift,
                              const float* c_dz,
                              const float* c_x,
                              const float* c_1,
                              int64_t pixels,
                              int64_t channels,
                              bool silu,
                              bool accumulate,
                              bool bf16);
  // Layer norm of rows.
  void (*layer_norm)(void* y,
                     float* mean,
                     float* rstd,
                     const void* x,
                     const float* gamma,
                     const float* beta,
                     double eps,
                     int64_t rows,
                     int64_t channels,
                     bool bf16);
  // dx (+)=, and adds to dgamma, dbeta (float32, one partial per call)
  void (*layer_norm_backward)(void* dx,
                              float* dgamma,
                              float* dbeta,
                              const void* dy,
                              const void* x,
                              const float* mean,
                              const float* rstd,
                              const float* gamma,
                              int64_t rows,
                              int64_t channels,
                              bool accumulate,
                              bool bf16);

  void (*unary)(void* y, const void* x, int64_t n, Unary kind, bool bf16);
  void (*unary_backward)(void* dx,
                         const void* dy,
                         const void* x,
                         int64_t n,
                         Unary kind,
                         bool accumulate,
                         bool bf16);
  // y = (value + bias) * gelu(gate + bias of the gates), of one row; null biases are left out
  void (*geglu_row)(void* y,
                    const float* value,
                    const float* gate,
                    const float* value_bias,
                    const float* gate_bias,
                    int64_t n,
                    bool bf16);
  void (*geglu)(void* y, const void* x, int64_t rows, int64_t channels, bool bf16);
  void (*geglu_backward)(void* dx,
                         const void* dy,
                         const void* x,
                         int64_t rows,
                         int64_t channels,
                         bool accumulate,
                         bool bf16);
  void (*add)(void* y, const void* a, const void* b, int64_t n, bool bf16);
  void (*scale)(void* y, const void* x, float factor, int64_t n, bool bf16);
  void (*column_sums)(float* sum,
                      const void* x,
                      int64_t rows,
                      int64_t n,
                      int64_t ld,
                      bool bf16);  // added

  // Attention pieces. Scores are float32, `p` and `ds` of the activations' type (float32 ones may
  // overwrite the scores). Online softmax over a block of keys; s, p (rows, ld): p = exp(s * scale
  // - max'), max' = max(max, row max); correction = exp(max - max'); sum = sum * correction + row
  // sum; keys at and past valid[row] get 0
  void (*softmax_block)(void* p,
                        const float* s,
                        int64_t rows,
                        int64_t keys,
                        int64_t ld,
                        float scale,
                        float* max,
                        float* sum,
                        float* correction,
                        const int64_t* valid,
                        bool bf16);
  void (*scale_rows)(float* o, const float* factor, int64_t rows, int64_t n, int64_t ld);
  // Transposed: rows are keys, columns (a multiple of the width) are queries. p = exp(s * scale -
  // lse); ds = p * (dp - delta) * scale; row r sees columns from `first` + r on, all when that is
  // negative, and 0 goes to the others.
  void (*softmax_gradient)(void* p,
                           void* ds,
                           const float* s,
                           const float* dp,
                           int64_t rows,
                           int64_t columns,
                           int64_t ld,
                           float scale,
                           const float* lse,
                           const float* delta,
                           int64_t first,
                           bool bf16);
  // out[pair][row] = in[row][2 pair, 2 pair + 1] for rows of `halves` 16-bit elements; zero up to
  // `padded` (a multiple of the width) and in an odd pair's half. Float32 counts as pairs of
  // halves.
  void (*transpose_pairs)(uint32_t* out,
                          int64_t ldo,
                          const uint16_t* in,
                          int64_t ldi,
                          int64_t rows,
                          int64_t halves,
                          int64_t padded);
  // out[column][row] = in[row][column]; rows of `in` are readable, and of `out` written, up to a
  // multiple of the width (of out: twice the width)
  void (*transpose_bf16)(uint16_t* out,
                         int64_t ldo,
                         const uint16_t* in,
                         int64_t ldi,
                         int64_t rows,
                         int64_t columns);
  float (*dot)(const float* a, const float* b, int64_t n);

  // Attention with queries in lanes (attention_lanes.inl). Packed elements are floats, or pairs of
  // bfloat16 for tensors of those if attention_pairs.
  int attention_queries;  // of a call
  int attention_keys;     // of a block
  bool attention_pairs;
  bool attention_lanes;  // for bfloat16; false where products of bfloat16 are so fast that the
                         // pieces above serve better
  void (*attention_rows)(float* out,
                         const void* x,
                         int64_t stride,
                         int64_t rows,
                         int64_t d,
                         bool bf16);
  void (*attention_row_pairs)(float* out,
                              const void* x,
                              int64_t stride,
                              int64_t rows,
                              int64_t d,
                              int64_t ld,
                              bool bf16);
  void (*attention_forward)(const AttentionForwardCall&, bool bf16);
  void (*attention_gradient_queries)(const AttentionQueries&, bool bf16);
  void (*attention_gradient)(const AttentionGradient&, bool bf16);
  // y[row] (+)= x[row] * factor, of x[row][ld] or of x[d][queries up to whole vectors]
  void (*attention_store_rows)(void* y,
                               int64_t stride,
                               const float* x,
                               int64_t ld,
                               int64_t rows,
                               int64_t d,
                               float factor,
                               bool accumulate,
                               bool bf16);
  void (*attention_store_lanes)(void* y,
                                int64_t stride,
                                const float* x,
                                int64_t queries,
                                int64_t d,
                                float factor,
                                bool accumulate,
                                bool bf16);

  double (*sum_of_squares)(const float* x, int64_t n);
  double (*sum_of_square_differences)(const void* a,
                                      const void* b,
                                      int64_t n,
                                      bool a_bf16,
                                      bool b_bf16);
  void (*adamw)(float* w, float* m, float* v, const float* g, int64_t n, const AdamWCall& call);
  void (*lerp)(float* y, const float* x, float weight, int64_t n);
};

const Simd* simd_generic();
const Simd* simd_avx2();  // null when not built for x86
const Simd* simd_avx512();
const Simd* simd_avx512_bf16();
const Simd* simd_amx();
const Simd* simd_amx_emulated();   // tiles in memory, on any processor with AVX-512: for tests
int64_t emulated_tile_products();  // that those tiles have made so far
// Whether the processor has AMX for bfloat16 and the system lets this process use it. Asks for that
// once.
bool amx_permitted();

}  // namespace spindle::cpu
