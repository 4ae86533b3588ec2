#include "io/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/dtype.h"
#include "core/error.h"
#include "io/json.h"

namespace spindle {

namespace {
constexpr uint64_t kMaxHeader = 100'000'000;  // as in the reference library
constexpr size_t kMaxRank = 16;               // more than any model has; bounds what a shape costs

struct TypeRow {
  const char* name;
  size_t size;
};
// By FileType.
constexpr TypeRow kTypes[] = {{"I64", 8},  {"F64", 8}, {"F32", 4}, {"I32", 4},
                              {"BF16", 2}, {"F16", 2}, {"U8", 1}};

template <class T>
T load(const std::byte* p) {  // tensors need not be aligned
  T x;
  std::memcpy(&x, p, sizeof(T));
  return x;
}

double to_real(const std::byte* p, FileType type, int64_t i) {
  switch (type) {
    case FileType::F64:
      return load<double>(p + 8 * i);
    case FileType::F32:
      return double(load<float>(p + 4 * i));
    case FileType::F16:
      return double(half_to_float(load<uint16_t>(p + 2 * i)));
    case FileType::BF16:
      return double(to_float(bf16{load<uint16_t>(p + 2 * i)}));
    case FileType::I64:
      return double(load<int64_t>(p + 8 * i));
    case FileType::I32:
      return double(load<int32_t>(p + 4 * i));
    case FileType::U8:
      return double(load<uint8_t>(p + i));
  }
  return 0;
}

template <class T>
void convert(const std::byte* p, const FileTensor& tensor, T* out) {
  if (tensor.begin == tensor.end) return;  // `out` may be null then, which memcpy does not take
  if (sizeof(T) == 4 && tensor.type == FileType::F32) {
    std::memcpy(out, p, size_t(tensor.end - tensor.begin));
    return;
  }
  for (int64_t i = 0, n = tensor.numel(); i < n; ++i) out[i] = T(to_real(p, tensor.type, i));
}

// A value within a message, described only when the message is needed.
struct Described {
  const Json& json;
};
std::ostream& operator<<(std::ostream& out, const Described& d) { return out << d.json.describe(); }

uint64_t unsigned_value(const Json& json, const std::string& where, const char* what) {
  require(json.is_integer() && json.integer() >= 0, where, ": ", what,
          ": expected a non-negative integer, got ", Described{json});
  return uint64_t(json.integer());
}

std::map<std::string, std::string> parse_metadata(const Json& json, const std::string& where) {
  std::map<std::string, std::string> metadata;
  if (json.is_null()) return metadata;  // as the reference library reads it
  require(json.is_object(), where, ": expected an object, got ", Described{json});
  for (const auto& [key, value] : json.members()) {
    require(value.is_string(), where, ": ", key, ": expected a string, got ", Described{value});
    metadata[key] = value.string();
  }
  return metadata;
}

const TypeRow& parse_type(const Json& json, const std::string& where) {
  require(json.is_string(), where, ": dtype: expected a string, got ", Described{json});
  auto row = std::find_if(std::begin(kTypes), std::end(kTypes),
                          [&](const TypeRow& r) { return json.string() == r.name; });
  require(row != std::end(kTypes), where,
          ": dtype: expected F64, F32, F16, BF16, I64, I32 or U8, got ", Described{json});
  return *row;
}

// The dimensions into `shape`; returns how many bytes such a tensor has.
uint64_t parse_shape(const Json& json,
                     const std::string& where,
                     size_t type_size,
                     std::vector<int64_t>& shape) {
  require(json.is_array(), where, ": shape: expected a list, got ", Described{json});
  require(json.items().size() <= kMaxRank, where, ": shape: expected at most ", kMaxRank,
          " dimensions, got ", json.items().size());
  uint64_t size = type_size;
  bool empty = false;
  for (const Json& dim : json.items()) {
    uint64_t d = unsigned_value(dim, where, "shape");
    shape.push_back(int64_t(d));
    empty |= d == 0;
    if (d == 0) continue;
    // Beyond 2^62 no product overflows and no file is that large.
    require(size <= (uint64_t(1) << 62) / d, where,
            ": shape: expected a size that fits in memory, got ", Described{json});
    size *= d;
  }
  return empty ? 0 : size;
}

FileTensor parse_tensor(const std::string& name,
                        const Json& entry,
                        const std::string& where,
                        uint64_t data_bytes) {
  require(entry.is_object(), where, ": expected an object, got ", Described{entry});
  for (const auto& [key, value] : entry.members())
    require(key == "dtype" || key == "shape" || key == "data_offsets", where,
            ": expected dtype, shape and data_offsets, got ", key);
  const Json *dtype = entry.find("dtype"), *shape = entry.find("shape"),
             *offsets = entry.find("data_offsets");
  require(dtype && shape && offsets, where, ": expected dtype, shape and data_offsets, got no ",
          !dtype   ? "dtype"
          : !shape ? "shape"
                   : "data_offsets");
  const TypeRow& row = parse_type(*dtype, where);
  FileTensor tensor;
  tensor.name = name;
  tensor.type = FileType(&row - std::begin(kTypes));
  uint64_t size = parse_shape(*shape, where, row.size, tensor.shape);
  require(offsets->is_array() && offsets->items().size() == 2, where,
          ": data_offsets: expected two integers, got ", Described{*offsets});
  tensor.begin = unsigned_value(offsets->items()[0], where, "data_offsets");
  tensor.end = unsigned_value(offsets->items()[1], where, "data_offsets");
  require(tensor.begin <= tensor.end, where, ": data_offsets: expected begin <= end, got ",
          Described{*offsets});
  require(tensor.end <= data_bytes, where, ": data_offsets: expected an end within the file's ",
          data_bytes, " bytes of data, got ", tensor.end);
  require(tensor.end - tensor.begin == size, where, ": data_offsets: expected ", size,
          " bytes for ", row.name, " ", Described{*shape}, ", got ", tensor.end - tensor.begin);
  return tensor;
}
}  // namespace

size_t file_type_size(FileType type) { return kTypes[size_t(type)].size; }
const char* file_type_name(FileType type) { return kTypes[size_t(type)].name; }

int64_t FileTensor::numel() const {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    Code code = errno == ENOENT ? Code::NotFound : Code::InvalidArgument;
    throw Error(code,
                cat(path, ": expected a readable safetensors file, got ", std::strerror(errno)));
  }
  struct stat info{};
  bool regular = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  uint64_t bytes = regular ? uint64_t(info.st_size) : 0;
  if (regular && bytes >= 8) {
    map_ = ::mmap(nullptr, size_t(bytes), PROT_READ, MAP_PRIVATE, fd, 0);
    map_bytes_ = size_t(bytes);
  }
  ::close(fd);
  require(regular, path, ": expected a regular file, got something else");
  require(bytes >= 8, path, ": expected a safetensors file of at least 8 bytes, got ", bytes);
  if (map_ == MAP_FAILED) {
    map_ = nullptr;
    throw Error(Code::ResourceExhausted,
                cat(path, ": cannot map ", bytes, " bytes: ", std::strerror(errno)));
  }
  try {
    uint64_t header = load<uint64_t>(static_cast<const std::byte*>(map_));
    require(header <= kMaxHeader, path, ": header length: expected at most ", kMaxHeader,
            " bytes, got ", header);
    require(header <= bytes - 8, path, ": header length: expected at most the ", bytes - 8,
            " bytes that follow, got ", header);
    data_ = static_cast<const std::byte*>(map_) + 8 + header;
    parse_header(static_cast<const char*>(map_) + 8, size_t(header), bytes - 8 - header);
  } catch (...) {
    ::munmap(map_, map_bytes_);
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() {
  if (map_) ::munmap(map_, map_bytes_);
}

void SafetensorsFile::parse_header(const char* text, size_t length, uint64_t data_bytes) {
  Json header = Json::parse({text, length}, path_ + ": header");
  if (!header.is_object())
    throw Error(Code::InvalidArgument,
                cat(path_, ": header: expected an object, got ", header.describe()));
  for (const auto& [name, entry] : header.members()) {
    std::string where = cat(path_, ": ", name);
    if (name == "__metadata__")
      metadata_ = parse_metadata(entry, where);
    else
      tensors_.push_back(parse_tensor(name, entry, where, data_bytes));
  }
  std::stable_sort(tensors_.begin(), tensors_.end(), [](const FileTensor& a, const FileTensor& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  uint64_t at = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const FileTensor& tensor = tensors_[i];
    require(tensor.begin == at, path_, ": ", tensor.name, ": data_offsets: expected to begin at ",
            at, ", where the tensor before it ends, got ", tensor.begin,
            tensor.begin < at ? " (an overlap)" : " (a hole)");
    at = tensor.end;
    by_name_[tensor.name] = i;
  }
  require(at == data_bytes, path_, ": expected ", at, " bytes of data as the header says, got ",
          data_bytes);
}

const FileTensor* SafetensorsFile::find(const std::string& name) const {
  auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

const FileTensor& SafetensorsFile::at(const std::string& name) const {
  const FileTensor* tensor = find(name);
  require(tensor != nullptr, path_, ": expected a tensor named ", name, ", got none");
  return *tensor;
}

void SafetensorsFile::read(const FileTensor& tensor, float* out) const {
  convert(data(tensor), tensor, out);
  let_go(tensor);
}
void SafetensorsFile::read(const FileTensor& tensor, double* out) const {
  convert(data(tensor), tensor, out);
  let_go(tensor);
}

// Whole pages of the tensor leave this process' memory, where a model's file would count beside the
// model; read again, they come back.
void SafetensorsFile::let_go(const FileTensor& tensor) const {
  const uintptr_t page = uintptr_t(::sysconf(_SC_PAGESIZE)),
                  begin = reinterpret_cast<uintptr_t>(data(tensor));
  const uintptr_t first = (begin + page - 1) / page * page,
                  last = (begin + (tensor.end - tensor.begin)) / page * page;
  if (last > first) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

std::vector<float> SafetensorsFile::floats(const std::string& name) const {
  const FileTensor& tensor = at(name);
  std::vector<float> out(size_t(tensor.numel()));
  read(tensor, out.data());
  return out;
}

std::vector<int64_t> SafetensorsFile::integers(const std::string& name) const {
  const FileTensor& tensor = at(name);
  std::vector<int64_t> out(size_t(tensor.numel()));
  const std::byte* p = data(tensor);
  for (size_t i = 0; i < out.size(); ++i) {
    switch (tensor.type) {
      case FileType::I64:
        out[i] = load<int64_t>(p + 8 * i);
        break;
      case FileType::I32:
        out[i] = load<int32_t>(p + 4 * i);
        break;
      case FileType::U8:
        out[i] = load<uint8_t>(p + i);
        break;
      default:
        throw Error(Code::InvalidArgument,
                    cat(path_, ": ", name, ": dtype: expected I64, I32 or U8, got ",
                        file_type_name(tensor.type)));
    }
  }
  return out;
}

}  // namespace spindle
