#include "core/cpu_quota.h"

#include <algorithm>
#include <cmath>
#include <fstream>

namespace spindle {

namespace {

int processors(double quota, double period) {
  return quota > 0 && period > 0 ? std::max(1, int(std::ceil(quota / period))) : 0;
}

// Version 2: "max 100000" or "150000 100000".
int unified_limit(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  double quota = 0, period = 0;
  return file >> quota >> period ? processors(quota, period) : 0;
}

// Version 1: two files; a quota of -1 is none.
int legacy_limit(const std::string& folder) {
  std::ifstream quotas(folder + "/cpu.cfs_quota_us"), periods(folder + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  return quotas >> quota && periods >> period ? processors(quota, period) : 0;
}

int smaller(int a, int b) { return a == 0 ? b : b == 0 ? a : std::min(a, b); }

// Every group above has a say. Inside of a container the path may be the host's, whose folders are
// not there: the mount's own root is this group then.
template <class Limit>
int smallest(const std::string& mount, std::string path, Limit limit) {
  int found = limit(mount);
  for (; path.size() > 1; path.resize(std::max<size_t>(path.find_last_of('/'), 1)))
    found = smaller(found, limit(mount + path));
  return found;
}

}  // namespace

int cpu_quota(const std::string& root) {
  std::ifstream groups(root + "proc/self/cgroup");
  const std::string mounts = root + "sys/fs/cgroup";
  int found = 0;
  // "0::/path" is version 2; "4:cpu,cpuacct:/path" a hierarchy of version 1.
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      found = smaller(found, smallest(mounts, path, unified_limit));
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      found = smaller(found, smallest(mounts + "/cpu", path, legacy_limit));
      found = smaller(found, smallest(mounts + "/" + controllers, path, legacy_limit));
    }
  }
  return found;
}

}  // namespace spindle
