// Group norm. An image that fits the cache is a task of its own: read from memory
// once, its sums, squares and result are made while it is there. Larger ones are cut into blocks of
// pixels: statistics of a block in one pass, then the result.
#include <cmath>

#include "kernels/cpu/operators.h"

namespace spindle::cpu {

namespace {

// Pixels of a block: fixed, so that partial sums do not depend on threads.
constexpr int64_t kPixels = 256;
// Bytes of an image that stay cached between its passes.
constexpr int64_t kCachedImage = 512 << 10;

// Sizes of a group norm, and where its pieces lie.
struct GroupShape {
  GroupShape(const Tensor& x, int64_t groups)
      : batch(x.dim(0)),
        channels(x.dim(-1)),
        pixels(x.numel() / batch / channels),
        groups(groups),
        per_group(channels / groups),
        blocks(divide_up(pixels, kPixels)),
        n(double(pixels * per_group)),
        dtype(x.dtype()) {}
  int64_t batch, channels, pixels, groups, per_group, blocks;
  double n;  // values of a group
  DType dtype;
  bool cached() const { return pixels * channels * int64_t(dtype_size(dtype)) <= kCachedImage; }
  int64_t count(int64_t block) const { return std::min(kPixels, pixels - block * kPixels); }
  int64_t first(int64_t image, int64_t block) const {
    return (image * pixels + block * kPixels) * channels;
  }
  // Sum of a group's values in per-block, per-channel partial sums, in a fixed order.
  double group_total(const double* partial, int64_t group) const {
    double total = 0;
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t c = 0; c < per_group; ++c)
        total += partial[b * channels + group * per_group + c];
    return total;
  }
};

}  // namespace

void run(CpuContext& cpu, const GroupNormForward& op) {
  GroupShape s(op.x, op.args.groups);
  bool bf16 = is_bf16(op.x);
  const float* w = op.gamma.f32();
  auto input = [&](int64_t image, int64_t block) {
    return at(op.x.raw(), s.first(image, block), s.dtype);
  };
  auto store_mean = [&](int64_t image, int64_t group, double total, float* channel_mean) {
    float m = float(total / s.n);
    op.mean.f32()[image * s.groups + group] = m;
    std::fill_n(channel_mean + group * s.per_group, s.per_group, m);
  };
  auto store_rstd = [&](int64_t image, int64_t group, double squares, float* scale) {
    float r = float(1.0 / std::sqrt(squares / s.n + op.args.eps));
    op.rstd.f32()[image * s.groups + group] = r;
    for (int64_t c = group * s.per_group; c < (group + 1) * s.per_group; ++c) scale[c] = r * w[c];
  };
  auto normalize = [&](int64_t image, int64_t block, const float* channel_mean,
                       const float* scale) {
    cpu.simd.normalize(at(op.y.raw(), s.first(image, block), s.dtype), input(image, block),
                       channel_mean, scale, op.beta.f32(), s.count(block), s.channels, op.args.silu,
                       bf16);
  };
  int64_t partials = s.blocks * s.channels;  // of an image
  if (s.cached()) {
    cpu.threads.run(s.batch, [&](int64_t image, int thread) {
      double* partial =
          reinterpret_cast<double*>(cpu.scratch(thread, partials * 8 + s.channels * 8));
      float *channel_mean = reinterpret_cast<float*>(partial + partials),
            *scale = channel_mean + s.channels;
      std::fill_n(partial, partials, 0.0);
      for (int64_t b = 0; b < s.blocks; ++b)
        cpu.simd.channel_sums(partial + b * s.channels, input(image, b), s.count(b), s.channels,
                              bf16);
      for (int64_t g = 0; g < s.groups; ++g)
        store_mean(image, g, s.group_total(partial, g), channel_mean);
      std::fill_n(partial, partials, 0.0);
      for (int64_t b = 0; b < s.blocks; ++b)
        cpu.simd.channel_square_sums(partial + b * s.channels, input(image, b), channel_mean,
                                     s.count(b), s.channels, bf16);
      for (int64_t g = 0; g < s.groups; ++g) store_rstd(image, g, s.group_total(partial, g), scale);
      for (int64_t b = 0; b < s.blocks; ++b) normalize(image, b, channel_mean, scale);
    });
    return;
  }
  // Squares are taken about a mean of the block's channel (as accurate as about the group's), and
  // moved to the group's afterwards.
  double* sums = reinterpret_cast<double*>(
      cpu.shared_scratch(s.batch * (2 * partials * 8 + partials * 4 + s.channels * 8)));
  double* squares = sums + s.batch * partials;
  float *centres = reinterpret_cast<float*>(squares + s.batch * partials),
        *channel_mean = centres + s.batch * partials, *scale = channel_mean + s.batch * s.channels;
  cpu.threads.run(s.batch * s.blocks, [&](int64_t task, int) {
    int64_t image = task / s.blocks, block = task % s.blocks, count = s.count(block),
            first = task * s.channels;
    std::fill_n(sums + first, s.channels, 0.0);
    std::fill_n(squares + first, s.channels, 0.0);
    cpu.simd.channel_sums(sums + first, input(image, block), count, s.channels, bf16);
    for (int64_t c = 0; c < s.channels; ++c)
      centres[first + c] = float(sums[first + c] / double(count));
    cpu.simd.channel_square_sums(squares + first, input(image, block), centres + first, count,
                                 s.channels, bf16);
  });
  cpu.threads.run(s.batch * s.groups, [&](int64_t task, int) {
    int64_t image = task / s.groups, group = task % s.groups;
    store_mean(image, group, s.group_total(sums + image * partials, group),
               channel_mean + image * s.channels);
    double m = double(op.mean.f32()[task]);
    for (int64_t b = 0; b < s.blocks; ++b)
      for (int64_t c = group * s.per_group; c < (group + 1) * s.per_group; ++c) {
        int64_t i = image * partials + b * s.channels + c;
        double centre = double(centres[i]), moved = centre - m, n = double(s.count(b));
        squares[i] += 2 * moved * (sums[i] - n * centre) + n * moved * moved;
      }
    store_rstd(image, group, s.group_total(squares + image * partials, group),
               scale + image * s.channels);
  });
  cpu.threads.run(s.batch * s.blocks, [&](int64_t task, int) {
    int64_t image = task / s.blocks;
    normalize(image, task % s.blocks, channel_mean + image * s.channels,
              scale + image * s.channels);
  });
}

