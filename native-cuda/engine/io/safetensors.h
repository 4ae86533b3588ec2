// The safetensors format: u64 header length, JSON header, tensors without gaps. The reader maps the
// file and checks every claim of the header before anything is read; the writer leaves either a
// whole, synced file or none.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

namespace spindle {

// In the order in which the reference library writes them.
enum class FileType : uint8_t { I64, F64, F32, I32, BF16, F16, U8 };

size_t file_type_size(FileType type);
const char* file_type_name(FileType type);

struct FileTensor {
  std::string name;
  FileType type = FileType::F32;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  // bytes within the data section
  int64_t numel() const;
};

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  const std::vector<FileTensor>& tensors() const { return tensors_; }  // by position in the file
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const FileTensor* find(const std::string& name) const;
  const FileTensor& at(const std::string& name) const;
  const std::byte* data(const FileTensor& tensor) const { return data_ + tensor.begin; }

  // Converts to float; `out` has room for numel() values.
  void read(const FileTensor& tensor, float* out) const;
  void read(const FileTensor& tensor, double* out) const;
  std::vector<float> floats(const std::string& name) const;
  // I64, I32 and U8.
  std::vector<int64_t> integers(const std::string& name) const;

 private:
  void parse_header(const char* text, size_t length, uint64_t data_bytes);
  void let_go(const FileTensor& tensor) const;
  std::string path_;
  void* map_ = nullptr;
  size_t map_bytes_ = 0;
  const std::byte* data_ = nullptr;
  std::vector<FileTensor> tensors_;
  std::unordered_map<std::string, size_t> by_name_;
  std::map<std::string, std::string> metadata_;
};

// Appends bytes of the tensor being written.
using ByteSink = std::function<void(const void* data, size_t bytes)>;

struct TensorToWrite {
  std::string name;
  FileType type = FileType::F32;
  std::vector<int64_t> shape;
  // Called once, in the file's order; hands the tensor's bytes to the sink in as many pieces as it
  // likes.
  std::function<void(const ByteSink& sink)> write;
};

// Writes the layout of the reference library: metadata first, then tensors by type and by name,
// header padded with spaces to a multiple of 8. Goes to a temporary name beside `path`, is synced,
// then renamed.
void write_safetensors(const std::string& path,
                       std::vector<TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace spindle
