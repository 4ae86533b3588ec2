// A backend whose tensors lie in a device's memory, for tests whose tensors lie in the host's:
// every call brings its operands over and its outputs back. Outputs are brought over too, so that
// elements that a kernel leaves out, or adds to, are what the test put there.
#pragma once
#include <cstring>
#include <list>
#include <tuple>

#include "autograd/device.h"
#include "kernels/backend.h"

namespace spindle {

class ThroughDevice : public Backend {
 public:
  explicit ThroughDevice(Device& device) : device_(device) {}
  const char* name() const override { return device_.kernels().name(); }

  void upload(const Tensor& y, const void* host) override { std::memcpy(y.raw(), host, y.bytes()); }
  void download(void* host, const Tensor& x) override { std::memcpy(host, x.raw(), x.bytes()); }
  void copy(const Tensor& y, const Tensor& x) override {
    Over over(*this);
    device_.memory().copy(over.out(y), over.in(x));
  }
  void clear(const Tensor& y) override {
    Over over(*this);
    device_.memory().clear(over.out(y));
  }
  bool keep_weight(const Weight& w, DType compute) override {
    Tensor value = bring(w.value);
    if (value.dtype() != compute) {
      Tensor rounded = device_.empty(value.shape(), compute);
      device_.kernels().run(Cast{.y = rounded, .x = value});
      value = rounded;
    }
    return device_.kernels().keep_weight({value, w.id, w.kept}, compute);
  }
  void forget_weight(uint64_t id) override { device_.kernels().forget_weight(id); }

#define SPINDLE_RUN_OVER_THERE(Op) \
  void run(const Op& op) override { run_there(op); }
  SPINDLE_KERNELS(SPINDLE_RUN_OVER_THERE)
#undef SPINDLE_RUN_OVER_THERE

 private:
  template <class Op>
  void run_there(const Op& op) {
    Over over(*this);
    Op there = op;
    std::apply([&](auto&... operands) { (over.replace(operands, true), ...); }, Op::outputs(there));
    std::apply([&](auto&... operands) { (over.replace(operands, false), ...); }, Op::inputs(there));
    if constexpr (requires { device_.kernels().run(there); })
      device_.kernels().run(there);
    else
      device_.step_kernels().run(there);
  }

  Tensor bring(const Tensor& host) {
    Tensor t = device_.empty(host.shape(), host.dtype());
    device_.memory().upload(t, host.raw());
    return t;
  }

  // One call's operands.
  class Over {
   public:
    explicit Over(ThroughDevice& to) : to_(to) {}
    ~Over() noexcept(false) {
      for (const Pair& p : pairs_)
        if (p.output) to_.device_.memory().download(p.host.raw(), p.device);
    }
    Tensor in(const Tensor& host) { return of(host).device; }
    Tensor out(const Tensor& host) {
      Pair& p = of(host);
      p.output = true;
      return p.device;
    }
    void replace(Tensor& t, bool output) {
      if (t) t = output ? out(t) : in(t);
    }
    void replace(GradSlot& slot, bool output) { replace(slot.tensor, output); }
    void replace(Weight& w, bool output) { replace(w.value, output); }
    void replace(Epilogue& e, bool output) {
      for (Tensor* t : {&e.bias, &e.per_image, &e.residual}) replace(*t, output);
    }

   private:
    struct Pair {
      Tensor host, device;
      bool output = false;
    };
    // An operand given twice (in place) is one on the device too.
    Pair& of(const Tensor& host) {
      for (Pair& p : pairs_)
        if (p.host.raw() == host.raw() && p.host.bytes() == host.bytes()) return p;
      pairs_.push_back({host, to_.bring(host), false});
      return pairs_.back();
    }
    ThroughDevice& to_;
    std::list<Pair> pairs_;
  };

  Device& device_;
};

}  // namespace spindle
