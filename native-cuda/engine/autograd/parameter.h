// Parameters and the arenas they live in. What is trained has its float32 masters in one flat arena
// and its gradients in another, so that AdamW, clipping and EMA are single passes. What is frozen
// has a block per parameter, and matrices and filters are handed to the kernels where they keep a
// form of their own. In bfloat16, matrices and filters are rounded by the kernels as they read
// them, or have a bfloat16 copy where these cannot; biases, norms and embeddings stay float32.
#pragma once
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "autograd/device.h"

namespace spindle {

enum class ParameterKind : uint8_t {
  Vector,  // bias, norm, embedding table: computed with in master precision
  Matrix,  // linear (N, K)
  Filter,  // convolution, kept (Co, R, S, Ci); PyTorch's files have (Co, Ci, R, S)
};

struct Parameter;

// A low-rank addition to a matrix (LoRA, arXiv 2106.09685): x W^T + scale * (x A^T) B^T with A (r,
// K) and B (N, r).
struct LowRank {
  Parameter* a = nullptr;
  Parameter* b = nullptr;
  double scale = 1;
};

// What a store's weights are for.
enum class WeightUse : uint8_t {
  Frozen,       // forward only: the kernels may keep matrices in a form of their own
  PassThrough,  // frozen, but gradients of inputs go through them: adapters are trained on top
  Trained,
};

struct Parameter {
  std::string name;  // the checkpoint's key
  Shape shape;       // as computed with; a Filter's is (Co, R, S, Ci)
  ParameterKind kind = ParameterKind::Vector;
  bool pointwise = false;  // a Matrix that files hold as a 1x1 filter (N, K, 1, 1)
  int64_t offset = 0;      // in the arenas
  int64_t place = 0;       // in the store
  Tensor master;  // F32 (F64 in gradient checks), a slice of the arena; empty when frozen and kept
                  // by the kernels
  Tensor value;   // what kernels read: `master` itself, or its bfloat16 copy
  Tensor grad;    // slice of the gradient arena; empty when frozen
  bool grad_written = false;
  uint64_t id = 0;
  std::vector<Parameter*>* watcher = nullptr;  // gets every backward's use of this parameter
  const LowRank* low_rank = nullptr;  // of a Matrix: added by the ops that multiply with it

  Weight weight() const { return {value, id, shape}; }
  // Where a backward writes: the first one of a step stores, later ones add.
  GradSlot grad_slot() {
    if (!grad) return {};
    GradSlot slot{grad, grad_written};
    grad_written = true;
    if (watcher) watcher->push_back(this);
    return slot;
  }
};

class ParameterStore {
 public:
  explicit ParameterStore(Device& device) : device_(device) {}
  ParameterStore(const ParameterStore&) = delete;
  ~ParameterStore();

  // Called by modules while they are built; the address stays valid.
  Parameter& add(std::string name, const Shape& shape, ParameterKind kind);
  // Once, after the modules are built. `compute` is BF16 or the master dtype; `master` F32 (F64 for
  // gradient checks).
  void allocate(DType compute, DType master, WeightUse use);
  void allocate(DType compute, DType master, bool trainable) {
    allocate(compute, master, trainable ? WeightUse::Trained : WeightUse::Frozen);
  }
  // After masters changed: refreshes the bfloat16 copies. A frozen store's matrices and filters go
  // to the kernels where they keep them; their masters are gone then.
  void commit();
  void commit(Parameter& parameter);
  // Before a step's first backward: gradients will be stored, not added. Parameters that no
  // backward reaches are zeroed by finish_gradients().
  void begin_gradients();
  void finish_gradients();
  // From now on every gradient that a backward writes to is noted in `uses`; null ends it.
  void watch(std::vector<Parameter*>* uses);
  // Which gradients have been written since begin_gradients(), in the order of the parameters.
  std::vector<bool> written() const;
  void set_written(const std::vector<bool>& written);

  std::deque<Parameter>& parameters() { return parameters_; }
  const std::deque<Parameter>& parameters() const { return parameters_; }
  Parameter* find(const std::string& name);
  int64_t numel() const { return numel_; }  // of the models' parameters, padding left out
  Tensor& master() { return master_; }      // the arena; empty when frozen
  const Tensor& master() const { return master_; }
  Tensor& gradient() { return gradient_; }
  // bfloat16 copy of the arena; empty where kernels round as they read, and when frozen
  Tensor& bf16_shadow() { return bf16_shadow_; }
  bool trainable() const { return bool(gradient_); }
  Device& device() const { return device_; }
  DType compute() const { return compute_; }
  WeightUse use() const { return use_; }

 private:
  Device& device_;
  std::deque<Parameter> parameters_;
  std::unordered_map<std::string, Parameter*> by_name_;
  Tensor master_, bf16_shadow_, gradient_;
  int64_t numel_ = 0;
  DType compute_ = DType::F32;
  WeightUse use_ = WeightUse::Frozen;
  bool allocated_ = false;
};

// Where a module stands in the tree: scope / "conv1" names its parameters "….conv1.weight".
class Scope {
 public:
  Scope(ParameterStore& store, std::string path = {}) : store_(&store), path_(std::move(path)) {}
  Scope operator/(const std::string& name) const {
    return {*store_, path_.empty() ? name : path_ + "." + name};
  }
  Scope operator/(int64_t index) const { return *this / std::to_string(index); }
  Parameter* parameter(const std::string& name, const Shape& shape, ParameterKind kind) const {
    return &store_->add(path_.empty() ? name : path_ + "." + name, shape, kind);
  }
  // The matrix (n, k) of a 1x1 convolution.
  Parameter* pointwise(const std::string& name, int64_t n, int64_t k) const {
    Parameter* p = parameter(name, {n, k}, ParameterKind::Matrix);
    p->pointwise = true;
    return p;
  }
  const std::string& path() const { return path_; }

 private:
  ParameterStore* store_;
  std::string path_;
};

}  // namespace spindle