namespace {

// The gradients of one call. Sums of every image come first: the parameters' gradients need them
// together.
struct GroupNormGradient {
  CpuContext& cpu;
  const GroupNormBackward& op;
  GroupShape s{op.x, op.args.groups};
  bool bf16 = is_bf16(op.x);
  const float *w = op.gamma.f32(), *shift = op.beta.f32();
  int64_t partials = s.blocks * s.channels;  // of an image, of each of two sums

  // Per channel of an image.
  struct Coefficients {
    float *mean, *rstd, *scale, *c_dz, *c_x, *c_1;
  };
  static constexpr int64_t kCoefficients = 6;

  double* sum_dz =
      reinterpret_cast<double*>(cpu.shared_scratch(s.batch * s.channels * (16 + kCoefficients * 4) +
                                                   (s.cached() ? 0 : s.batch * partials * 16)));
  double* sum_xhat = sum_dz + s.batch * s.channels;
  double* all_partial = sum_xhat + s.batch * s.channels;
  float* all_coefficients =
      reinterpret_cast<float*>(all_partial + (s.cached() ? 0 : s.batch * partials * 2));

  Coefficients coefficients(int64_t image) const {
    float* p = all_coefficients + image * s.channels * kCoefficients;
    return {p,
            p + s.channels,
            p + 2 * s.channels,
            p + 3 * s.channels,
            p + 4 * s.channels,
            p + 5 * s.channels};
  }
  void start(int64_t image) const {
    Coefficients k = coefficients(image);
    for (int64_t c = 0; c < s.channels; ++c) {
      k.mean[c] = op.mean.f32()[image * s.groups + c / s.per_group];
      k.rstd[c] = op.rstd.f32()[image * s.groups + c / s.per_group];
      k.scale[c] = k.rstd[c] * w[c];
    }
  }
  void sums(int64_t image, int64_t block, double* partial, float* kept_dz) const {
    Coefficients k = coefficients(image);
    std::fill_n(partial, 2 * s.channels, 0.0);
    cpu.simd.norm_gradient_sums(partial, partial + s.channels, kept_dz,
                                at(op.dy.raw(), s.first(image, block), s.dtype),
                                at(op.x.raw(), s.first(image, block), s.dtype), k.scale, shift,
                                k.mean, k.rstd, s.count(block), s.channels, op.args.silu, bf16);
  }
  // From a block's partial sums, [block][dz, dz * xhat][channel], in the order of blocks.
  void finish(int64_t image, const double* partial) const {
    double *dz = sum_dz + image * s.channels, *xhat = sum_xhat + image * s.channels;
    std::fill_n(dz, s.channels, 0.0);
    std::fill_n(xhat, s.channels, 0.0);
    for (int64_t b = 0; b < s.blocks; ++b, partial += 2 * s.channels)
      for (int64_t c = 0; c < s.channels; ++c) {
        dz[c] += partial[c];
        xhat[c] += partial[s.channels + c];
      }
    Coefficients k = coefficients(image);
    for (int64_t g = 0; g < s.groups; ++g) {
      double a = 0, t = 0;
      for (int64_t c = g * s.per_group; c < (g + 1) * s.per_group; ++c) {
        a += double(w[c]) * dz[c];
        t += double(w[c]) * xhat[c];
      }
      // dx = rstd * (gamma * dz - a / n - xhat * t / n), written as dz * c_dz + (x - mean) * c_x +
      // c_1
      double r = double(op.rstd.f32()[image * s.groups + g]);
      for (int64_t c = g * s.per_group; c < (g + 1) * s.per_group; ++c) {
        k.c_dz[c] = float(r * double(w[c]));
        k.c_x[c] = float(-r * r * t / s.n);
        k.c_1[c] = float(-r * a / s.n);
      }
    }
  }
  void apply(int64_t image, int64_t block, const float* kept_dz) const {
    Coefficients k = coefficients(image);
    int64_t first = s.first(image, block);
    cpu.simd.norm_gradient_apply(at(op.dx.tensor.raw(), first, s.dtype), kept_dz,
                                 at(op.dy.raw(), first, s.dtype), at(op.x.raw(), first, s.dtype),
                                 k.mean, k.scale, shift, k.c_dz, k.c_x, k.c_1, s.count(block),
                                 s.channels, op.args.silu, op.dx.accumulate, bf16);
  }

