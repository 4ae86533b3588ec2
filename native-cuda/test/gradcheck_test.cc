#include "gradcheck.h"
#include "op_cases.h"
#include "ops/ops.h"

using namespace spindle;

namespace {
// The larger sizes of the tables are there for the vector kernels' blocks; differences of the
// reference gain nothing from them.
constexpr int64_t kLargest = 400000;
}  // namespace

TEST("conv2d's gradients are those of finite differences") {
  for (const cases::Conv2dCase& c : cases::kConv2d) {
    if (c.y().numel() * c.w().numel() / c.out > kLargest) continue;
    check::each(c.name(), [&] {
      GradCheck g;
      Tensor x = g.input("x", c.x());
      ops::Fused fused;
      if (c.per_image) fused.per_image = g.input("per_image", {c.batch, c.out});
      if (c.residual) fused.residual = g.input("residual", c.y());
      Parameter& w = g.parameter("w", c.w(), ParameterKind::Filter);
      if (c.bias) fused.bias = &g.parameter("bias", {c.out});
      g.allocate();
      g.check([&](Tape& tape) { return ops::conv2d(tape, x, w, fused, c.args); });
    });
  }
}

TEST("linear's gradients are those of finite differences") {
  for (const cases::LinearCase& c : cases::kLinear) {
    if (c.m() * c.n * c.k > kLargest) continue;
    check::each(c.name(), [&] {
      GradCheck g;
      Tensor x = g.input("x", {c.batch, c.rows, c.k});
      ops::Fused fused;
      if (c.per_image) fused.per_image = g.input("per_image", {c.batch, c.n});
      if (c.residual) fused.residual = g.input("residual", {c.batch, c.rows, c.n});
      Parameter& w = g.parameter("w", {c.n, c.k}, ParameterKind::Matrix);
      if (c.bias) fused.bias = &g.parameter("bias", {c.n});
      g.allocate();
      g.check([&](Tape& tape) { return ops::linear(tape, x, w, fused); });
    });
  }
}

TEST("linear takes a 1x1 filter for a matrix") {
  GradCheck g;
  Tensor x = g.input("x", {2, 3, 2, 5});
  Parameter& w = g.parameter("w", {4, 1, 1, 5}, ParameterKind::Filter);
  Parameter& bias = g.parameter("bias", {4});
  g.allocate();
  g.check([&](Tape& tape) {
    return ops::linear(tape, x, w, {.bias = &bias, .per_image = {}, .residual = {}});
  });
}

TEST("group_norm's gradients are those of finite differences") {
  for (const cases::GroupNormCase& c : cases::kGroupNorm)
    check::each(c.name(), [&] {
      GradCheck g;
      Tensor x = g.input("x", c.x);
      Parameter &gamma = g.parameter("gamma", {c.x[-1]}), &beta = g.parameter("beta", {c.x[-1]});
      g.allocate();
      g.check([&](Tape& tape) { return ops::group_norm(tape, x, gamma, beta, c.args); });
    });
}

TEST("layer_norm's gradients are those of finite differences") {
  for (const cases::LayerNormCase& c : cases::kLayerNorm)
    check::each(c.name(), [&] {
      GradCheck g;
      Tensor x = g.input("x", c.x);
      Parameter &gamma = g.parameter("gamma", {c.x[-1]}), &beta = g.parameter("beta", {c.x[-1]});
      g.allocate();
      g.check([&](Tape& tape) { return ops::layer_norm(tape, x, gamma, beta, 1e-5); });
    });
}

TEST("attention's gradients are those of finite differences") {
  for (const cases::AttentionCase& c : cases::kAttention) {
    if (c.batch * c.queries * c.keys * c.channels() > kLargest) continue;
    check::each(c.name(), [&] {
      GradCheck g;
      Tensor q = g.input("q", c.q()), k = g.input("k", c.k()), v = g.input("v", c.k());
      g.allocate();
      g.check([&](Tape& tape) { return ops::attention(tape, q, k, v, c.args()); });
    });
  }
}

TEST("the activations' gradients are those of finite differences") {
  for (Activation kind : cases::kActivations)
    for (const Shape& shape : cases::kElementwise)
      check::each(cat(cases::activation_name(kind), " ", shape), [&] {
        GradCheck g;
        Tensor x = g.input("x", shape);
        g.allocate();
        g.check([&](Tape& tape) { return ops::activation(tape, x, kind); });
      });
}

