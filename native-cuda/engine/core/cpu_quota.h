// How many processors a container's limit grants: a pod with a limit of two processors on a machine
// of 64 may run on any of them, and would start 64 threads that share two.
#pragma once
#include <string>

namespace spindle {

// The smallest limit of this process's control groups in processors, rounded up; 0 where there is
// none. `root` has proc/self/cgroup and sys/fs/cgroup of the kernel (versions 1 and 2) below it.
int cpu_quota(const std::string& root = "/");

}  // namespace spindle
