// A profile as text: a table to read.
#include <cstdio>

#include "bench/profile.h"

namespace spindle {

namespace {

template <class... Values>
std::string format(const char* pattern, Values... values) {
  char text[256];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

double number(const Json& json, const char* key) { return json.find(key)->number(); }
const char* word(const Json& json, const char* key) { return json.find(key)->string().c_str(); }

std::string head(const char* first, int width) {
  return format("%-*s %8s %9s %6s %9s %7s %6s\n", width, first, "calls", "ms", "share", "GFLOP/s",
                "GB/s", "peak");
}

std::string row(const std::string& name, const Json& line, int width) {
  // A kernel without products has no rate of operations worth a figure.
  double gflops = number(line, "gflops");
  std::string rate = gflops > 0 ? format("%9.1f", gflops) : format("%9s", "-");
  return format("%-*s %8.0f %9.2f %5.1f%% %s %7.1f %4.0f%% %s\n", width, name.c_str(),
                number(line, "calls"), 1e3 * number(line, "seconds"), 100 * number(line, "share"),
                rate.c_str(), number(line, "gigabytes_per_second"),
                100 * number(line, "peak_share"), word(line, "bound"));
}

}  // namespace

std::string profile_text(const Json& report) {
  const Json &peak = *report.find("peak"), &work = *report.find("work"),
             &outside = *report.find("outside_of_kernels");
  std::string text = format("per run of %.2f ms (mean of %.0f, the profiler's own cost included)\n",
                            1e3 * number(report, "seconds"), number(report, "runs"));
  text += format("measured peak: %.0f GFLOP/s (%s), %.1f GB/s (copy)\n\n", number(peak, "gflops"),
                 word(peak, "instruction"), number(peak, "gigabytes_per_second"));
  text += head("kernel", 36);
  for (const Json& line : report.find("kernels")->items())
    text += row(cat(word(line, "op"), " ", word(line, "dtype")), line, 36);
  text += format("%-36s %8s %9.2f %5.1f%%\n\n", "outside of kernels", "",
                 1e3 * number(outside, "seconds"), 100 * number(outside, "share"));
  text += head("kernel and shapes, most time first", 72);
  for (const Json& line : report.find("shapes")->items())
    text +=
        row(cat(word(line, "op"), " ", word(line, "dtype"), " ", word(line, "shapes")), line, 72);
  text += format(
      "\nwork: %.0f kernel launches (%.0f reorders), %.2f GFLOP, %.1f MiB of inputs and outputs\n",
      number(work, "launches"), number(work, "reorders"), number(work, "gflop"),
      number(work, "mib"));
  text += format(
      "      %.0f weight packs (%.1f MiB), %.1f system allocations; %.1f MiB at most from the "
      "pool\n",
      number(work, "packs"), number(work, "packed_mib"), number(work, "system_allocations"),
      number(report, "peak_pool_mib"));
  return text;
}

}  // namespace spindle