TEST("linear_geglu's gradients are those of finite differences") {
  for (const cases::LinearGegluCase& c : cases::kLinearGeglu)
    check::each(c.name(), [&] {
      GradCheck g;
      Tensor x = g.input("x", {c.rows, c.k});
      Parameter& w = g.parameter("w", {2 * c.n, c.k}, ParameterKind::Matrix);
      Parameter* bias = c.bias ? &g.parameter("bias", {2 * c.n}) : nullptr;
      g.allocate();
      g.check([&](Tape& tape) { return ops::linear_geglu(tape, x, w, bias); });
    });
}

TEST("add's gradients are those of finite differences") {
  for (const Shape& shape : cases::kElementwise)
    check::each(cat("add ", shape), [&] {
      GradCheck g;
      Tensor a = g.input("a", shape), b = g.input("b", shape);
      g.allocate();
      g.check([&](Tape& tape) { return ops::add(tape, a, b); });
    });
}

TEST("concat_channels' gradients are those of finite differences") {
  for (const cases::ConcatCase& c : cases::kConcat)
    check::each(c.name(), [&] {
      GradCheck g;
      Tensor a = g.input("a", c.a), b = g.input("b", c.b);
      g.allocate();
      g.check([&](Tape& tape) { return ops::concat_channels(tape, a, b); });
    });
}

TEST("upsample_nearest's gradients are those of finite differences") {
  for (const cases::UpsampleCase& c : cases::kUpsample)
    check::each(c.name(), [&] {
      GradCheck g;
      Tensor x = g.input("x", c.x);
      g.allocate();
      g.check([&](Tape& tape) { return ops::upsample_nearest(tape, x, c.height, c.width); });
    });
}

TEST("a tensor that is used twice gets the sum of both gradients") {
  check::each("by an op that shares its gradient and one that writes it", [] {
    GradCheck g;
    Tensor x = g.input("x", {2, 3, 4});
    g.allocate();
    g.check(
        [&](Tape& tape) { return ops::add(tape, ops::activation(tape, x, Activation::Silu), x); });
  });
  check::each("by add with itself", [] {
    GradCheck g;
    Tensor x = g.input("x", {2, 3, 4});
    g.allocate();
    g.check([&](Tape& tape) { return ops::add(tape, x, x); });
  });
  check::each("in two shapes", [] {
    GradCheck g;
    Tensor x = g.input("x", {2, 6});
    Parameter &narrow = g.parameter("narrow", {8, 4}, ParameterKind::Matrix),
              &wide = g.parameter("wide", {12, 6}, ParameterKind::Matrix);
    g.allocate();
    g.check([&](Tape& tape) {
      return ops::add(tape, ops::linear_geglu(tape, x.reshape({3, 4}), narrow, nullptr),
                      ops::linear_geglu(tape, x, wide, nullptr));
    });
  });
  check::each("as input and as residual", [] {
    GradCheck g;
    Tensor x = g.input("x", {2, 3, 5});
    Parameter& w = g.parameter("w", {5, 5}, ParameterKind::Matrix);
    g.allocate();
    g.check([&](Tape& tape) {
      return ops::linear(tape, x, w, {.bias = nullptr, .per_image = {}, .residual = x});
    });
  });
  check::each("as residual of a resnet block whose input is normalised", [] {
    GradCheck g;
    Tensor x = g.input("x", {2, 3, 2, 4}), t = g.input("t", {2, 4});
    Parameter &gamma = g.parameter("gamma", {4}), &beta = g.parameter("beta", {4});
    Parameter &w1 = g.parameter("w1", {4, 3, 3, 4}, ParameterKind::Filter),
              &w2 = g.parameter("w2", {4, 3, 3, 4}, ParameterKind::Filter),
              &bias = g.parameter("bias", {4});
    g.allocate();
    g.check([&](Tape& tape) {
      Tensor h = ops::group_norm(tape, x, gamma, beta, {2, 1e-5, true});
      h = ops::conv2d(tape, h, w1, {.bias = &bias, .per_image = t, .residual = {}}, {});
      return ops::conv2d(tape, h, w2, {.bias = &bias, .per_image = t, .residual = x}, {});
    });
  });
  check::each("as query, key and value", [] {
    GradCheck g;
    Tensor x = g.input("x", {2, 4, 6});
    g.allocate();
    g.check([&](Tape& tape) { return ops::attention(tape, x, x, x, {.heads = 2}); });
  });
  check::each("as key and value", [] {
    GradCheck g;
    Tensor x = g.input("x", {2, 4, 6}), y = g.input("y", {2, 5, 6});
    g.allocate();
    g.check([&](Tape& tape) { return ops::attention(tape, x, y, y, {.heads = 3}); });
  });
  check::each("as both sides of a concatenation", [] {
    GradCheck g;
    Tensor x = g.input("x", {2, 3, 5});
    g.allocate();
    g.check([&](Tape& tape) { return ops::concat_channels(tape, x, x); });
  });
}

