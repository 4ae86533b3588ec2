// The ports of kernels/cuda as plain loops on the emulated device. Attention is the backend's own
// where a test asks for it.
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda_emulator/device.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/plans/plan_keys.h"

namespace spindle::cuda {

namespace {

// Element i of device memory, read or written inside of a stream's work only.
float at(const void* data, DType dtype, int64_t i) {
  return dtype == DType::F32 ? static_cast<const float*>(data)[i]
                             : to_float(static_cast<const bf16*>(data)[i]);
}
void put(void* data, DType dtype, int64_t i, float x) {
  if (dtype == DType::F32)
    static_cast<float*>(data)[i] = x;
  else
    static_cast<bf16*>(data)[i] = to_bf16(x);
}
std::vector<float> widened(const void* data, DType dtype, int64_t n) {
  std::vector<float> values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) values[size_t(i)] = at(data, dtype, i);
  return values;
}

void multiply_now(const Product& p) {
  // Both operands as rows along k.
  auto rows = [&](const Operand& o, int64_t count, bool k_is_inner) {
    std::vector<float> out(static_cast<size_t>(count * p.k));
    int64_t stride = o.row_stride ? o.row_stride : k_is_inner ? p.k : count;
    for (int64_t i = 0; i < count; ++i)
      for (int64_t l = 0; l < p.k; ++l)
        out[size_t(i * p.k + l)] =
            at(o.data, p.input, k_is_inner ? i * stride + l : l * stride + i);
    return out;
  };
  std::vector<float> a = rows(p.a, p.m, !p.a.transposed), b = rows(p.b, p.n, p.b.transposed);
  for (int64_t i = 0; i < p.m; ++i)
    for (int64_t j = 0; j < p.n; ++j) {
      float lanes[8] = {};
      const float *x = a.data() + i * p.k, *y = b.data() + j * p.k;
      int64_t l = 0;
      for (; l + 8 <= p.k; l += 8)
        for (int64_t q = 0; q < 8; ++q) lanes[q] += x[l + q] * y[l + q];
      float sum = ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
                  ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
      for (; l < p.k; ++l) sum += x[l] * y[l];
      if (p.bias) sum += at(p.bias, p.output, j);
      if (p.addend) sum += at(p.addend, p.output, i * p.n + j);
      put(p.y, p.output, i * p.n + j, sum);
    }
}

class PlainProducts : public Products {
 public:
  explicit PlainProducts(const LibraryOptions& o)
      : stream_(static_cast<Stream>(o.stream)), plans_(o.plans) {}
  const char* name() const override { return "plain loops"; }
  void multiply(const Product& p) override {
    // As a library with a choice would: what is remembered has to be what is done.
    std::string key = product_key(p, false, true);
    if (std::optional<std::string> known = plans_->find(key))
      ensure(*known == name(), "[emulator] ", key, ": no such algorithm: ", *known);
    else
      plans_->remember(key, name());
    emulator::enqueue(stream_, [p] { multiply_now(p); });
  }

 private:
  Stream stream_;
  PlanCache* plans_;
};

struct ConvolutionSizes {
  int64_t batch, height, width, in, out_height, out_width, out, filter_height, filter_width;
  Conv2dArgs args;

  ConvolutionSizes(const Tensor& x, const Tensor& y, const Tensor& w, const Conv2dArgs& a)
      : batch(x.dim(0)),
        height(x.dim(1)),
        width(x.dim(2)),
        in(x.dim(3)),
        out_height(y.dim(1)),
        out_width(y.dim(2)),
        out(y.dim(3)),
        filter_height(w.dim(1)),
        filter_width(w.dim(2)),
        args(a) {
    ensure(y.dim(0) == batch && w.dim(0) == out && w.dim(3) == in,
           "[emulator] convolution: ", x.shape(), ", ", w.shape(), " and ", y.shape(),
           " do not fit");
  }
  int64_t filter() const { return filter_height * filter_width * in; }
  // f(first element in y, in x, in w) for every filter tap of every pixel
  template <class F>
  void for_each(F&& f) const {
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t oh = 0; oh < out_height; ++oh)
        for (int64_t ow = 0; ow < out_width; ++ow)
          for (int64_t r = 0; r < filter_height; ++r)
            for (int64_t q = 0; q < filter_width; ++q) {
              int64_t h = oh * args.stride + r - args.pad_before,
                      w = ow * args.stride + q - args.pad_before;
              if (h < 0 || h >= height || w < 0 || w >= width) continue;
              f(((b * out_height + oh) * out_width + ow) * out, ((b * height + h) * width + w) * in,
                (r * filter_width + q) * in);
            }
  }
};

class PlainConvolutions : public Convolutions {
 public:
  explicit PlainConvolutions(const LibraryOptions& o) : stream_(static_cast<Stream>(o.stream)) {}
  const char* name() const override { return "plain loops"; }

