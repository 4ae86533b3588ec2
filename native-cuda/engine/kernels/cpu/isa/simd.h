// The inner loops of the cpu backend, once per instruction set: a table of plain functions. Files under isa/ are compiled with
// that set's flags, so they include nothing that could leak inline code into the rest (no standard containers).
//
// What every entry keeps: sums run in an order fixed by the arguments, so that bytes depend on shapes and values alone.
#pragma once
#include <cstdint>

namespace spindle::cpu {

// c[rows][columns] (+)= sum over segments and k of a[segment * rows + row][k] * b. `b` is packed:
// float32: [segment][k][ldb]; bfloat16: [segment][(k + 1) / 2][ldb][2] (pairs along k, an odd tail padded with zero).
struct GemmCall {
  const void* const* a;
  int64_t segments;
  int64_t rows;     // 1 .. rows_for[vectors]
  int64_t k;        // elements per segment
  const void* b;
  int64_t ldb;      // columns in a packed row
  int64_t vectors;  // columns / width, 1 .. panel / width
  float* c;
  int64_t ldc;
  bool accumulate;
};

// A run of `count` positions: c[m][n] += a[position][m] * b[position][n], for gradients of weights.
struct OuterRun {
  const float* a;
  const float* b;
  int64_t count;
};
struct OuterCall {
  const OuterRun* runs;
  int64_t run_count;
  int64_t lda, ldb;  // elements between positions
  int64_t rows;      // of m, 1 .. rows_for[vectors]
  int64_t vectors;   // of n
  float* c;
  int64_t ldc;
  bool accumulate;
};

// The same from pairs of bfloat16 positions: a[pair][lda][2], b[pair][vectors * width][2].
struct OuterPairsCall {
  const uint16_t* a;
  const uint16_t* b;
  int64_t pairs;
  int64_t lda;  // pairs between two rows of a
  int64_t rows;
  int64_t vectors;
  float* c;
  int64_t ldc;
  bool accumulate;
};

// One output row: y = (accumulate ? y : 0) + c + bias + per_image + residual. Null pointers are left out.
struct RowCall {
  void* y;
  const float* c;
  const float* bias;
  const void* per_image;
  const void* residual;
  int64_t n;
  bool accumulate;
};

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
  void (*gemm_f32)(const GemmCall&);
  void (*gemm_f32_wide)(const GemmCall&);  // sums in double
  void (*gemm_bf16)(const GemmCall&);
  void (*outer_f32)(const OuterCall&);
  void (*outer_f32_wide)(const OuterCall&);  // sums in double within a block
  void (*outer_pairs)(const OuterPairsCall&);
  // out[2 i] = even[i], out[2 i + 1] = odd[i] for i < n; zero up to padded. A null row counts as zeros.
  void (*interleave)(uint16_t* out, const uint16_t* even, const uint16_t* odd, int64_t n, int64_t padded);
  void (*store_row)(const RowCall&, bool bf16);

  // Conversions of n contiguous elements.
  void (*to_f32)(float* y, const uint16_t* x, int64_t n);
  void (*to_bf16)(uint16_t* y, const float* x, int64_t n);

  // Group norm over `pixels` rows of `channels`: per-channel sums, in double, added to what is there.
  void (*channel_sums)(double* sum, const void* x, int64_t pixels, int64_t channels, bool bf16);
  void (*channel_square_sums)(double* sum, const void* x, const float* mean, int64_t pixels, int64_t channels, bool bf16);
  // y = f((x - mean) * scale + shift), f = silu or identity
  void (*normalize)(void* y, const void* x, const float* mean, const float* scale, const float* shift, int64_t pixels, int64_t channels, bool silu, bool bf16);
  // dz = dy * f'(z), z = (x - mean) * scale + shift; adds sum(dz) and sum(dz * (x - mean) * rstd) per channel. Where f is silu,
  // dz goes to `kept_dz` too unless that is null.
  void (*norm_gradient_sums)(double* sum_dz, double* sum_dz_xhat, float* kept_dz, const void* dy, const void* x, const float* scale, const float* shift,
                             const float* mean, const float* rstd, int64_t pixels, int64_t channels, bool silu, bool bf16);
  // dx (+)= dz * c_dz + (x - mean) * c_x + c_1, per channel; dz is the kept one, unless that is null
  void (*norm_gradient_apply)(void* dx, const float* kept_dz, const void* dy, const void* x, const float* mean, const float* scale, const float* shift, const float* c_dz,
                              const float* c_x, const float* c_1, int64_t pixels, int64_t channels, bool silu, bool accumulate, bool bf16);
  // Layer norm of rows.
  void (*layer_norm)(void* y, float* mean, float* rstd, const void* x, const float* gamma, const float* beta, double eps, int64_t rows, int64_t channels, bool bf16);
  // dx (+)=, and adds to dgamma, dbeta (float32, one partial per call)
  void (*layer_norm_backward)(void* dx, float* dgamma, float* dbeta, const void* dy, const void* x, const float* mean, const float* rstd,
                              const float* gamma, int64_t rows, int64_t channels, bool accumulate, bool bf16);

