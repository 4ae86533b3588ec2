// Matrix products by cuBLASLt. It thinks in columns: a row-major matrix is its transpose there, so
// that y = a b becomes y^T = b^T a^T, with b as its first operand and a as its second, and the bias
// along its rows.
#include <array>
#include <cstdio>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "kernels/cuda/library/check.h"
#include "kernels/cuda/library/stopwatch.h"
#include "kernels/cuda/plans/drop_old.h"
#include "kernels/cuda/plans/plan_cache.h"
#include "kernels/cuda/plans/plan_keys.h"
#include "kernels/cuda/products.h"

namespace spindle::cuda {

namespace {

constexpr size_t kWorkspaceBytes = size_t(32) << 20;  // what NVIDIA advises for Hopper and newer
constexpr int kCandidates = 16;

cudaDataType_t data_type(DType dtype) { return dtype == DType::BF16 ? CUDA_R_16BF : CUDA_R_32F; }

// The library's objects, freed with the plan that they belong to.
struct Descriptors {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, addend = nullptr, y = nullptr;

  Descriptors() = default;
  Descriptors(const Descriptors&) = delete;
  ~Descriptors() {
    for (cublasLtMatrixLayout_t layout : {first, second, addend, y})
      if (layout) cublasLtMatrixLayoutDestroy(layout);
    if (product) cublasLtMatmulDescDestroy(product);
  }
};

struct Preference {
  cublasLtMatmulPreference_t handle = nullptr;
  ~Preference() {
    if (handle) cublasLtMatmulPreferenceDestroy(handle);
  }
};

struct Plan {
  Descriptors descriptors;
  cublasLtMatmulAlgo_t algorithm{};
  size_t workspace = 0;
};

// An algorithm as text: it may be restored by the same version of the library.
std::string text_of(const cublasLtMatmulAlgo_t& algorithm) {
  std::string text = "algo";
  for (uint64_t word : algorithm.data) {
    char hex[20];
    std::snprintf(hex, sizeof hex, " %llx", static_cast<unsigned long long>(word));
    text += hex;
  }
  return text;
}

bool algorithm_of(const std::string& text, cublasLtMatmulAlgo_t& algorithm) {
  if (text.rfind("algo", 0) != 0) return false;
  const char* at = text.c_str() + 4;
  for (uint64_t& word : algorithm.data) {
    char* end = nullptr;
    word = std::strtoull(at, &end, 16);
    if (end == at) return false;
    at = end;
  }
  return *at == 0;
}

class CublasLtProducts : public Products {
 public:
  explicit CublasLtProducts(const LibraryOptions& options)
      : options_(options), stream_(static_cast<cudaStream_t>(options.stream)) {
    SPINDLE_CUBLAS(cublasLtCreate(&handle_), "this device");
  }
  ~CublasLtProducts() override { cublasLtDestroy(handle_); }

  const char* name() const override { return "cublaslt"; }

  void multiply(const Product& p) override {
    require(p.m > 0 && p.n > 0 && p.k > 0, "[cuBLASLt] a product of ", product_text(p),
            ": expected sizes above 0");
    require(p.input == p.output || (p.input == DType::BF16 && p.output == DType::F32),
            "[cuBLASLt] a product of ", product_text(p),
            ": expected equal types, or bfloat16 to float32");
    std::string key = product_key(p, options_.tf32, options_.deterministic);
    drop_old(plans_, options_, generation_);
    auto it = plans_.find(key);
    if (it == plans_.end()) it = plans_.emplace(key, make_plan(p, key)).first;
    run(*it->second, it->second->algorithm, it->second->workspace, p, p.y);
  }

 private:
  void run(const Plan& plan,
           const cublasLtMatmulAlgo_t& algorithm,
           size_t workspace,
           const Product& p,
           void* y) {
    const float one = 1, beta = p.addend ? 1 : 0;
    if (p.bias)
      SPINDLE_CUBLAS(
          cublasLtMatmulDescSetAttribute(plan.descriptors.product,
                                         CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias, sizeof p.bias),
          product_text(p));
    Tensor scratch;
    if (workspace > 0)
      scratch = Tensor(*options_.scratch, {int64_t((workspace + 3) / 4)}, DType::F32);
    SPINDLE_CUBLAS(
        cublasLtMatmul(handle_, plan.descriptors.product, &one, p.b.data, plan.descriptors.first,
                       p.a.data, plan.descriptors.second, &beta, p.addend ? p.addend : y,
                       plan.descriptors.addend, y, plan.descriptors.y, &algorithm,
                       scratch ? scratch.raw() : nullptr, workspace, stream_),
        product_text(p));
  }

