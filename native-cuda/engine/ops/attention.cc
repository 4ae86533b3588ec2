// Scaled dot-product attention over heads side by side.
#include "ops/ops.h"

namespace spindle::ops {

Tensor attention(Tape& tape,
                 const Tensor& q,
                 const Tensor& k,
                 const Tensor& v,
                 const AttentionArgs& args) {
  require(q.rank() == 3 && k.rank() == 3 && k.shape() == v.shape() && q.dim(0) == k.dim(0) &&
              q.dim(2) == k.dim(2),
          "[attention] q ", q.shape(), ", k ", k.shape(), " and v ", v.shape(), " do not fit");
  require(args.heads > 0 && q.dim(2) % args.heads == 0, "[attention] width ", q.dim(2),
          " is not divisible into ", args.heads, " heads");
  Device& device = tape.device();
  Tensor o = device.empty(q.shape(), q.dtype());
  Tensor lse = device.empty({q.dim(0), args.heads, q.dim(1)}, Device::stat_dtype(q.dtype()));
  device.kernels().run(AttentionForward{.o = o, .lse = lse, .q = q, .k = k, .v = v, .args = args});
  tape.record("attention", o, [q, k, v, o, lse, args](Grads& g, const Tensor& d_o) {
    bool shared = q.id() == k.id() || q.id() == v.id() || k.id() == v.id();
    GradSlot dq = shared ? g.separate(q) : g.slot(q), dk = shared ? g.separate(k) : g.slot(k),
             dv = shared ? g.separate(v) : g.slot(v);
    g.kernels().run(AttentionBackward{.dq = dq,
                                      .dk = dk,
                                      .dv = dv,
                                      .d_o = d_o,
                                      .o = o,
                                      .lse = lse,
                                      .q = q,
                                      .k = k,
                                      .v = v,
                                      .args = args});
    if (!shared) return;
    g.add(q, dq.tensor);
    g.add(k, dk.tensor);
    g.add(v, dv.tensor);
  });
  return o;
}

}  // namespace spindle::ops