  void (*unary)(void* y, const void* x, int64_t n, Unary kind, bool bf16);
  void (*unary_backward)(void* dx, const void* dy, const void* x, int64_t n, Unary kind, bool accumulate, bool bf16);
  void (*geglu)(void* y, const void* x, int64_t rows, int64_t channels, bool bf16);
  void (*geglu_backward)(void* dx, const void* dy, const void* x, int64_t rows, int64_t channels, bool accumulate, bool bf16);
  void (*add)(void* y, const void* a, const void* b, int64_t n, bool bf16);
  void (*scale)(void* y, const void* x, float factor, int64_t n, bool bf16);
  void (*column_sums)(float* sum, const void* x, int64_t rows, int64_t n, int64_t ld, bool bf16);  // added

  // Attention pieces. Scores are float32, `p` and `ds` of the activations' type (float32 ones may overwrite the scores).
  // Online softmax over a block of keys; s, p (rows, ld):
  // p = exp(s * scale - max'), max' = max(max, row max); correction = exp(max - max'); sum = sum * correction + row sum; keys at and past valid[row] get 0
  void (*softmax_block)(void* p, const float* s, int64_t rows, int64_t keys, int64_t ld, float scale, float* max, float* sum, float* correction, const int64_t* valid, bool bf16);
  void (*scale_rows)(float* o, const float* factor, int64_t rows, int64_t n, int64_t ld);
  // Transposed: rows are keys, columns (a multiple of the width) are queries. p = exp(s * scale - lse); ds = p * (dp - delta) * scale;
  // row r sees columns from `first` + r on, all when that is negative, and 0 goes to the others.
  void (*softmax_gradient)(void* p, void* ds, const float* s, const float* dp, int64_t rows, int64_t columns, int64_t ld, float scale, const float* lse, const float* delta, int64_t first, bool bf16);
  // out[pair][row] = in[row][2 pair, 2 pair + 1] for rows of `halves` 16-bit elements; zero up to `padded` (a multiple of the width) and in an odd pair's half.
  // Float32 counts as pairs of halves.
  void (*transpose_pairs)(uint32_t* out, int64_t ldo, const uint16_t* in, int64_t ldi, int64_t rows, int64_t halves, int64_t padded);
  // out[column][row] = in[row][column]; rows of `in` are readable, and of `out` written, up to a multiple of the width (of out: twice the width)
  void (*transpose_bf16)(uint16_t* out, int64_t ldo, const uint16_t* in, int64_t ldi, int64_t rows, int64_t columns);
  float (*dot)(const float* a, const float* b, int64_t n);

  double (*sum_of_squares)(const float* x, int64_t n);
  double (*sum_of_square_differences)(const void* a, const void* b, int64_t n, bool a_bf16, bool b_bf16);
  void (*adamw)(float* w, float* m, float* v, const float* g, int64_t n, const AdamWCall& call);
  void (*lerp)(float* y, const float* x, float weight, int64_t n);
};

const Simd* simd_generic();
const Simd* simd_avx2();         // null when not built for x86
const Simd* simd_avx512();
const Simd* simd_avx512_bf16();

}  // namespace spindle::cpu
