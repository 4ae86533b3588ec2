#include "io/model_source.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "io/safetensors.h"
#include "io/weight_layout.h"

namespace spindle {

namespace {
constexpr size_t kGroupBytes = size_t(256) << 20;

struct Found {
  const SafetensorsFile* file;
  const FileTensor* tensor;
  size_t part = 0, parts = 1;  // which of how many equal pieces of the tensor's rows
  bool transposed = false;
};

FileLayout layout_of(const std::string& name, const LoadOptions& options) {
  if (options.layout) return options.layout(name);
  std::string parameter = options.rename ? options.rename(name) : name;
  return parameter.empty() ? FileLayout{} : FileLayout{{parameter}};
}

// The shape of the whole tensor in the file.
std::vector<int64_t> whole_shape(const Parameter& parameter, const Found& found) {
  std::vector<int64_t> shape = file_shape(parameter);
  if (found.parts > 1) shape.at(0) *= int64_t(found.parts);
  if (found.transposed) std::reverse(shape.begin(), shape.end());
  return shape;
}

bool fits(const Parameter& parameter, const Found& found) {
  return found.parts == 1 && !found.transposed
             ? fits(parameter, found.tensor->shape)
             : found.tensor->shape == whole_shape(parameter, found);
}

bool ignored(const std::string& name, const LoadOptions& options) {
  return std::any_of(options.ignored_suffixes.begin(), options.ignored_suffixes.end(),
                     [&](const std::string& suffix) { return name.ends_with(suffix); });
}

using Files = std::vector<std::unique_ptr<SafetensorsFile>>;

// The tensor of every parameter, in the store's order; anything missing, left over or of another
// shape is refused.
std::vector<Found> match(ParameterStore& store,
                         const ModelSource& source,
                         const LoadOptions& options,
                         Files& files) {
  require(!source.weights.empty(), source.label,
          ": expected at least one safetensors file, got none");
  std::unordered_map<std::string, Found> by_name;
  for (const std::string& path : source.weights) {
    const SafetensorsFile& file = *files.emplace_back(std::make_unique<SafetensorsFile>(path));
    for (const FileTensor& tensor : file.tensors()) {
      if (ignored(tensor.name, options)) continue;
      FileLayout layout = layout_of(tensor.name, options);
      for (size_t part = 0; part < layout.parameters.size(); ++part) {
        const std::string& name = layout.parameters[part];
        const Parameter* parameter = store.find(name);
        require(parameter != nullptr, path, ": ", tensor.name,
                ": expected only tensors that the config asks for, got this one of shape ",
                shape_text(tensor.shape));
        Found found{&file, &tensor, part, layout.parameters.size(), layout.transposed};
        require(fits(*parameter, found), path, ": ", tensor.name, ": expected shape ",
                shape_text(whole_shape(*parameter, found)), ", got ", shape_text(tensor.shape));
        auto [it, fresh] = by_name.emplace(name, found);
        require(fresh, path, ": ", tensor.name, ": expected one tensor for ", name,
                ", got another as ", it->second.tensor->name, " in ", it->second.file->path());
      }
    }
  }
  std::vector<Found> found;
  for (const Parameter& parameter : store.parameters()) {
    auto it = by_name.find(parameter.name);
    require(it != by_name.end(), source.weights.size() == 1 ? source.weights[0] : source.label,
            ": ", parameter.name, ": expected a tensor of shape ",
            shape_text(file_shape(parameter)), ", got none");
    found.push_back(it->second);
  }
  return found;
}

// What adapters add to a model's weights.
class Additions {
 public:
  Additions() = default;
  Additions(ParameterStore& store, const std::vector<AdapterSource>& adapters) {
    for (const AdapterSource& adapter : adapters) {
      require(std::isfinite(adapter.scale), adapter.path, ": scale: expected a number, got ",
              adapter.scale);
      files_.push_back(
          {std::make_unique<LoraFile>(adapter.path, store, adapter.target), adapter.scale});
    }
  }
  template <class T>
  void add_to(const Parameter& parameter, T* values) const {
    for (const auto& [file, scale] : files_)
      if (const LoraLayer* layer = file->find(parameter.name))
        file->add_to(*layer, scale, values, parameter.shape.numel());
  }