  // Images that stay in the cache: one task each.
  void by_images() const {
    bool keep = op.args.silu && op.dx;  // silu's derivative is dearer than a pass over the cache
    cpu.threads.run(s.batch, [&](int64_t image, int thread) {
      double* partial = reinterpret_cast<double*>(
          cpu.scratch(thread, partials * 16 + (keep ? s.pixels * s.channels * 4 : 0)));
      float* kept = keep ? reinterpret_cast<float*>(partial + 2 * partials) : nullptr;
      auto kept_of = [&](int64_t block) {
        return kept ? kept + block * kPixels * s.channels : nullptr;
      };
      start(image);
      for (int64_t b = 0; b < s.blocks; ++b)
        sums(image, b, partial + b * 2 * s.channels, kept_of(b));
      finish(image, partial);
      if (!op.dx) return;
      for (int64_t b = 0; b < s.blocks; ++b) apply(image, b, kept_of(b));
    });
  }
  void by_blocks() const {
    cpu.threads.run(s.batch, [&](int64_t image, int) { start(image); });
    // dz waits where dx will be, if it fits there unrounded.
    bool keep = op.args.silu && op.dx && !op.dx.accumulate && !bf16;
    auto kept_of = [&](int64_t image, int64_t block) {
      return keep ? op.dx.tensor.f32() + s.first(image, block) : nullptr;
    };
    cpu.threads.run(s.batch * s.blocks, [&](int64_t task, int) {
      sums(task / s.blocks, task % s.blocks, all_partial + task * 2 * s.channels,
           kept_of(task / s.blocks, task % s.blocks));
    });
    cpu.threads.run(s.batch,
                    [&](int64_t image, int) { finish(image, all_partial + image * 2 * partials); });
    if (op.dx)
      cpu.threads.run(s.batch * s.blocks, [&](int64_t task, int) {
        apply(task / s.blocks, task % s.blocks, kept_of(task / s.blocks, task % s.blocks));
      });
  }
  void store(const GradSlot& slot, const double* per_image) const {
    if (!slot) return;
    for (int64_t c = 0; c < s.channels; ++c) {
      double total = 0;
      for (int64_t i = 0; i < s.batch; ++i) total += per_image[i * s.channels + c];
      slot.tensor.f32()[c] = (slot.accumulate ? slot.tensor.f32()[c] : 0.0f) + float(total);
    }
  }
};

}  // namespace

void run(CpuContext& cpu, const GroupNormBackward& op) {
  const GroupNormGradient gradient{cpu, op};
  if (gradient.s.cached())
    gradient.by_images();
  else
    gradient.by_blocks();
  gradient.store(op.dgamma, gradient.sum_xhat);
  gradient.store(op.dbeta, gradient.sum_dz);
}

}  // namespace spindle::cpu
