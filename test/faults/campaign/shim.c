/*
 * Loaded before libc (LD_PRELOAD): the nth call of one kind on files below a folder fails, ends the
 * process, or stops it. Which call that is stands in the environment:
 *   FAULT_SHIM         "<call> <nth> <times> <action>"; action: an errno's number, "kill", "stop",
 *                      or "torn": half of the bytes are written, then the process is killed
 *   FAULT_SHIM_FOLDER  the folder
 *   FAULT_SHIM_REPORT  a file that gets a line for every call that was met
 * A child process begins to count anew.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char call_name[16], action[16], folder[4096], report[4096];
static long nth, times;
static atomic_long seen;
static int ready;

__attribute__((constructor)) static void read_settings(void) {
  const char* settings = getenv("FAULT_SHIM");
  const char* below = getenv("FAULT_SHIM_FOLDER");
  const char* to = getenv("FAULT_SHIM_REPORT");
  if (settings == NULL || below == NULL || to == NULL) return;
  if (sscanf(settings, "%15s %ld %ld %15s", call_name, &nth, &times, action) != 4) return;
  snprintf(folder, sizeof folder, "%s", below);
  snprintf(report, sizeof report, "%s", to);
  ready = 1;
}

static void tell(const char* path) {
  char line[8300];
  const int size =
      snprintf(line, sizeof line, "%s %ld %s %s\n", call_name, atomic_load(&seen), action, path);
  const int fd =
      (int)syscall(SYS_openat, AT_FDCWD, report, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return;
  syscall(SYS_write, fd, line, (size_t)size);
  syscall(SYS_close, fd);
}

/* Whether this call is one that is meant. Returns only where it fails or is torn. */
static int is_met(const char* name, const char* path) {
  if (!ready || path == NULL || strcmp(name, call_name) != 0) return 0;
  if (strncmp(path, folder, strlen(folder)) != 0) return 0;
  const long index = atomic_fetch_add(&seen, 1) + 1;
  if (index < nth || index >= nth + times) return 0;
  tell(path);
  if (strcmp(action, "kill") == 0) kill(getpid(), SIGKILL);
  if (strcmp(action, "stop") == 0) {
    kill(getpid(), SIGSTOP);
    return 0;
  }
  if (strcmp(action, "torn") != 0) errno = atoi(action);
  return 1;
}

static int is_met_fd(const char* name, int fd) {
  if (!ready || strcmp(name, call_name) != 0) return 0;
  char link_name[64], path[4096];
  snprintf(link_name, sizeof link_name, "/proc/self/fd/%d", fd);
  const ssize_t size = readlink(link_name, path, sizeof path - 1);
  if (size <= 0) return 0;
  path[size] = 0;
  return is_met(name, path);
}

static int is_torn(void) { return strcmp(action, "torn") == 0; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                       \
  int name(const char* path, int flags, ...) {           \
    va_list rest;                                        \
    va_start(rest, flags);                               \
    const mode_t mode = va_arg(rest, mode_t);            \
    va_end(rest);                                        \
    if (is_met("open", path)) return -1;                 \
    return REAL(name)(path, flags, mode);                \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                     \
  int name(int at, const char* path, int flags, ...) {   \
    va_list rest;                                        \
    va_start(rest, flags);                               \
    const mode_t mode = va_arg(rest, mode_t);            \
    va_end(rest);                                        \
    if (is_met("open", path)) return -1;                 \
    return REAL(name)(at, path, flags, mode);            \
  }
OPENAT(openat)
OPENAT(openat64)

FILE* fopen(const char* path, const char* mode) {
  return is_met("open", path) ? NULL : REAL(fopen)(path, mode);
}

FILE* fopen64(const char* path, const char* mode) {
  return is_met("open", path) ? NULL : REAL(fopen64)(path, mode);
}

ssize_t read(int fd, void* data, size_t size) {
  return is_met_fd("read", fd) ? -1 : REAL(read)(fd, data, size);
}

#define PREAD(name, offset_type)                                      \
  ssize_t name(int fd, void* data, size_t size, offset_type offset) { \
    return is_met_fd("read", fd) ? -1 : REAL(name)(fd, data, size, offset); \
  }
PREAD(pread, off_t)
PREAD(pread64, off64_t)

ssize_t write(int fd, const void* data, size_t size) {
  if (!is_met_fd("write", fd)) return REAL(write)(fd, data, size);
  if (!is_torn()) return -1;
  REAL(write)(fd, data, size / 2);
  kill(getpid(), SIGKILL);
  return -1;
}

#define PWRITE(name, offset_type)                                           \
  ssize_t name(int fd, const void* data, size_t size, offset_type offset) { \
    if (!is_met_fd("write", fd)) return REAL(name)(fd, data, size, offset); \
    if (!is_torn()) return -1;                                              \
    REAL(name)(fd, data, size / 2, offset);                                 \
    kill(getpid(), SIGKILL);                                                \
    return -1;                                                              \
  }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec* parts, int count) {
  if (!is_met_fd("write", fd)) return REAL(writev)(fd, parts, count);
  if (!is_torn()) return -1;
  if (count > 0) REAL(write)(fd, parts[0].iov_base, parts[0].iov_len / 2);
  kill(getpid(), SIGKILL);
  return -1;
}

int fsync(int fd) { return is_met_fd("fsync", fd) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return is_met_fd("fsync", fd) ? -1 : REAL(fdatasync)(fd); }

int rename(const char* from, const char* to) {
  return is_met("rename", to) ? -1 : REAL(rename)(from, to);
}

int link(const char* from, const char* to) {
  return is_met("link", to) ? -1 : REAL(link)(from, to);
}

int unlink(const char* path) { return is_met("unlink", path) ? -1 : REAL(unlink)(path); }

int mkdir(const char* path, mode_t mode) {
  return is_met("mkdir", path) ? -1 : REAL(mkdir)(path, mode);
}
