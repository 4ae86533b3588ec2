// What every fuzz program shares: an input as a file, and what an input may come to.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/error.h"

namespace fuzz {

// A file in memory, for readers that take a path; empty where the system gives none.
class File {
 public:
  File(const uint8_t* data, size_t size) : file_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    if (file_ >= 0 && ::write(file_, data, size) != ssize_t(size)) std::abort();
    path_ = "/proc/self/fd/" + std::to_string(file_);
  }
  File(const File&) = delete;
  ~File() { ::close(file_); }
  const std::string& path() const { return path_; }

 private:
  int file_;
  std::string path_;
};

inline std::string_view text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Bad input is refused by an error of ours with a short message; everything else is a finding.
template <class Read>
int expect_read_or_refusal(const Read& read) {
  try {
    read();
  } catch (const spindle::Error& error) {
    if (error.code() != spindle::Code::Internal && std::string_view(error.what()).size() < 100'000)
      return 0;
    std::fprintf(stderr, "unexpected error: %.500s\n", error.what());
    std::abort();
  }
  return 0;
}

}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
