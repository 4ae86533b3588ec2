// A plan of cuDNN's graph API: made from a graph, chosen among the library's candidates, remembered
// by the name of its engine.
#pragma once
#include <cudnn_frontend.h>

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "kernels/cuda/library/check.h"
#include "kernels/cuda/library_options.h"

namespace spindle::cuda {

namespace fe = cudnn_frontend;

class CudnnHandle {
 public:
  explicit CudnnHandle(cudaStream_t stream);
  ~CudnnHandle() { cudnnDestroy(handle_); }
  CudnnHandle(const CudnnHandle&) = delete;
  cudnnHandle_t get() const { return handle_; }

 private:
  cudnnHandle_t handle_ = nullptr;
};

// Names of a graph's tensors, as their uids.
using Pointers = std::unordered_map<int64_t, void*>;

class CudnnPlan {
 public:
  CudnnPlan(std::shared_ptr<fe::graph::Graph> graph, int64_t index, int64_t workspace)
      : graph_(std::move(graph)), index_(index), workspace_(workspace) {}
  void run(cudnnHandle_t handle,
           Allocator& scratch,
           Pointers pointers,
           const std::string& what) const;

 private:
  std::shared_ptr<fe::graph::Graph> graph_;
  int64_t index_, workspace_;
};

struct PlanRequest {
  std::string key;             // from plan_keys.h
  std::string what;            // shapes, for messages
  bool exact_float32 = false;  // no TF32: engines that use tensor cores are left out
  std::function<Pointers()>
      measured_with;  // tensors to measure candidates with; nothing that matters is written to
};

// Null when the library takes no such graph; that is remembered too.
std::unique_ptr<CudnnPlan> make_cudnn_plan(cudnnHandle_t handle,
                                           const LibraryOptions& options,
                                           const PlanRequest& request,
                                           std::shared_ptr<fe::graph::Graph> graph);

inline fe::DataType_t data_type(DType dtype) {
  return dtype == DType::BF16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::FLOAT;
}

}  // namespace spindle::cuda
