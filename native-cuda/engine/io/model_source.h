// From a model's files to its parameters and back.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "autograd/parameter.h"
#include "io/lora_file.h"

namespace spindle {

// A LoRA file on top of a model.
struct AdapterSource {
  std::string path;
  double scale = 1;  // multiplies the file's own
  LoraTarget target = {};
};

struct ModelSource {
  std::string config;                        // config.json's text
  std::vector<std::string> weights;          // safetensors shards
  std::string label;                         // named in errors
  std::vector<AdapterSource> adapters = {};  // loading adds them to the weights
};

// How a file holds what parameters need, where that is more than another name.
struct FileLayout {
  // The rows of the file's tensor, cut evenly, are these parameters in order; none: the tensor is
  // left out.
  std::vector<std::string> parameters = {};
  bool transposed = false;  // a matrix that is (K, N) in the file
};

struct LoadOptions {
  // From a name in the file to the parameter's; "" leaves the tensor out. Identity when unset.
  std::function<std::string(const std::string&)> rename = {};
  // Takes the place of `rename` where set.
  std::function<FileLayout(const std::string&)> layout = {};
  // Tensors whose name ends so are not parameters: buffers that some library versions save.
  std::vector<std::string> ignored_suffixes = {"position_ids"};
};

// Checks names and shapes against headers only: `store` need not be allocated. Throws what
// load_parameters would.
void check_parameters(ParameterStore& store,
                      const ModelSource& source,
                      const LoadOptions& options = {});
// Fills every master (converting layout and dtype) and commits. A missing, unexpected or mis-shaped
// tensor is refused by name.
void load_parameters(ParameterStore& store,
                     const ModelSource& source,
                     const LoadOptions& options = {});

// Values laid out like `store`'s master arena (weights, moments, averages), saved as prefix +
// parameter name.
struct ParameterValues {
  std::string prefix;
  const ParameterStore* store;
  Tensor arena;  // F32 or F64
};
// Float32, PyTorch's layout.
void save_parameters(const std::string& path,
                     const std::vector<ParameterValues>& values,
                     const std::map<std::string, std::string>& metadata = {{"format", "pt"}});
// Reads what save_parameters wrote into the arenas; every tensor must be there and no other.
// Returns the metadata. The caller commits stores whose master was given.
std::map<std::string, std::string> load_saved_parameters(
    const std::string& path,
    const std::vector<ParameterValues>& values);

}  // namespace spindle