  void describe(Descriptors& d, const Product& p) const {
    auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      SPINDLE_CUBLAS(cublasLtMatmulDescSetAttribute(d.product, attribute, &value, sizeof value),
                     product_text(p));
    };
    auto layout = [&](cublasLtMatrixLayout_t& made, DType dtype, int64_t rows, int64_t columns,
                      int64_t stride) {
      SPINDLE_CUBLAS(cublasLtMatrixLayoutCreate(&made, data_type(dtype), uint64_t(rows),
                                                uint64_t(columns), stride),
                     product_text(p));
    };
    SPINDLE_CUBLAS(cublasLtMatmulDescCreate(&d.product,
                                            p.input == DType::F32 && options_.tf32
                                                ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                : CUBLAS_COMPUTE_32F,
                                            CUDA_R_32F),
                   product_text(p));
    const cublasOperation_t keep = CUBLAS_OP_N, turn = CUBLAS_OP_T;
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.b.transposed ? turn : keep);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.a.transposed ? turn : keep);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, p.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT);
    if (p.bias) {
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(p.output));
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    }
    // As memory holds them, in columns.
    int64_t b_rows = p.b.transposed ? p.k : p.n, b_columns = p.b.transposed ? p.n : p.k,
            a_rows = p.a.transposed ? p.m : p.k, a_columns = p.a.transposed ? p.k : p.m;
    layout(d.first, p.input, b_rows, b_columns, p.b.row_stride ? p.b.row_stride : b_rows);
    layout(d.second, p.input, a_rows, a_columns, p.a.row_stride ? p.a.row_stride : a_rows);
    layout(d.addend, p.output, p.n, p.m, p.n);
    layout(d.y, p.output, p.n, p.m, p.n);
  }

  std::vector<cublasLtMatmulHeuristicResult_t> candidates(const Descriptors& d,
                                                          const Product& p) const {
    Preference preference;
    SPINDLE_CUBLAS(cublasLtMatmulPreferenceCreate(&preference.handle), product_text(p));
    auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      SPINDLE_CUBLAS(
          cublasLtMatmulPreferenceSetAttribute(preference.handle, attribute, &value, sizeof value),
          product_text(p));
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    // Parts of a sum that was split are added in float32 and in a fixed order.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t(pointer_alignment(p.b.data)));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t(pointer_alignment(p.a.data)));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        uint32_t(pointer_alignment(p.addend ? p.addend : p.y)));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32_t(pointer_alignment(p.y)));
    std::vector<cublasLtMatmulHeuristicResult_t> found(kCandidates);
    int count = 0;
    SPINDLE_CUBLAS(
        cublasLtMatmulAlgoGetHeuristic(handle_, d.product, d.first, d.second, d.addend, d.y,
                                       preference.handle, kCandidates, found.data(), &count),
        product_text(p));
    found.resize(size_t(count));
    return found;
  }

  static bool repeatable(const cublasLtMatmulAlgo_t& algorithm) {
    uint32_t scheme = 0;
    size_t written = 0;
    if (cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                             &scheme, sizeof scheme,
                                             &written) != CUBLAS_STATUS_SUCCESS)
      return false;
    return scheme == CUBLASLT_REDUCTION_SCHEME_NONE ||
           scheme == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  }

  // Whether the library still takes an algorithm, and the workspace that it needs then.
  bool accepted(const Descriptors& d,
                const cublasLtMatmulAlgo_t& algorithm,
                size_t& workspace) const {
    cublasLtMatmulHeuristicResult_t result{};
    if (cublasLtMatmulAlgoCheck(handle_, d.product, d.first, d.second, d.addend, d.y, &algorithm,
                                &result) != CUBLAS_STATUS_SUCCESS ||
        result.state != CUBLAS_STATUS_SUCCESS)
      return false;
    workspace = result.workspaceSize;
    return workspace <= kWorkspaceBytes;
  }

  std::unique_ptr<Plan> make_plan(const Product& p, const std::string& key) {
    auto plan = std::make_unique<Plan>();
    describe(plan->descriptors, p);
    if (std::optional<std::string> known =
            options_.plans ? options_.plans->find(key) : std::nullopt) {
      if (algorithm_of(*known, plan->algorithm) &&
          accepted(plan->descriptors, plan->algorithm, plan->workspace))
        return plan;
      options_.plans->forget(key, "cuBLASLt does not take it");
    }
    std::vector<cublasLtMatmulHeuristicResult_t> found = candidates(plan->descriptors, p);
    Selection selection;
    selection.candidates = int64_t(found.size());
    selection.usable = [&](int64_t i) {
      return found[size_t(i)].state == CUBLAS_STATUS_SUCCESS &&
             found[size_t(i)].workspaceSize <= kWorkspaceBytes;
    };
    selection.repeatable = [&](int64_t i) { return repeatable(found[size_t(i)].algo); };
    // Measured into memory of its own: y may be what is accumulated to.
    Tensor target;
    if (!options_.deterministic && !is_capturing(stream_)) {
      target = Tensor(*options_.scratch, {p.m, p.n}, p.output);
      selection.seconds = [&](int64_t i) {
        const auto& candidate = found[size_t(i)];
        return Stopwatch(stream_).measure(
            [&] { run(*plan, candidate.algo, candidate.workspaceSize, p, target.raw()); });
      };
    }
    int64_t chosen = select_plan(selection, options_.deterministic);
    if (chosen < 0)
      library_failed("cuBLASLt", "cublasLtMatmulAlgoGetHeuristic", "no algorithm for it",
                     product_text(p));
    plan->algorithm = found[size_t(chosen)].algo;
    plan->workspace = found[size_t(chosen)].workspaceSize;
    if (options_.plans) options_.plans->remember(key, text_of(plan->algorithm));
    return plan;
  }

  LibraryOptions options_;
  cudaStream_t stream_;
  cublasLtHandle_t handle_ = nullptr;
  std::unordered_map<std::string, std::unique_ptr<Plan>> plans_;
  uint64_t generation_ = 0;
};

}  // namespace

std::unique_ptr<Products> make_cublaslt_products(const LibraryOptions& options) {
  return std::make_unique<CublasLtProducts>(options);
}

}  // namespace spindle::cuda
