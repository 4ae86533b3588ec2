// Attention in blocks of keys with an online softmax (the idea of FlashAttention, Dao et al., arXiv 2205.14135): scores of a
// block live in the cache and never reach memory. Inner arithmetic is float32. A task is one (image, head) and a piece of queries,
// whose place does not influence its values.
#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_kernels.h"

namespace spindle::cpu {

namespace {
constexpr int64_t kQueries = 96;  // rows of a piece, a multiple of every tile height
constexpr int64_t kKeys = 512;    // keys of a block
}  // namespace

// One head of one image, with its operands packed for the tile kernels.
class AttentionWork {
 public:
  AttentionWork(CpuKernels& kernels, int64_t width, int64_t heads, const AttentionArgs& args) : s_(kernels.simd_), c_(width), d_(width / heads) {
    panel_ = int64_t(s_.width) * s_.max_vectors;
    scale_ = float(args.scale != 0 ? args.scale : 1.0 / std::sqrt(double(d_)));
    ld_ = round_up(d_, s_.width);
  }
  int64_t d() const { return d_; }
  int64_t ld() const { return ld_; }  // padded head width
  float scale() const { return scale_; }

  // Rows of a (B, T, C) tensor's head as float32 (rows, ld), zero-padded.
  void copy_head(float* out, const Tensor& t, int64_t image, int64_t head, int64_t row0, int64_t rows) const {
    for (int64_t i = 0; i < rows; ++i) {
      int64_t first = (image * t.dim(1) + row0 + i) * c_ + head * d_;
      if (is_bf16(t)) s_.to_f32(out + i * ld_, t.data<uint16_t>() + first, d_);
      else std::memcpy(out + i * ld_, t.f32() + first, size_t(d_) * 4);
      std::memset(out + i * ld_ + d_, 0, size_t(ld_ - d_) * 4);
    }
  }
  // Panels of (rows, d): right-hand side with k = rows. Panel p: [rows][panel width].
  void pack_rows(float* out, const float* x, int64_t rows) const {
    for (int64_t p = 0; p < ld_; p += panel_) {
      int64_t width = std::min(panel_, ld_ - p);
      for (int64_t i = 0; i < rows; ++i, out += width) std::memcpy(out, x + i * ld_ + p, size_t(width) * 4);
    }
  }
  // Panels of the transpose: right-hand side with k = d, columns = rows. Panel p: [d][panel width].
  void pack_transposed(float* out, const float* x, int64_t rows) const {
    int64_t padded = round_up(rows, s_.width);
    for (int64_t p = 0; p < padded; p += panel_) {
      int64_t width = std::min(panel_, padded - p);
      for (int64_t k = 0; k < d_; ++k, out += width)
        for (int64_t j = 0; j < width; ++j) out[j] = p + j < rows ? x[(p + j) * ld_ + k] : 0.0f;
    }
  }
  // c (rows, ldc) (+)= a (rows, lda)[:, :k] * panels of `columns` (padded) columns.
  void multiply(float* c, int64_t ldc, const float* a, int64_t lda, int64_t rows, int64_t k, const float* panels, int64_t columns, bool accumulate) const {
    const void* pointers[16];
    for (int64_t p = 0; p < columns; p += panel_) {
      int64_t width = std::min(panel_, columns - p), vectors = width / s_.width, tile = s_.rows_for[vectors];
      for (int64_t r = 0; r < rows; r += tile) {
        int64_t count = std::min(tile, rows - r);
        for (int64_t i = 0; i < count; ++i) pointers[i] = a + (r + i) * lda;
        s_.gemm_f32({pointers, 1, count, k, panels, width, vectors, c + r * ldc + p, ldc, accumulate});
      }
      panels += k * width;
    }
  }
  // c (m, ld) += a^T b, a (rows, lda) with columns m, b (rows, ld)
  void multiply_transposed(float* c, const float* a, int64_t lda, const float* b, int64_t rows, int64_t m) const {
    for (int64_t p = 0; p < ld_; p += panel_) {
      int64_t width = std::min(panel_, ld_ - p), vectors = width / s_.width, tile = s_.rows_for[vectors];
      for (int64_t r = 0; r < m; r += tile) {
        OuterRun run{a + r, b + p, rows};
        s_.outer_f32({&run, 1, lda, ld_, std::min(tile, m - r), vectors, c + r * ld_ + p, ld_, true});
      }
    }
  }
  // How many keys of the block from k0 each query row sees.
  void visible(int64_t* out, int64_t q0, int64_t rows, int64_t k0, int64_t keys, bool causal) const {
    for (int64_t i = 0; i < rows; ++i) out[i] = causal ? std::min(keys, q0 + i + 1 - k0) : keys;
  }
  void store_head(const GradSlot& slot, const float* x, int64_t image, int64_t head, int64_t row0, int64_t rows) const {
    if (!slot) return;
    const Tensor& t = slot.tensor;
    for (int64_t i = 0; i < rows; ++i) {
      RowCall call{at(t.raw(), (image * t.dim(1) + row0 + i) * c_ + head * d_, t.dtype()), x + i * ld_, nullptr, nullptr, nullptr, d_, slot.accumulate};
      s_.store_row(call, is_bf16(t));
    }
  }
  const Simd& simd() const { return s_; }

