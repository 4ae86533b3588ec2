#include "check.h"
#include "isas.h"
#include "kernel_cases.h"

using namespace spindle;

namespace {

// where an activation is fused, backends round its argument too
constexpr double kBfloat16Tolerance = 5e-3;

}  // namespace

TEST("the cpu kernels give what the reference gives") {
  ThreadPool threads(2);
  ExactAllocator memory;
  std::unique_ptr<Backend> reference = make_reference_kernels();
  for_each_type([&](DType dtype, bool accumulate, const std::string& type) {
    KernelCases all(memory, dtype, accumulate);
    std::vector<std::unique_ptr<Backend>> backends;
    for (const std::string& isa : available_isas())
      backends.push_back(make_cpu_kernels(threads, {.isa = isa.c_str()}));
    for (const KernelCase& c : all.list()) {
      Outputs expected(memory);
      c.run(*reference, expected);
      for (auto& kernels : backends)
        check::each(cat(kernels->name(), ", ", type, c.name), [&] {
          Outputs got(memory);
          c.run(*kernels, got);
          compare(c, got, expected, kBfloat16Tolerance);
        });
    }
  });
}

TEST("bytes do not depend on the number of threads") {
  ExactAllocator memory;
  for_each_type([&](DType dtype, bool accumulate, const std::string& type) {
    KernelCases all(memory, dtype, accumulate);
    for (const std::string& isa : available_isas()) {
      ThreadPool one(1), two(2), three(3);
      std::unique_ptr<Backend> first = make_cpu_kernels(one, {.isa = isa.c_str()});
      std::unique_ptr<Backend> others[] = {make_cpu_kernels(two, {.isa = isa.c_str()}),
                                           make_cpu_kernels(three, {.isa = isa.c_str()})};
      for (const KernelCase& c : all.list())
        check::each(cat(isa, ", ", type, c.name), [&] {
          Outputs expected(memory);
          c.run(*first, expected);
          for (auto& kernels : others) {
            Outputs got(memory);
            c.run(*kernels, got);
            for (size_t i = 0; i < expected.list().size(); ++i)
              CHECK_THAT(same_bytes(got.list()[i]->tensor, expected.list()[i]->tensor),
                         expected.list()[i]->name);
          }
        });
    }
  });
}

namespace {

// Runs f on batches of `batch` images and on each image alone; the outputs' bytes must be the same.
void check_alone(Allocator& memory,
                 const Shape& y_shape,
                 DType dtype,
                 const std::vector<Tensor>& inputs,
                 const std::function<void(Tensor& y, const std::vector<Tensor>& inputs)>& f) {
  Tensor y = Outputs(memory).tensor("y", y_shape, dtype);
  f(y, inputs);
  for (int64_t image = 0; image < y_shape[0]; ++image) {
    std::vector<Tensor> own;
    for (const Tensor& t : inputs) own.push_back(t ? image_of(t, image) : t);
    Tensor alone(memory, image_of(y, image).shape(), dtype);
    f(alone, own);
    CHECK_THAT(same_bytes(alone, image_of(y, image)), "image ", image, " of ", y_shape);
  }
}

}  // namespace

