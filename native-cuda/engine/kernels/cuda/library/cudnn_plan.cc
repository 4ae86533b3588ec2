#include "kernels/cuda/library/cudnn_plan.h"

#include "kernels/cuda/library/cudnn_parts.h"
#include "kernels/cuda/library/stopwatch.h"
#include "kernels/cuda/plans/plan_cache.h"
#include "kernels/cuda/plans/plan_keys.h"

namespace spindle::cuda {

namespace {
constexpr int64_t kWorkspaceBytes = int64_t(1) << 30;
constexpr const char* kUnsupported = "unsupported";
}  // namespace

CudnnHandle::CudnnHandle(cudaStream_t stream) {
  static const std::string problem = why_no_cudnn();
  if (!problem.empty()) throw Error(Code::NotFound, cat("[cuDNN] ", problem));
  SPINDLE_CUDNN(cudnnCreate(&handle_), "this device");
  if (const cudnnStatus_t status = cudnnSetStream(handle_, stream);
      status != CUDNN_STATUS_SUCCESS) {
    cudnnDestroy(handle_);
    library_failed("cuDNN", "cudnnSetStream", cudnnGetErrorString(status), "this device");
  }
}

void CudnnPlan::run(cudnnHandle_t handle,
                    Allocator& scratch,
                    Pointers pointers,
                    const std::string& what) const {
  // Engines were chosen for addresses like these; another would end the process's work on this
  // device, not just the call.
  for (const auto& [uid, data] : pointers)
    ensure(reinterpret_cast<uintptr_t>(data) % 16 == 0, "[cuDNN] tensor ", uid, " of ", what,
           ": expected an address that is a multiple of 16, got ", data);
  Tensor workspace;
  if (workspace_ > 0) workspace = Tensor(scratch, {(workspace_ + 3) / 4}, DType::F32);
  fe::error_t status = graph_->execute_plan_at_index(handle, pointers,
                                                     workspace ? workspace.raw() : nullptr, index_);
  if (status.is_bad())
    library_failed("cuDNN", "execute_plan_at_index", status.get_message().c_str(), what);
}

std::unique_ptr<CudnnPlan> make_cudnn_plan(cudnnHandle_t handle,
                                           const LibraryOptions& options,
                                           const PlanRequest& request,
                                           std::shared_ptr<fe::graph::Graph> graph) {
  std::optional<std::string> known =
      options.plans ? options.plans->find(request.key) : std::nullopt;
  if (known == kUnsupported) return nullptr;
  auto unsupported = [&]() -> std::unique_ptr<CudnnPlan> {
    if (options.plans) options.plans->remember(request.key, kUnsupported);
    return nullptr;
  };
  if (graph->validate().is_bad() || graph->build_operation_graph(handle).is_bad() ||
      graph->create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}).is_bad()) {
    if (known) options.plans->forget(request.key, "cuDNN takes no such graph");
    return unsupported();
  }
  graph->deselect_workspace_greater_than(kWorkspaceBytes);
  if (options.deterministic) graph->deselect_numeric_notes({fe::NumericalNote_t::NONDETERMINISTIC});
  if (request.exact_float32)
    graph->deselect_numeric_notes(
        {fe::NumericalNote_t::TENSOR_CORE, fe::NumericalNote_t::DOWN_CONVERT_INPUTS});
  auto name = [&](int64_t i) {
    std::string text;
    return graph->get_plan_name_at_index(i, text).is_good() ? text : std::string();
  };
  auto finished = [&](int64_t i) {
    return std::make_unique<CudnnPlan>(graph, i, graph->get_workspace_size_plan_at_index(i));
  };
  const int64_t count = graph->get_execution_plan_count();
  if (known) {
    for (int64_t i = 0; i < count; ++i)
      if (name(i) == *known && graph->build_plan_at_index(i).is_good()) return finished(i);
    options.plans->forget(request.key, "cuDNN does not offer it");
  }
  Selection selection;
  selection.candidates = count;
  selection.usable = [&](int64_t i) { return graph->build_plan_at_index(i).is_good(); };
  selection.repeatable = [](int64_t) { return true; };  // the others were left out above
  if (!options.deterministic && request.measured_with &&
      !is_capturing(static_cast<cudaStream_t>(options.stream)))
    selection.seconds = [&](int64_t i) {
      return Stopwatch(static_cast<cudaStream_t>(options.stream)).measure([&] {
        finished(i)->run(handle, *options.scratch, request.measured_with(), request.what);
      });
    };
  int64_t chosen = select_plan(selection, options.deterministic);
  if (chosen < 0) return unsupported();
  if (options.plans) options.plans->remember(request.key, name(chosen));
  return finished(chosen);
}

}  // namespace spindle::cuda
