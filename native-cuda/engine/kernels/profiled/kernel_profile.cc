#include "kernels/profiled/kernel_profile.h"

#include <algorithm>
#include <map>
#include <sstream>
#include <string_view>

namespace spindle {

namespace {

void sort_by_time(std::vector<KernelProfile::Line>& lines) {
  // Equal times (a clock's tick) are told apart by name, so that the order is the same on every
  // run.
  std::sort(lines.begin(), lines.end(), [](const auto& a, const auto& b) {
    return a.cost.seconds != b.cost.seconds ? a.cost.seconds > b.cost.seconds
                                            : a.op + a.shapes < b.op + b.shapes;
  });
}

}  // namespace

KernelCost& KernelCost::operator+=(const KernelCost& other) {
  calls += other.calls;
  seconds += other.seconds;
  flop += other.flop;
  bytes += other.bytes;
  return *this;
}

KernelCost KernelCost::operator-(const KernelCost& before) const {
  return {calls - before.calls, seconds - before.seconds, flop - before.flop, bytes - before.bytes};
}

bool KernelKey::operator==(const KernelKey& other) const {
  return std::string_view(op) == other.op && dtype == other.dtype && shapes == other.shapes &&
         detail == other.detail;
}

std::string KernelKey::describe() const {
  std::ostringstream out;
  for (const Shape& shape : shapes) {
    if (shape.rank() == 0) continue;
    if (out.tellp() > 0) out << " ";
    for (int i = 0; i < shape.rank(); ++i) out << (i ? "x" : "") << shape[i];
  }
  if (detail > 1) out << " /" << detail;
  return out.str();
}

size_t KernelKeyHash::operator()(const KernelKey& key) const {
  uint64_t hash = std::hash<std::string_view>()(key.op);
  auto mix = [&](int64_t value) {
    hash = (hash ^ uint64_t(value)) * 0x9e3779b97f4a7c15ull, hash ^= hash >> 29;
  };
  mix(int64_t(key.dtype));
  mix(key.detail);
  for (const Shape& shape : key.shapes) {
    mix(shape.rank());
    for (int i = 0; i < shape.rank(); ++i) mix(shape[i]);
  }
  return size_t(hash);
}

void KernelProfile::add(const KernelKey& key, double seconds, double flop, double bytes) {
  costs_[key] += {1, seconds, flop, bytes};
}

std::vector<KernelProfile::Line> KernelProfile::by_op() const {
  std::map<std::pair<std::string, DType>, KernelCost> sums;
  for (const auto& [key, cost] : costs_) sums[{key.op, key.dtype}] += cost;
  std::vector<Line> lines;
  lines.reserve(sums.size());
  for (const auto& [key, cost] : sums) lines.push_back({key.first, "", key.second, cost});
  sort_by_time(lines);
  return lines;
}

std::vector<KernelProfile::Line> KernelProfile::by_shape() const {
  std::vector<Line> lines;
  for (const auto& [key, cost] : costs_) lines.push_back({key.op, key.describe(), key.dtype, cost});
  sort_by_time(lines);
  return lines;
}

KernelCost KernelProfile::total() const {
  KernelCost sum;
  for (const auto& [key, cost] : costs_) sum += cost;
  return sum;
}

uint64_t KernelProfile::reorders() const {
  uint64_t calls = 0;
  for (const auto& [key, cost] : costs_)
    if (std::string_view(key.op) == "nchw_to_nhwc" || std::string_view(key.op) == "nhwc_to_nchw")
      calls += cost.calls;
  return calls;
}

}  // namespace spindle
