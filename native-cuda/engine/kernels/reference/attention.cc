// Attention written out: scores, softmax, weighted sum, and their derivatives.
#include "kernels/reference/reference_kernels.h"
#include "kernels/reference/values.h"

namespace spindle::reference {

namespace {
struct Sizes {
  int64_t batch, queries, keys, channels, heads, width;
  double scale;
  bool causal;

  Sizes(const Shape& q, const Shape& k, const AttentionArgs& args)
      : batch(q[0]),
        queries(q[1]),
        keys(k[1]),
        channels(q[2]),
        heads(args.heads),
        width(q[2] / args.heads),
        scale(args.scale != 0 ? args.scale : 1 / std::sqrt(double(width))),
        causal(args.causal) {}
  // How many keys query i sees.
  int64_t seen(int64_t i) const { return causal ? std::min(i + 1, keys) : keys; }
  size_t query(int64_t b, int64_t head, int64_t i) const {
    return size_t((b * queries + i) * channels + head * width);
  }
  size_t key(int64_t b, int64_t head, int64_t j) const {
    return size_t((b * keys + j) * channels + head * width);
  }
  size_t row(int64_t b, int64_t head, int64_t i) const {
    return size_t((b * heads + head) * queries + i);
  }
};

double dot(const Values& a, size_t ia, const Values& b, size_t ib, int64_t n) {
  double sum = 0;
  for (size_t i = 0; i < size_t(n); ++i) sum += a[ia + i] * b[ib + i];
  return sum;
}

void axpy(Values& y, size_t iy, double factor, const Values& x, size_t ix, int64_t n) {
  for (size_t i = 0; i < size_t(n); ++i) y[iy + i] += factor * x[ix + i];
}

template <class F>
void for_each_query(const Sizes& s, F&& f) {
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t head = 0; head < s.heads; ++head)
      for (int64_t i = 0; i < s.queries; ++i) f(b, head, i);
}
}  // namespace

void ReferenceKernels::run(const AttentionForward& op) {
  Sizes s(op.q.shape(), op.k.shape(), op.args);
  Values vq = load(op.q), vk = load(op.k), vv = load(op.v), vo(vq.size()),
         vlse(size_t(op.lse.numel()));
  Values scores(size_t(s.keys), 0.0);
  for_each_query(s, [&](int64_t b, int64_t head, int64_t i) {
    double highest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < s.seen(i); ++j) {
      scores[size_t(j)] = s.scale * dot(vq, s.query(b, head, i), vk, s.key(b, head, j), s.width);
      highest = std::max(highest, scores[size_t(j)]);
    }
    for (int64_t j = 0; j < s.seen(i); ++j) sum += std::exp(scores[size_t(j)] - highest);
    double total = highest + std::log(sum);
    for (int64_t j = 0; j < s.seen(i); ++j)
      axpy(vo, s.query(b, head, i), std::exp(scores[size_t(j)] - total), vv, s.key(b, head, j),
           s.width);
    vlse[s.row(b, head, i)] = total;
  });
  store(op.o, vo);
  store(op.lse, vlse);
}

void ReferenceKernels::run(const AttentionBackward& op) {
  Sizes s(op.q.shape(), op.k.shape(), op.args);
  Values vq = load(op.q), vk = load(op.k), vv = load(op.v), vo = load(op.o), vdo = load(op.d_o),
         vlse = load(op.lse);
  Values vdq(vq.size()), vdk(vk.size()), vdv(vv.size());
  for_each_query(s, [&](int64_t b, int64_t head, int64_t i) {
    size_t iq = s.query(b, head, i);
    double delta = dot(vdo, iq, vo, iq, s.width);
    for (int64_t j = 0; j < s.seen(i); ++j) {
      size_t ik = s.key(b, head, j);
      double p = std::exp(s.scale * dot(vq, iq, vk, ik, s.width) - vlse[s.row(b, head, i)]);
      double ds = p * (dot(vdo, iq, vv, ik, s.width) - delta) * s.scale;
      axpy(vdv, ik, p, vdo, iq, s.width);
      axpy(vdq, iq, ds, vk, ik, s.width);
      axpy(vdk, ik, ds, vq, iq, s.width);
    }
  });
  store(op.dq, std::move(vdq));
  store(op.dk, std::move(vdk));
  store(op.dv, std::move(vdv));
}

}  // namespace spindle::reference
