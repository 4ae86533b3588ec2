#include "bench/profile.h"

#include <algorithm>
#include <chrono>
#include <functional>

#include "kernels/profiled/peak.h"

namespace spindle {

namespace {

constexpr size_t kShapeLines = 15;

// The larger of the two shares is the one that bounds the kernel.
void set_peak_share(Json& line, double gflops, double gigabytes, const Peak& peak) {
  double of_flop = gflops / peak.gflops, of_bytes = gigabytes / peak.gigabytes;
  line.set("peak_share", std::max(of_flop, of_bytes));
  line.set("bound", of_flop >= of_bytes ? "flop" : "bytes");
}

Json line_of(const KernelProfile::Line& l, double runs, double seconds_per_run, const Peak& peak) {
  Json line = Json::Object{};
  line.set("op", l.op);
  line.set("dtype", dtype_name(l.dtype));
  if (!l.shapes.empty()) line.set("shapes", l.shapes);
  double seconds = std::max(l.cost.seconds, 1e-12), gflops = l.cost.flop / seconds / 1e9,
         gigabytes = l.cost.bytes / seconds / 1e9;
  line.set("calls", double(l.cost.calls) / runs);
  line.set("seconds", l.cost.seconds / runs);
  line.set("share", l.cost.seconds / runs / seconds_per_run);
  line.set("gflops", gflops);
  line.set("gigabytes_per_second", gigabytes);
  set_peak_share(line, gflops, gigabytes, peak);
  return line;
}

// A device's: its product of large matrices and its copy, of five runs the fastest.
Peak measure_device_peak(Device& device, DType compute) {
  auto fastest = [&](const std::function<void()>& work) {
    double best = 1e30;
    for (int i = 0; i < 6; ++i) {
      auto start = std::chrono::steady_clock::now();
      work();
      device.memory().finish();
      double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (i > 0) best = std::min(best, seconds);  // the first one chooses plans
    }
    return best;
  };
  constexpr int64_t n = 8192, bytes = int64_t(1) << 30;
  Tensor x = device.zeros({n, n}, compute), w = device.zeros({n, n}, compute),
         y = device.empty({n, n}, compute), from = device.zeros({bytes / 4}, DType::F32),
         to = device.empty(from.shape(), DType::F32);
  Peak peak{};
  peak.instruction = "cuBLASLt, 8192 x 8192 x 8192";
  peak.gflops = 2e-9 * double(n) * double(n) * double(n) /
                fastest([&] { device.kernels().run(LinearForward{.y = y, .x = x, .w = {w}}); });
  peak.gigabytes = 2e-9 * double(bytes) / fastest([&] { device.memory().copy(to, from); });
  return peak;
}

}  // namespace

DeviceProfile::DeviceProfile(Device& device) : device_(device) {
  auto profiled = std::make_unique<ProfiledKernels>(device.exchange_kernels(nullptr));
  kernels_ = profiled.get();
  device.exchange_kernels(std::move(profiled));
  restart();
}

DeviceProfile::~DeviceProfile() { device_.exchange_kernels(kernels_->release()); }

uint64_t DeviceProfile::allocations() const {
  return device_.pool().stats().system_allocations + kernels_->counters().system_allocations;
}

void DeviceProfile::restart() {
  kernels_->profile().clear();
  before_ = kernels_->counters();
  allocations_before_ = allocations();
}

WorkCounters DeviceProfile::work() const {
  KernelCost total = kernels_->profile().total();
  KernelCounters now = kernels_->counters();
  return {.launches = total.calls,
          .reorders = kernels_->profile().reorders(),
          .flop = total.flop,
          .bytes = total.bytes,
          .packs = now.packs - before_.packs,
          .packed_bytes = now.packed_bytes - before_.packed_bytes,
          .system_allocations = allocations() - allocations_before_};
}

Json DeviceProfile::report(int64_t runs, double seconds, DType compute) const {
  WorkCounters work = this->work();  // before the peak is measured
  double n = double(runs), per_run = seconds / n;
  Peak peak = device_.host_visible() ? measure_peak(device_.threads(), device_.isa(), compute)
                                     : measure_device_peak(device_, compute);
  Json report = Json::Object{}, machine = Json::Object{}, totals = Json::Object{},
       outside = Json::Object{};
  report.set("runs", runs);
  report.set("seconds", per_run);
  machine.set("instruction", peak.instruction);
  machine.set("gflops", peak.gflops);
  machine.set("gigabytes_per_second", peak.gigabytes);
  report.set("peak", machine);
  totals.set("launches", double(work.launches) / n);
  totals.set("reorders", double(work.reorders) / n);
  totals.set("gflop", work.flop / n / 1e9);
  totals.set("mib", work.bytes / n / 0x1p20);
  totals.set("packs", double(work.packs) / n);
  totals.set("packed_mib", double(work.packed_bytes) / n / 0x1p20);
  totals.set("system_allocations", double(work.system_allocations) / n);
  report.set("work", totals);
  report.set("peak_pool_mib", double(device_.pool().stats().peak_bytes) / 0x1p20);
  double inside = kernels_->profile().total().seconds / n;
  outside.set("seconds", per_run - inside);
  outside.set("share", (per_run - inside) / per_run);
  report.set("outside_of_kernels", outside);
  Json::Array ops, shapes;
  for (const KernelProfile::Line& line : kernels_->profile().by_op())
    ops.push_back(line_of(line, n, per_run, peak));
  for (const KernelProfile::Line& line : kernels_->profile().by_shape())
    if (shapes.size() < kShapeLines) shapes.push_back(line_of(line, n, per_run, peak));
  report.set("kernels", ops);
  report.set("shapes", shapes);
  return report;
}

}  // namespace spindle