TEST("a parameter that is used twice gets the sum of both gradients") {
  GradCheck g;
  Tensor x = g.input("x", {2, 3, 5});
  Parameter &w = g.parameter("w", {5, 5}, ParameterKind::Matrix),
            &gamma = g.parameter("gamma", {5}), &beta = g.parameter("beta", {5});
  g.allocate();
  g.check([&](Tape& tape) {
    Tensor h = ops::layer_norm(
        tape, ops::linear(tape, x, w, {.bias = &beta, .per_image = {}, .residual = {}}), gamma,
        beta, 1e-5);
    return ops::layer_norm(tape, ops::linear(tape, h, w), gamma, beta, 1e-5);
  });
}

TEST("a transformer block's gradients are those of finite differences") {
  GradCheck g;
  Tensor x = g.input("x", {2, 4, 6}), context = g.input("context", {2, 3, 5});
  Parameter &gamma = g.parameter("gamma", {6}), &beta = g.parameter("beta", {6});
  Parameter &q = g.parameter("q", {6, 6}, ParameterKind::Matrix),
            &k = g.parameter("k", {6, 5}, ParameterKind::Matrix),
            &v = g.parameter("v", {6, 5}, ParameterKind::Matrix);
  Parameter &out = g.parameter("out", {6, 6}, ParameterKind::Matrix),
            &bias = g.parameter("bias", {6}),
            &up = g.parameter("up", {16, 6}, ParameterKind::Matrix),
            &down = g.parameter("down", {6, 8}, ParameterKind::Matrix);
  g.allocate();
  g.check([&](Tape& tape) {
    Tensor h = ops::layer_norm(tape, x, gamma, beta, 1e-5);
    Tensor a = ops::attention(tape, ops::linear(tape, h, q), ops::linear(tape, context, k),
                              ops::linear(tape, context, v), {.heads = 2});
    h = ops::linear(tape, a, out, {.bias = &bias, .per_image = {}, .residual = x});
    return ops::linear(tape, ops::linear_geglu(tape, h, up, nullptr), down,
                       {.bias = &bias, .per_image = {}, .residual = h});
  });
}

TEST("frozen inputs get no gradient, and the others the same as before") {
  GradCheck g;
  Tensor q = g.input("q", {1, 3, 4}), k = g.input("k", {1, 5, 4}), v = g.input("v", {1, 5, 4}),
         t = g.input("t", {1, 4}), residual = g.input("residual", {1, 3, 4});
  Parameter& w = g.parameter("w", {4, 4}, ParameterKind::Matrix);
  g.allocate();
  auto f = [&](Tape& tape) {
    Tensor a = ops::attention(tape, q, k, v, {.heads = 2});
    return ops::linear(tape, a, w, {.bias = nullptr, .per_image = t, .residual = residual});
  };
  Grads all = g.backward(f);
  const Tensor inputs[] = {q, k, v, t, residual};
  for (size_t frozen = 0; frozen < std::size(inputs); ++frozen) {
    inputs[frozen].set_needs_grad(false);
    Grads some = g.backward(f);
    for (size_t i = 0; i < std::size(inputs); ++i) {
      Tensor gradient = some.get(inputs[i]);
      if (i == frozen)
        CHECK_THAT(!gradient, "input ", i, " is frozen");
      else
        CHECK_THAT(gradient && same_bytes(gradient, all.get(inputs[i])), "input ", i, " with ",
                   frozen, " frozen");
    }
    inputs[frozen].set_needs_grad(true);
  }
}

TEST("frozen parameters get no gradient, and gradients pass through them") {
  GradCheck g;
  Tensor x = g.input("x", {2, 4, 3, 5});
  Parameter &w = g.parameter("w", {5, 3, 3, 5}, ParameterKind::Filter),
            &bias = g.parameter("bias", {5}), &gamma = g.parameter("gamma", {5}),
            &beta = g.parameter("beta", {5});
  Parameter& m = g.parameter("m", {3, 5}, ParameterKind::Matrix);
  g.allocate(false);
  auto f = [&](Tape& tape) {
    Tensor h = ops::group_norm(
        tape, ops::conv2d(tape, x, w, {.bias = &bias, .per_image = {}, .residual = {}}, {}), gamma,
        beta, {1, 1e-5, true});
    return ops::linear(tape, ops::layer_norm(tape, h, gamma, beta, 1e-5), m);
  };
  Grads grads = g.backward(f);
  CHECK(bool(grads.get(x)));
  for (Parameter& p : g.store.parameters()) CHECK_THAT(!p.grad && !p.grad_written, p.name);
}