TEST("an image's bytes do not depend on the batch that it is in") {
  ExactAllocator memory;
  ThreadPool threads(2);
  constexpr int64_t kBatch = 3;
  uint64_t seed = 0;
  for (const std::string& isa : available_isas())
    for (DType dtype : {DType::F32, DType::BF16}) {
      std::unique_ptr<Backend> kernels = make_cpu_kernels(threads, {.isa = isa.c_str()});
      auto values = [&](std::vector<int64_t> dims) {
        dims[0] = kBatch;
        return uniform_tensor(memory, Shape(dims), dtype, ++seed);
      };
      auto batched = [](std::vector<int64_t> dims) {
        dims[0] = kBatch;
        return Shape(dims);
      };
      auto floats = [&](const Shape& shape) {
        return uniform_tensor(memory, shape, DType::F32, ++seed);
      };
      auto named = [&](const std::string& name) {
        return cat(isa, ", ", dtype_name(dtype), ", ", name);
      };
      for (const cases::Conv2dCase& c : cases::kConv2d)
        check::each(named(c.name()), [&] {
          Weight w{uniform_tensor(memory, c.w(), dtype, ++seed)};
          Tensor bias = floats({c.out});
          check_alone(memory, batched(c.y().dims()), dtype,
                      {values(c.x().dims()), values({c.batch, c.out}), values(c.y().dims())},
                      [&](Tensor& y, const std::vector<Tensor>& in) {
                        kernels->run(Conv2dForward{.y = y,
                                                   .x = in[0],
                                                   .w = w,
                                                   .epilogue = {.bias = bias,
                                                                .per_image = in[1],
                                                                .residual = in[2],
                                                                .activation = c.activation},
                                                   .args = c.args});
                      });
        });
      for (const cases::LinearCase& c : cases::kLinear)
        check::each(named(c.name()), [&] {
          Weight w{uniform_tensor(memory, {c.n, c.k}, dtype, ++seed)};
          Tensor bias = floats({c.n});
          check_alone(memory, {kBatch, c.rows, c.n}, dtype,
                      {values({0, c.rows, c.k}), values({0, c.n}), values({0, c.rows, c.n})},
                      [&](Tensor& y, const std::vector<Tensor>& in) {
                        int64_t m = in[0].dim(0) * c.rows;
                        Tensor flat = y.reshape({m, c.n});
                        kernels->run(LinearForward{.y = flat,
                                                   .x = in[0].reshape({m, c.k}),
                                                   .w = w,
                                                   .epilogue = {.bias = bias,
                                                                .per_image = in[1],
                                                                .residual = in[2].reshape({m, c.n}),
                                                                .activation = c.activation}});
                      });
        });
      for (const cases::GroupNormCase& c : cases::kGroupNorm)
        check::each(named(c.name()), [&] {
          Tensor gamma = floats({c.x[-1]}), beta = floats({c.x[-1]});
          check_alone(memory, batched(c.x.dims()), dtype, {values(c.x.dims())},
                      [&](Tensor& y, const std::vector<Tensor>& in) {
                        Tensor mean = floats({y.dim(0), c.args.groups}),
                               rstd = floats(mean.shape());
                        kernels->run(GroupNormForward{.y = y,
                                                      .mean = mean,
                                                      .rstd = rstd,
                                                      .x = in[0],
                                                      .gamma = gamma,
                                                      .beta = beta,
                                                      .args = c.args});
                      });
        });
      for (const cases::LayerNormCase& c : cases::kLayerNorm)
        check::each(named(c.name()), [&] {
          Tensor gamma = floats({c.x[-1]}), beta = floats({c.x[-1]});
          check_alone(memory, batched(c.x.dims()), dtype, {values(c.x.dims())},
                      [&](Tensor& y, const std::vector<Tensor>& in) {
                        Tensor mean = floats({y.numel() / c.x[-1]}), rstd = floats(mean.shape());
                        kernels->run(LayerNormForward{.y = y,
                                                      .mean = mean,
                                                      .rstd = rstd,
                                                      .x = in[0],
                                                      .gamma = gamma,
                                                      .beta = beta,
                                                      .eps = 1e-5});
                      });
        });
      for (const cases::AttentionCase& c : cases::kAttention)
        check::each(named(c.name()), [&] {
          check_alone(
              memory, batched(c.q().dims()), dtype,
              {values(c.q().dims()), values(c.k().dims()), values(c.k().dims())},
              [&](Tensor& y, const std::vector<Tensor>& in) {
                Tensor lse = floats({y.dim(0), c.heads, c.queries});
                kernels->run(AttentionForward{
                    .o = y, .lse = lse, .q = in[0], .k = in[1], .v = in[2], .args = c.args()});
              });
        });
      for (const Shape& y_shape : cases::kGeglu)
        check::each(named(cat("geglu ", y_shape)), [&] {
          std::vector<int64_t> dims = y_shape.dims();
          dims.back() *= 2;
          check_alone(memory, batched(y_shape.dims()), dtype, {values(dims)},
                      [&](Tensor& y, const std::vector<Tensor>& in) {
                        kernels->run(GegluForward{.y = y, .x = in[0]});
                      });
        });
      for (const Shape& shape : cases::kElementwise)
        for (Activation kind : cases::kActivations)
          check::each(named(cat(cases::activation_name(kind), " ", shape)), [&] {
            check_alone(memory, batched(shape.dims()), dtype, {values(shape.dims())},
                        [&](Tensor& y, const std::vector<Tensor>& in) {
                          kernels->run(ActivationForward{.y = y, .x = in[0], .kind = kind});
                        });
          });
      for (const Shape& shape : cases::kLoss)
        check::each(named(cat("mse ", shape)), [&] {
          check_alone(
              memory, {kBatch}, DType::F64, {values(shape.dims()), values(shape.dims())},
              [&](Tensor& y, const std::vector<Tensor>& in) {
                kernels->run(MsePerImage{.errors = y, .prediction = in[0], .target = in[1]});
              });
        });
    }
}