  void forward(const Tensor& y,
               const Tensor& x,
               const Tensor& w,
               const Tensor& bias,
               const Tensor& residual,
               const Conv2dArgs& args) override {
    ConvolutionSizes s(x, y, w, args);
    ensure(w.dtype() == x.dtype() && (!bias || bias.dtype() == x.dtype()) &&
               (!residual || residual.dtype() == x.dtype()),
           "[emulator] convolution: operands of several types");
    void* to = y.raw();
    const void *from = x.raw(), *filter = w.raw(), *add = bias ? bias.raw() : nullptr,
               *rest = residual ? residual.raw() : nullptr;
    DType dtype = x.dtype();
    emulator::enqueue(stream_, [=] {
      std::vector<float> vx = widened(from, dtype, s.batch * s.height * s.width * s.in),
                         vw = widened(filter, dtype, s.out * s.filter()),
                         vy(size_t(s.batch * s.out_height * s.out_width * s.out));
      s.for_each([&](int64_t iy, int64_t ix, int64_t iw) {
        for (int64_t co = 0; co < s.out; ++co) {
          float sum = 0;
          for (int64_t ci = 0; ci < s.in; ++ci)
            sum += vx[size_t(ix + ci)] * vw[size_t(co * s.filter() + iw + ci)];
          vy[size_t(iy + co)] += sum;
        }
      });
      for (int64_t i = 0; i < int64_t(vy.size()); ++i)
        put(to, dtype, i,
            vy[size_t(i)] + (add ? at(add, dtype, i % s.out) : 0) +
                (rest ? at(rest, dtype, i) : 0));
    });
  }

  void backward_input(const GradSlot& dx,
                      const Tensor& dy,
                      const Tensor& w,
                      const Conv2dArgs& args) override {
    ConvolutionSizes s(dx.tensor, dy, w, args);
    void* to = dx.tensor.raw();
    const void *from = dy.raw(), *filter = w.raw();
    DType dtype = dy.dtype();
    emulator::enqueue(stream_, [=, accumulate = dx.accumulate] {
      std::vector<float> vdy = widened(from, dtype, s.batch * s.out_height * s.out_width * s.out),
                         vw = widened(filter, dtype, s.out * s.filter()),
                         vdx(size_t(s.batch * s.height * s.width * s.in));
      s.for_each([&](int64_t iy, int64_t ix, int64_t iw) {
        for (int64_t co = 0; co < s.out; ++co)
          for (int64_t ci = 0; ci < s.in; ++ci)
            vdx[size_t(ix + ci)] += vdy[size_t(iy + co)] * vw[size_t(co * s.filter() + iw + ci)];
      });
      for (int64_t i = 0; i < int64_t(vdx.size()); ++i)
        put(to, dtype, i, vdx[size_t(i)] + (accumulate ? at(to, dtype, i) : 0));
    });
  }

  void backward_weight(const GradSlot& dw,
                       const Tensor& dy,
                       const Tensor& x,
                       const Conv2dArgs& args) override {
    ConvolutionSizes s(x, dy, dw.tensor, args);
    ensure(dw.tensor.dtype() == DType::F32, "[emulator] convolution: a weight's gradient in ",
           dtype_name(dw.tensor.dtype()));
    float* to = dw.tensor.f32();
    const void *from = dy.raw(), *values = x.raw();
    DType dtype = dy.dtype();
    emulator::enqueue(stream_, [=, accumulate = dw.accumulate] {
      std::vector<float> vdy = widened(from, dtype, s.batch * s.out_height * s.out_width * s.out),
                         vx = widened(values, dtype, s.batch * s.height * s.width * s.in),
                         vdw(size_t(s.out * s.filter()));
      s.for_each([&](int64_t iy, int64_t ix, int64_t iw) {
        for (int64_t co = 0; co < s.out; ++co)
          for (int64_t ci = 0; ci < s.in; ++ci)
            vdw[size_t(co * s.filter() + iw + ci)] += vdy[size_t(iy + co)] * vx[size_t(ix + ci)];
      });
      for (int64_t i = 0; i < int64_t(vdw.size()); ++i)
        to[i] = accumulate ? to[i] + vdw[size_t(i)] : vdw[size_t(i)];
    });
  }

 private:
  Stream stream_;
};

class PlainAttention : public FusedAttention {
 public:
  explicit PlainAttention(const LibraryOptions& o) : stream_(static_cast<Stream>(o.stream)) {}
  const char* name() const override { return "plain loops"; }
  bool takes(const AttentionShape&, bool) override { return true; }

  void forward(const AttentionForward& op) override {
    AttentionShape s(op.q, op.k, op.args);
    Sizes z(s, op.args.scale);
    const void *pq = op.q.raw(), *pk = op.k.raw(), *pv = op.v.raw();
    void* po = op.o.raw();
    float* plse = op.lse.f32();
    emulator::enqueue(stream_, [=] {
      std::vector<float> vq = widened(pq, s.dtype, z.query_count()),
                         vk = widened(pk, s.dtype, z.key_count()),
                         vv = widened(pv, s.dtype, z.key_count());
      std::vector<double> scores(static_cast<size_t>(s.keys)), out(static_cast<size_t>(s.width));
      z.for_each([&](int64_t iq, int64_t row, auto key, int64_t seen) {
        double highest = -INFINITY, sum = 0;
        for (int64_t j = 0; j < seen; ++j)
          highest =
              std::max(highest, scores[size_t(j)] =
                                    z.scale * dot(&vq[size_t(iq)], &vk[size_t(key(j))], s.width));
        for (int64_t j = 0; j < seen; ++j)
          sum += scores[size_t(j)] = std::exp(scores[size_t(j)] - highest);
        out.assign(out.size(), 0);
        for (int64_t j = 0; j < seen; ++j)
          for (int64_t c = 0; c < s.width; ++c)
            out[size_t(c)] += scores[size_t(j)] / sum * double(vv[size_t(key(j) + c)]);
        for (int64_t c = 0; c < s.width; ++c) put(po, s.dtype, iq + c, float(out[size_t(c)]));
        plse[row] = float(highest + std::log(sum));
      });
    });
  }