 private:
  const Simd& s_;
  int64_t c_, d_, panel_ = 0, ld_ = 0;
  float scale_ = 1;
};

namespace {

// Carves float arrays out of one scratch block.
struct Carve {
  float* next;
  float* take(int64_t n) {
    float* p = next;
    next += round_up(n, 16);
    return p;
  }
};

}  // namespace

void CpuKernels::attention_forward(Tensor& o, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionArgs& args) {
  int64_t batch = q.dim(0), tq = q.dim(1), tk = k.dim(1), heads = args.heads;
  AttentionWork work(*this, q.dim(2), heads, args);
  int64_t ld = work.ld(), block = std::min(kKeys, round_up(tk, simd_.width));
  // Queries of a task: all of a head's, unless there are too few heads to share out.
  int64_t pieces_per_head = batch * heads >= 4 ? 1 : std::min<int64_t>(divide_up(tq, kQueries), 8);
  int64_t queries_per_task = round_up(divide_up(tq, pieces_per_head), kQueries);
  int64_t packed_keys = round_up(tk, simd_.width) + simd_.width * divide_up(tk, kKeys);
  threads_.run(batch * heads * pieces_per_head, [&](int64_t task, int thread) {
    int64_t piece = task % pieces_per_head, head = task / pieces_per_head % heads, image = task / pieces_per_head / heads;
    int64_t first = piece * queries_per_task, last = std::min(tq, first + queries_per_task);
    if (first >= last) return;
    int64_t floats = 2 * packed_keys * ld + kKeys * ld + kQueries * (2 * ld + block + 3) + 1024;
    Carve carve{reinterpret_cast<float*>(scratch(thread, floats * 4 + kQueries * 8))};
    float *kt = carve.take(packed_keys * ld), *vp = carve.take(packed_keys * ld), *rows = carve.take(kKeys * ld), *qs = carve.take(kQueries * ld), *os = carve.take(kQueries * ld);
    float *s = carve.take(kQueries * block), *max = carve.take(kQueries), *sum = carve.take(kQueries), *correction = carve.take(kQueries);
    int64_t* valid = reinterpret_cast<int64_t*>(carve.take(kQueries * 2));
    for (int64_t k0 = 0; k0 < tk; k0 += kKeys) {  // every key block of kKeys starts at k0 * ld: all but the last are multiples of the width
      int64_t keys = std::min(kKeys, tk - k0);
      work.copy_head(rows, k, image, head, k0, keys);
      work.pack_transposed(kt + k0 * ld, rows, keys);
      work.copy_head(rows, v, image, head, k0, keys);
      work.pack_rows(vp + k0 * ld, rows, keys);
    }
    for (int64_t q0 = first; q0 < last; q0 += kQueries) {
      int64_t count = std::min(kQueries, last - q0);
      work.copy_head(qs, q, image, head, q0, count);
      std::fill_n(max, count, -INFINITY);
      std::fill_n(sum, count, 0.0f);
      std::fill_n(os, count * ld, 0.0f);
      for (int64_t k0 = 0; k0 < tk; k0 += kKeys) {
        int64_t keys = std::min(kKeys, tk - k0), padded = round_up(keys, simd_.width);
        if (args.causal && k0 > q0 + count - 1) break;
        work.multiply(s, padded, qs, ld, count, work.d(), kt + k0 * ld, padded, false);
        work.visible(valid, q0, count, k0, keys, args.causal);
        simd_.softmax_block(s, count, keys, padded, work.scale(), max, sum, correction, valid);
        if (k0 > 0) simd_.scale_rows(os, correction, count, ld, ld);
        work.multiply(os, ld, s, padded, count, keys, vp + k0 * ld, ld, true);
      }
      for (int64_t i = 0; i < count; ++i) {
        correction[i] = 1.0f / sum[i];
        lse.f32()[(image * heads + head) * tq + q0 + i] = max[i] + std::log(sum[i]);
      }
      simd_.scale_rows(os, correction, count, ld, ld);
      work.store_head({o, false}, os, image, head, q0, count);
    }
  });
}

void CpuKernels::attention_backward(const GradSlot& dq, const GradSlot& dk, const GradSlot& dv, const Tensor& d_o, const Tensor& o, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionArgs& args) {
  int64_t batch = q.dim(0), tq = q.dim(1), tk = k.dim(1), heads = args.heads;
  AttentionWork work(*this, q.dim(2), heads, args);
  int64_t ld = work.ld(), block = std::min(kKeys, round_up(tk, simd_.width));
  threads_.run(batch * heads, [&](int64_t task, int thread) {
    int64_t head = task % heads, image = task / heads;
    int64_t floats = tq * (3 * ld + 1) + block * 7 * ld + kQueries * 2 * block + 4096;
    Carve carve{reinterpret_cast<float*>(scratch(thread, floats * 4 + kQueries * 8))};
    float *qs = carve.take(tq * ld), *dos = carve.take(tq * ld), *dqs = carve.take(tq * ld), *delta = carve.take(tq);
    float *rows = carve.take(block * ld), *kt = carve.take(block * ld), *vt = carve.take(block * ld), *kp = carve.take(block * ld), *dks = carve.take(block * ld), *dvs = carve.take(block * ld);
    float *s = carve.take(kQueries * block), *dp = carve.take(kQueries * block);
    int64_t* valid = reinterpret_cast<int64_t*>(carve.take(kQueries * 2));
    work.copy_head(dqs, o, image, head, 0, tq);  // o is needed only for delta = sum(do * o)
    work.copy_head(dos, d_o, image, head, 0, tq);
    for (int64_t i = 0; i < tq; ++i) delta[i] = simd_.dot(dos + i * ld, dqs + i * ld, work.d());
    std::fill_n(dqs, tq * ld, 0.0f);
    work.copy_head(qs, q, image, head, 0, tq);
    const float* head_lse = lse.f32() + (image * heads + head) * tq;
    for (int64_t k0 = 0; k0 < tk; k0 += kKeys) {
      int64_t keys = std::min(kKeys, tk - k0), padded = round_up(keys, simd_.width);
      work.copy_head(rows, k, image, head, k0, keys);
      work.pack_transposed(kt, rows, keys);
      work.pack_rows(kp, rows, keys);
      work.copy_head(rows, v, image, head, k0, keys);
      work.pack_transposed(vt, rows, keys);
      std::fill_n(dks, keys * ld, 0.0f);
      std::fill_n(dvs, keys * ld, 0.0f);
      for (int64_t q0 = 0; q0 < tq; q0 += kQueries) {
        int64_t count = std::min(kQueries, tq - q0);
        if (args.causal && k0 > q0 + count - 1) continue;
        work.multiply(s, padded, qs + q0 * ld, ld, count, work.d(), kt, padded, false);
        work.multiply(dp, padded, dos + q0 * ld, ld, count, work.d(), vt, padded, false);
        work.visible(valid, q0, count, k0, keys, args.causal);
        simd_.softmax_gradient(s, dp, count, keys, padded, work.scale(), head_lse + q0, delta + q0, valid);
        work.multiply_transposed(dvs, s, padded, dos + q0 * ld, count, keys);
        work.multiply_transposed(dks, dp, padded, qs + q0 * ld, count, keys);
        work.multiply(dqs + q0 * ld, ld, dp, padded, count, keys, kp, ld, true);
      }
      work.store_head(dk, dks, image, head, k0, keys);
      work.store_head(dv, dvs, image, head, k0, keys);
    }
    work.store_head(dq, dqs, image, head, 0, tq);
  });
}

}  // namespace spindle::cpu