TEST(
    "filters' gradients of many tiles are the reference's, with the same bytes for any number of "
    "threads") {
  ExactAllocator memory;
  ThreadPool one(1), three(3);
  std::unique_ptr<Backend> reference = make_reference_kernels();
  uint64_t seed = 0;
  for_each_type([&](DType dtype, bool accumulate, const std::string& type) {
    for (const cases::Conv2dCase& c : cases::kFilterGradients) {
      Tensor x = uniform_tensor(memory, c.x(), dtype, ++seed),
             dy = uniform_tensor(memory, c.y(), dtype, ++seed);
      KernelCase gradient{
          c.name(), [&](Backend& k, Outputs& out) {
            k.run(Conv2dBackwardWeight{.dw = out.slot("dw", c.w(), DType::F32, accumulate),
                                       .dy = dy,
                                       .x = x,
                                       .args = c.args});
          }};
      Outputs expected(memory);
      gradient.run(*reference, expected);
      for (const std::string& isa : available_isas())
        check::each(cat(isa, ", ", type, c.name()), [&] {
          Outputs got(memory), threaded(memory);
          gradient.run(*make_cpu_kernels(one, {.isa = isa.c_str()}), got);
          gradient.run(*make_cpu_kernels(three, {.isa = isa.c_str()}), threaded);
          compare(gradient, got, expected, kBfloat16Tolerance);
          CHECK(same_bytes(threaded.list()[0]->tensor, got.list()[0]->tensor));
        });
    }
  });
}

TEST("a weight that a backend keeps needs its values no more, and gives the same bytes") {
  ExactAllocator memory;
  ThreadPool threads(2);
  uint64_t id = 0;
  for (const std::string& isa : available_isas())
    for (DType dtype : {DType::F32, DType::BF16}) {
      std::unique_ptr<Backend> kernels = make_cpu_kernels(threads, {.isa = isa.c_str()});
      for (const cases::Conv2dCase& c : cases::kConv2d)
        check::each(cat(isa, ", ", dtype_name(dtype), ", ", c.name()), [&] {
          Weight w{uniform_tensor(memory, c.w(), DType::F32, ++id), id, c.w()};
          Tensor x = uniform_tensor(memory, c.x(), dtype, ++id), expected(memory, c.y(), dtype),
                 y(memory, c.y(), dtype);
          kernels->run(Conv2dForward{.y = expected, .x = x, .w = w, .args = c.args});
          CHECK(kernels->keep_weight(w, dtype));
          w.value = Tensor();
          kernels->run(Conv2dForward{.y = y, .x = x, .w = w, .args = c.args});
          CHECK(same_bytes(y, expected));
          kernels->forget_weight(w.id);
          CHECK_THROWS(kernels->run(Conv2dForward{.y = y, .x = x, .w = w, .args = c.args}),
                       Code::Internal);
        });
      for (const cases::LinearCase& c : cases::kLinear)
        check::each(cat(isa, ", ", dtype_name(dtype), ", ", c.name()), [&] {
          Weight w{uniform_tensor(memory, {c.n, c.k}, DType::F32, ++id), id, {c.n, c.k}};
          Tensor x = uniform_tensor(memory, {c.m(), c.k}, dtype, ++id),
                 expected(memory, {c.m(), c.n}, dtype), y(memory, {c.m(), c.n}, dtype);
          kernels->run(LinearForward{.y = expected, .x = x, .w = w});
          CHECK(kernels->keep_weight(w, dtype));
          w.value = Tensor();
          kernels->run(LinearForward{.y = y, .x = x, .w = w});
          CHECK(same_bytes(y, expected));
        });
    }
}