  void backward(const AttentionBackward& op) override {
    AttentionShape s(op.q, op.k, op.args);
    Sizes z(s, op.args.scale);
    const void *pq = op.q.raw(), *pk = op.k.raw(), *pv = op.v.raw(), *po = op.o.raw(),
               *pdo = op.d_o.raw();
    const float* plse = op.lse.f32();
    struct To {
      void* data;
      bool accumulate;
    };
    auto to = [](const GradSlot& slot) {
      return To{slot ? slot.tensor.raw() : nullptr, slot.accumulate};
    };
    To tq = to(op.dq), tk = to(op.dk), tv = to(op.dv);
    emulator::enqueue(stream_, [=] {
      std::vector<float> vq = widened(pq, s.dtype, z.query_count()),
                         vk = widened(pk, s.dtype, z.key_count()),
                         vv = widened(pv, s.dtype, z.key_count()),
                         vo = widened(po, s.dtype, z.query_count()),
                         vdo = widened(pdo, s.dtype, z.query_count());
      std::vector<double> gq(vq.size()), gk(vk.size()), gv(vk.size());
      z.for_each([&](int64_t iq, int64_t row, auto key, int64_t seen) {
        double delta = dot(&vdo[size_t(iq)], &vo[size_t(iq)], s.width);
        for (int64_t j = 0; j < seen; ++j) {
          int64_t ik = key(j);
          double p = std::exp(z.scale * dot(&vq[size_t(iq)], &vk[size_t(ik)], s.width) -
                              double(plse[row]));
          double ds = p * (dot(&vdo[size_t(iq)], &vv[size_t(ik)], s.width) - delta) * z.scale;
          for (int64_t c = 0; c < s.width; ++c) {
            gv[size_t(ik + c)] += p * double(vdo[size_t(iq + c)]);
            gq[size_t(iq + c)] += ds * double(vk[size_t(ik + c)]);
            gk[size_t(ik + c)] += ds * double(vq[size_t(iq + c)]);
          }
        }
      });
      auto give = [&](const To& slot, const std::vector<double>& g) {
        if (slot.data)
          for (size_t i = 0; i < g.size(); ++i)
            put(slot.data, s.dtype, int64_t(i),
                float(g[i] + (slot.accumulate ? double(at(slot.data, s.dtype, int64_t(i))) : 0)));
      };
      give(tq, gq);
      give(tk, gk);
      give(tv, gv);
    });
  }

 private:
  struct Sizes {
    AttentionShape s;
    double scale;
    Sizes(const AttentionShape& shape, double given)
        : s(shape), scale(given != 0 ? given : 1 / std::sqrt(double(shape.width))) {}
    int64_t query_count() const { return s.batch * s.queries * s.heads * s.width; }
    int64_t key_count() const { return s.batch * s.keys * s.heads * s.width; }
    template <class F>
    void for_each(F&& f) const {
      int64_t c = s.heads * s.width;
      for (int64_t b = 0; b < s.batch; ++b)
        for (int64_t head = 0; head < s.heads; ++head)
          for (int64_t i = 0; i < s.queries; ++i)
            f((b * s.queries + i) * c + head * s.width, (b * s.heads + head) * s.queries + i,
              [this, b, head, c](int64_t j) { return (b * s.keys + j) * c + head * s.width; },
              s.causal ? std::min(i + 1, s.keys) : s.keys);
    }
  };
  static double dot(const float* a, const float* b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += double(a[i]) * double(b[i]);
    return sum;
  }
  Stream stream_;
};

}  // namespace

LibraryVersions library_versions() { return {}; }

std::unique_ptr<RankLink> make_rank_link(Collective& hosts) { return make_staged_link(hosts); }

Libraries make_libraries(const LibraryOptions& options) {
  Libraries libraries;
  libraries.products = std::make_unique<PlainProducts>(options);
  libraries.convolutions = std::make_unique<PlainConvolutions>(options);
  // Whole models compute with plain loops: emulated tensor cores take a hundred times as long.
  const char* own = std::getenv("SPINDLE_EMULATED_ATTENTION");
  if (own && std::string(own) == "own")
    libraries.attention.push_back(make_flash_attention(options));
  else
    libraries.attention.push_back(std::make_unique<PlainAttention>(options));
  return libraries;
}

}  // namespace spindle::cuda