TEST("gradients of several backward passes of one step add up") {
  GradCheck g;
  Tensor x = g.input("x", {2, 3, 5});
  Parameter& w = g.parameter("w", {4, 5}, ParameterKind::Matrix);
  Parameter& unused = g.parameter("unused", {7});
  g.allocate();
  auto f = [&](Tape& tape) { return ops::linear(tape, x, w); };
  g.backward(f);
  reference::Values once = reference::load(w.grad);
  fill_uniform(unused.grad, 77);
  Tape tape(g.device, true);
  Tensor y = f(tape);
  tape.backward(y, uniform_tensor(g.device.pool(), y.shape(), y.dtype(), 1000));
  g.store.finish_gradients();
  reference::Values twice = reference::load(w.grad);
  for (size_t i = 0; i < once.size(); ++i) CHECK(std::abs(twice[i] - 2 * once[i]) < 1e-12);
  for (double value : reference::load(unused.grad)) CHECK_EQUAL(value, 0.0);
}

TEST("token_embedding adds the rows of both tables") {
  GradCheck g;
  Parameter &tokens = g.parameter("tokens", {6, 3}), &positions = g.parameter("positions", {4, 3});
  g.allocate(false);
  Tape tape(g.device, false);
  std::vector<int32_t> ids = {5, 0, 2, 2};
  reference::Values y =
      reference::load(ops::token_embedding(tape, ids, 2, tokens, positions, DType::F64));
  reference::Values t = reference::load(tokens.value), p = reference::load(positions.value);
  for (size_t i = 0; i < 4; ++i)
    for (size_t c = 0; c < 3; ++c)
      CHECK_EQUAL(y[i * 3 + c], t[size_t(ids[i]) * 3 + c] + p[(i % 2) * 3 + c]);
  CHECK_THROWS(ops::token_embedding(tape, {6}, 1, tokens, positions, DType::F64),
               Code::InvalidArgument);
  CHECK_THROWS(ops::token_embedding(tape, {-1}, 1, tokens, positions, DType::F64),
               Code::InvalidArgument);
  CHECK_THROWS(ops::token_embedding(tape, {1, 2, 3, 4, 5}, 1, tokens, positions, DType::F64),
               Code::InvalidArgument);
}

TEST("timestep_embedding has cosines first when flipped") {
  GradCheck g;
  g.allocate(false);
  Tape tape(g.device, false);
  reference::Values y = reference::load(ops::timestep_embedding(tape, {0, 3}, 4, {}, DType::F64));
  const double expected[] = {
      1, 1, 0, 0, std::cos(3), std::cos(3 * 0.01), std::sin(3), std::sin(3 * 0.01)};
  for (size_t i = 0; i < 8; ++i) CHECK(std::abs(y[i] - expected[i]) < 1e-12);
}

TEST("ops refuse shapes that do not fit") {
  GradCheck g;
  Tensor x = g.input("x", {2, 4, 4, 6});
  Parameter &w = g.parameter("w", {5, 3, 3, 7}, ParameterKind::Filter),
            &gamma = g.parameter("gamma", {6}),
            &m = g.parameter("m", {5, 7}, ParameterKind::Matrix);
  g.allocate();
  Tape tape(g.device, true);
  CHECK_THROWS(ops::conv2d(tape, x, w, {}, {}), Code::InvalidArgument);
  CHECK_THROWS(ops::linear(tape, x, m), Code::InvalidArgument);
  CHECK_THROWS(ops::group_norm(tape, x, gamma, gamma, {4, 1e-5}), Code::InvalidArgument);
  Tensor tokens = x.reshape({2, 16, 6});
  CHECK_THROWS(ops::attention(tape, tokens, tokens, tokens, {.heads = 4}), Code::InvalidArgument);
  CHECK_THROWS(ops::upsample_nearest(tape, tokens, 8, 8), Code::InvalidArgument);
  CHECK_THROWS(ops::add(tape, x, tokens.slice(0, {1, 16, 6})), Code::InvalidArgument);
  CHECK_EQUAL(tape.size(), size_t(0));
}
