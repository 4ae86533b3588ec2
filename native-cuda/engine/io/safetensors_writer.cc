// Writes safetensors files.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace spindle {

namespace {
// A file under a temporary name; removed unless it was committed.
class PartialFile {
 public:
  explicit PartialFile(const std::string& path)
      : path_(path), partial_(cat(path, ".partial-", ::getpid())) {
    fd_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd_ < 0) fail("create");
    buffer_.reserve(kBuffer);
  }
  ~PartialFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!committed_) ::unlink(partial_.c_str());
  }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  void append(const void* data, size_t bytes) {
    const char* p = static_cast<const char*>(data);
    if (buffer_.size() + bytes > kBuffer) flush();
    if (bytes >= kBuffer)
      write_all(p, bytes);
    else
      buffer_.insert(buffer_.end(), p, p + bytes);
  }

  void commit() {
    flush();
    if (::fsync(fd_) != 0) fail("sync");
    int closed = ::close(fd_);
    fd_ = -1;
    if (closed != 0) fail("close");
    if (::rename(partial_.c_str(), path_.c_str()) != 0) fail("rename");
    committed_ = true;
    sync_directory();
  }

 private:
  static constexpr size_t kBuffer = size_t(1) << 20;

  [[noreturn]] void fail(const char* what) const {
    bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
    Code code = full ? Code::ResourceExhausted
                : errno == ENOENT || errno == EACCES || errno == ENOTDIR || errno == EISDIR
                    ? Code::InvalidArgument
                    : Code::Internal;
    throw Error(code, cat(path_, ": cannot ", what, " the file: ", std::strerror(errno),
                          full ? "; free some space and try again" : ""));
  }

  void flush() {
    write_all(buffer_.data(), buffer_.size());
    buffer_.clear();
  }

  void write_all(const char* p, size_t bytes) {
    while (bytes > 0) {
      ssize_t written = ::write(fd_, p, std::min<size_t>(bytes, size_t(1) << 30));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("write");
      p += written;
      bytes -= size_t(written);
    }
  }

  // So that the name survives a power cut too.
  void sync_directory() const {
    size_t slash = path_.rfind('/');
    std::string directory = slash == std::string::npos ? "."
                            : slash == 0               ? "/"
                                                       : path_.substr(0, slash);
    int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;  // a folder that may not be read can still be written to
    ::fsync(fd);
    ::close(fd);
  }

  std::string path_, partial_;
  int fd_ = -1;
  bool committed_ = false;
  std::vector<char> buffer_;
};

uint64_t byte_size(const TensorToWrite& tensor) {
  uint64_t bytes = file_type_size(tensor.type);
  for (int64_t d : tensor.shape) bytes *= uint64_t(d);
  return bytes;
}

std::string header_text(const std::vector<TensorToWrite>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  std::string out = "{";
  if (!metadata.empty()) {
    out += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata)
      out += (out.back() == '{' ? "" : ",") + json_quote(key) + ":" + json_quote(value);
    out += "}";
  }
  uint64_t at = 0;
  for (const TensorToWrite& tensor : tensors) {
    if (out.size() > 1) out += ',';
    out += json_quote(tensor.name) +
           cat(":{\"dtype\":\"", file_type_name(tensor.type), "\",\"shape\":[");
    for (size_t i = 0; i < tensor.shape.size(); ++i) out += cat(i ? "," : "", tensor.shape[i]);
    uint64_t end = at + byte_size(tensor);
    out += cat("],\"data_offsets\":[", at, ",", end, "]}");
    at = end;
  }
  out += '}';
  out.resize((out.size() + 7) / 8 * 8, ' ');
  return out;
}
}  // namespace

void write_safetensors(const std::string& path,
                       std::vector<TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    return a.type != b.type ? a.type < b.type : a.name < b.name;
  });
  for (size_t i = 1; i < tensors.size(); ++i)
    ensure(tensors[i].name != tensors[i - 1].name, path, ": ", tensors[i].name,
           " would be written twice");
  std::string header = header_text(tensors, metadata);
  PartialFile file(path);
  uint64_t length = header.size();
  file.append(&length, 8);
  file.append(header.data(), header.size());
  for (const TensorToWrite& tensor : tensors) {
    uint64_t written = 0;
    tensor.write([&](const void* data, size_t bytes) {
      written += bytes;
      file.append(data, bytes);
    });
    ensure(written == byte_size(tensor), path, ": ", tensor.name, ": expected ", byte_size(tensor),
           " bytes, got ", written);
  }
  file.commit();
}

}  // namespace spindle