TEST("float32 weights of bfloat16 products are rounded as the reference rounds them") {
  ExactAllocator memory;
  ThreadPool threads(1);
  std::unique_ptr<Backend> reference = make_reference_kernels();
  for (const std::string& isa : available_isas()) {
    std::unique_ptr<Backend> kernels = make_cpu_kernels(threads, {.isa = isa.c_str()});
    for (const cases::LinearCase& c : cases::kLinear)
      check::each(cat(isa, ", ", c.name()), [&] {
        Tensor master = uniform_tensor(memory, {c.n, c.k}, DType::F32, 7),
               rounded(memory, {c.n, c.k}, DType::BF16);
        reference->run(Cast{.y = rounded, .x = master});
        Tensor x = uniform_tensor(memory, {c.m(), c.k}, DType::BF16, 8),
               y(memory, {c.m(), c.n}, DType::BF16), expected(memory, y.shape(), DType::BF16);
        Tensor dx(memory, x.shape(), DType::BF16), expected_dx(memory, x.shape(), DType::BF16);
        kernels->run(LinearForward{.y = y, .x = x, .w = {master}});
        kernels->run(LinearForward{.y = expected, .x = x, .w = {rounded}});
        CHECK(same_bytes(y, expected));
        kernels->run(LinearBackwardInput{.dx = {dx}, .dy = y, .w = {master}});
        kernels->run(LinearBackwardInput{.dx = {expected_dx}, .dy = y, .w = {rounded}});
        CHECK(same_bytes(dx, expected_dx));
      });
  }
}

TEST("an output that is stored past the caches has the bytes of its parts, which are not") {
  ExactAllocator memory;
  ThreadPool threads(2);
  for (const std::string& isa : available_isas())
    for (DType dtype : {DType::F32, DType::BF16})
      // whole lines, and rows that are none
      for (int64_t n : {320, 330})
        check::each(cat(isa, ", ", dtype_name(dtype), ", ", n), [&] {
          std::unique_ptr<Backend> kernels = make_cpu_kernels(threads, {.isa = isa.c_str()});
          int64_t rows = 14001, k = 24, piece = 4667;
          Weight w{uniform_tensor(memory, {n, k}, DType::F32, 1)};
          Tensor x = uniform_tensor(memory, {rows, k}, dtype, 2),
                 bias = uniform_tensor(memory, {n}, DType::F32, 3),
                 residual = uniform_tensor(memory, {rows, n}, dtype, 4);
          Tensor whole(memory, {rows, n}, dtype), parts(memory, {rows, n}, dtype);
          CHECK(whole.bytes() >= size_t(8) << 20 && whole.bytes() / 3 < size_t(8) << 20);
          kernels->run(LinearForward{
              .y = whole, .x = x, .w = w, .epilogue = {.bias = bias, .residual = residual}});
          for (int64_t row = 0; row < rows; row += piece) {
            Tensor y = parts.slice(row * n, {piece, n});
            kernels->run(LinearForward{
                .y = y,
                .x = x.slice(row * k, {piece, k}),
                .w = w,
                .epilogue = {.bias = bias, .residual = residual.slice(row * n, {piece, n})}});
          }
          CHECK(same_bytes(whole, parts));
        });
}

TEST("an instruction set that is not known is refused, auto is the best there is") {
  ThreadPool threads(1);
  CHECK_THROWS(make_cpu_kernels(threads, {.isa = "sse9"}), Code::InvalidArgument);
  CHECK_EQUAL(std::string(make_cpu_kernels(threads, {.isa = "auto"})->name()),
              std::string(detect_isa()));
}