 private:
  std::vector<std::pair<std::unique_ptr<LoraFile>, double>> files_;
};

// Into `out`, as many values as the parameter has, in its shape.
template <class T>
void fill(const Parameter& parameter, const Found& found, const Additions& additions, T* out) {
  if (found.parts > 1 || found.transposed) {
    ensure(parameter.kind != ParameterKind::Filter, "[model_source] ", parameter.name,
           ": filters are neither cut nor transposed");
    std::vector<T> values(size_t(found.tensor->numel()));
    found.file->read(*found.tensor, values.data());
    size_t count = size_t(parameter.shape.numel());
    const T* from = values.data() + found.part * count;
    T* to = out;
    if (!found.transposed) {
      std::copy(from, from + count, to);
      additions.add_to(parameter, to);
      return;
    }
    size_t rows = size_t(parameter.shape[0]), columns = size_t(parameter.shape[1]);
    for (size_t i = 0; i < rows; ++i)
      for (size_t j = 0; j < columns; ++j) to[i * columns + j] = from[j * rows + i];
    additions.add_to(parameter, to);
    return;
  }
  if (parameter.kind != ParameterKind::Filter) {
    found.file->read(*found.tensor, out);
    additions.add_to(parameter, out);
    return;
  }
  std::vector<T> values(size_t(parameter.shape.numel()));
  found.file->read(*found.tensor, values.data());
  additions.add_to(parameter, values.data());
  from_file_layout(parameter, values.data(), out);
}

// A block of memory that the host can write: the arena's own, or one that is copied there
// afterwards.
class Block {
 public:
  Block(Device& device, const Tensor& master) : device_(device), master_(master) {
    if (!device.host_visible()) values_.resize(master.bytes());
  }
  void read(const Parameter& parameter, const Found& found, const Additions& additions) {
    void* out = values_.empty() ? master_.raw() : values_.data();
    if (master_.dtype() == DType::F64)
      fill(parameter, found, additions, static_cast<double*>(out));
    else
      fill(parameter, found, additions, static_cast<float*>(out));
  }
  void send() {
    if (!values_.empty()) device_.memory().upload(master_, values_.data());
  }

 private:
  Device& device_;
  Tensor master_;
  std::vector<std::byte> values_;
};
}  // namespace

void check_parameters(ParameterStore& store,
                      const ModelSource& source,
                      const LoadOptions& options) {
  Files files;
  match(store, source, options, files);
  Additions(store, source.adapters);
}

void load_parameters(ParameterStore& store, const ModelSource& source, const LoadOptions& options) {
  Files files;
  std::vector<Found> found = match(store, source, options, files);
  Additions additions(store, source.adapters);
  std::deque<Parameter>& parameters = store.parameters();
  // In groups: of a frozen model, the kernels take over one group's values before the next is read.
  for (size_t first = 0, last = 0; first < found.size(); first = last) {
    size_t bytes = 0;
    while (last < found.size() && (last == first || bytes < kGroupBytes))
      bytes += parameters[last++].master.bytes();
    std::vector<Block> blocks;
    for (size_t i = first; i < last; ++i) blocks.emplace_back(store.device(), parameters[i].master);
    store.device().threads().run(int64_t(last - first), [&](int64_t i, int) {
      blocks[size_t(i)].read(parameters[first + size_t(i)], found[first + size_t(i)], additions);
    });
    for (Block& block : blocks) block.send();
    blocks.clear();
    for (size_t i = first; i < last; ++i) store.commit(parameters[i]);
  }
}

void save_parameters(const std::string& path,
                     const std::vector<ParameterValues>& values,
                     const std::map<std::string, std::string>& metadata) {
  std::vector<TensorToWrite> tensors;
  for (const ParameterValues& v : values) {
    for (const Parameter& parameter : v.store->parameters()) {
      auto write = [&parameter, arena = v.arena,
                    &device = v.store->device()](const ByteSink& sink) {
        size_t count = size_t(parameter.shape.numel());
        Tensor block = arena.slice(parameter.offset, parameter.shape);
        std::vector<float> native, out(count);
        const float* from = nullptr;
        if (arena.dtype() == DType::F64) {
          std::vector<double> wide = device.download<double>(block);
          native.assign(wide.begin(), wide.end());
          from = native.data();
        } else if (!device.host_visible()) {
          native = device.download<float>(block);
          from = native.data();
        } else {
          from = block.f32();
        }
        to_file_layout(parameter, from, out.data());
        sink(out.data(), count * sizeof(float));
      };
      tensors.push_back({v.prefix + parameter.name, FileType::F32, file_shape(parameter), write});
    }
  }
  write_safetensors(path, std::move(tensors), metadata);
}

std::map<std::string, std::string> load_saved_parameters(
    const std::string& path,
    const std::vector<ParameterValues>& values) {
  SafetensorsFile file(path);
  size_t expected = 0;
  // All is checked before anything is changed.
  for (const ParameterValues& v : values) {
    for (const Parameter& parameter : v.store->parameters()) {
      std::string name = v.prefix + parameter.name;
      const FileTensor& tensor = file.at(name);
      require(fits(parameter, tensor.shape), path, ": ", name, ": expected shape ",
              shape_text(file_shape(parameter)), ", got ", shape_text(tensor.shape));
      ++expected;
    }
  }
  require(file.tensors().size() == expected, path, ": expected ", expected, " tensors, got ",
          file.tensors().size());
  const Additions none;
  for (const ParameterValues& v : values)
    for (const Parameter& parameter : v.store->parameters()) {
      Block block(v.store->device(), v.arena.slice(parameter.offset, parameter.shape));
      block.read(parameter, {&file, &file.at(v.prefix + parameter.name)}, none);
      block.send();
    }
  return file.metadata();
}

}  // namespace spindle
