// The CUDA backend's host logic around library plans: keys, choice, the file of plans, a
// checkpoint's pins. Needs no CUDA.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "check.h"
#include "core/pool.h"
#include "kernels/cuda/plans/plan_cache.h"
#include "kernels/cuda/plans/plan_keys.h"
#include "temporary.h"

using namespace spindle;
using namespace spindle::cuda;

namespace {

PlanEnvironment h200() { return {"NVIDIA H200", 9, 0, 132, 13000, 13000, 130002, 91501}; }

std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

void replace(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

alignas(256) char memory[2048];

Product product() {
  Product p;
  p.m = 64, p.n = 320, p.k = 128;
  p.a.data = memory, p.b.data = memory + 256, p.y = memory + 512;
  p.input = p.output = DType::BF16;
  return p;
}

}  // namespace

TEST("plans: what one process chose, the next one finds") {
  TemporaryFolder folder;
  {
    PlanCache cache(folder.path + "/new", h200());
    CHECK(!cache.find("a"));
    cache.remember("a", "engine 1");
    cache.remember("b", "engine 2");
    CHECK_EQUAL(*cache.find("a"), "engine 1");
  }
  PlanCache cache(folder.path + "/new", h200());
  CHECK_EQUAL(cache.size(), size_t(2));
  CHECK_EQUAL(*cache.find("b"), "engine 2");
}

TEST("plans: another GPU, driver or library has its own file") {
  TemporaryFolder folder;
  PlanCache(folder.path, h200()).remember("a", "engine 1");
  std::set<std::string> names{h200().file_name()};
  auto other = [&](auto change) {
    PlanEnvironment environment = h200();
    change(environment);
    CHECK(!PlanCache(folder.path, environment).find("a"));
    names.insert(environment.file_name());
  };
  other([](auto& e) { e.gpu = "NVIDIA H100 80GB HBM3"; });
  other([](auto& e) { e.major = 10; });
  other([](auto& e) { e.multiprocessors = 114; });
  other([](auto& e) { e.driver = 13010; });
  other([](auto& e) { e.runtime = 12040; });
  other([](auto& e) { e.cublaslt = 130100; });
  other([](auto& e) { e.cudnn = 91600; });
  CHECK_EQUAL(names.size(), size_t(8));
  for (const std::string& name : names) CHECK(name.find_first_of("/ ") == std::string::npos);
}

TEST("plans: a damaged file is said to be damaged, counts as empty and is written anew") {
  TemporaryFolder folder;
  std::string path;
  {
    PlanCache cache(folder.path, h200());
    cache.remember("a", "engine 1");
    path = cache.path();
  }
  const std::string whole = contents(path);
  auto refused = [&](const std::string& what, const std::string& text) {
    check::each(what, [&] {
      replace(path, text);
      {
        PlanCache cache(folder.path, h200());
        CHECK_EQUAL(cache.size(), size_t(0));
        CHECK_THAT(cache.note().find("written anew") != std::string::npos, cache.note());
        cache.remember("b", "engine 2");
      }
      PlanCache cache(folder.path, h200());
      CHECK_THAT(cache.note() == "1 plans read", cache.note());
      CHECK(cache.find("b") && !cache.find("a"));
    });
  };
  refused("empty", "");
  refused("cut short", whole.substr(0, whole.size() / 2));
  std::string changed = whole;
  changed[changed.find("engine 1") + 7] = '7';
  refused("a changed byte", changed);
  refused("another format", "spindle-plans 9" + whole.substr(15));
  refused("not text", std::string("\0\xff\n", 3));
}

TEST(
    "plans: processes that share a folder keep each other's plans; a folder that cannot be written "
    "is no error") {
  TemporaryFolder folder;
  {
    PlanCache one(folder.path, h200()), two(folder.path, h200());
    one.remember("a", "engine 1");
    two.remember("b", "engine 2");
    CHECK(one.save() && two.save());
  }
  CHECK_EQUAL(PlanCache(folder.path, h200()).size(), size_t(2));
  replace(folder.path + "/file", "");
  PlanCache nowhere(folder.path + "/file", h200());
  nowhere.remember("a", "engine 1");
  CHECK(!nowhere.save());
  CHECK(nowhere.find("a"));
}

TEST("plans: a checkpoint pins what its process used, over what the file says") {
  TemporaryFolder folder;
  std::string pins;
  {
    PlanCache cache("", h200());
    cache.remember("a", "engine 1");
    cache.remember("unused later", "engine 3");
    pins = cache.pins();
  }
  PlanCache cache(folder.path, h200());
  cache.remember("a", "engine 2");
  CHECK_EQUAL(cache.pin(pins), "");
  CHECK_EQUAL(cache.generation(), uint64_t(1));
  CHECK_EQUAL(*cache.find("a"), "engine 1");
  cache.remember("a", "engine 1");
  CHECK_THROWS(cache.remember("a", "engine 4"), Code::Internal);
  CHECK_THROWS(cache.forget("a", "not supported"), Code::DataLoss);
  // What was pinned goes into the next checkpoint, used or not.
  PlanCache next("", h200());
  next.pin(cache.pins());
  CHECK_EQUAL(*next.find("a"), "engine 1");
  CHECK_EQUAL(*next.find("unused later"), "engine 3");
  CHECK_EQUAL(PlanCache("", h200()).pins(), "");
}

TEST("plans: pins that are damaged, or of another GPU, are not used") {
  PlanCache cache("", h200());
  cache.remember("a", "engine 1");
  std::string pins = cache.pins();
  PlanEnvironment other = h200();
  other.driver = 12090;
  PlanCache there("", other);
  std::string why = there.pin(pins);
  CHECK_THAT(why.find("driver 13000") != std::string::npos &&
                 why.find("driver 12090") != std::string::npos,
             why);
  CHECK(!there.find("a"));
  CHECK_EQUAL(there.generation(), uint64_t(0));
  pins[pins.size() / 2] ^= 1;
  CHECK_THROWS(cache.pin(pins), Code::DataLoss);
  CHECK_THROWS(cache.pin(""), Code::DataLoss);
}

TEST("plans: a plan that the library refuses is forgotten") {
  PlanCache cache("", h200());
  cache.remember("a", "engine 1");
  cache.forget("a", "not supported");
  CHECK(!cache.find("a"));
  CHECK_THROWS(cache.remember("two\nlines", "x"), Code::Internal);
}

TEST("plans: a product's key tells apart all that its plan depends on") {
  std::set<std::string> keys;
  auto add = [&](auto change) {
    Product p = product();
    change(p);
    keys.insert(product_key(p, false, true));
  };
  add([](Product&) {});
  add([](Product& p) { p.m = 65; });
  add([](Product& p) { p.n = 640; });
  add([](Product& p) { p.k = 64; });
  add([](Product& p) { p.a.transposed = true; });
  add([](Product& p) { p.b.transposed = true; });
  add([](Product& p) { p.a.row_stride = 256; });
  add([](Product& p) { p.b.row_stride = 640; });
  add([](Product& p) { p.output = DType::F32; });
  add([](Product& p) { p.input = p.output = DType::F32; });
  add([](Product& p) { p.bias = memory; });
  add([](Product& p) { p.bias = memory + 64; });
  add([](Product& p) { p.addend = memory; });
  add([](Product& p) { p.addend = p.y; });
  add([](Product& p) { p.a.data = memory + 16; });
  add([](Product& p) { p.y = memory + 8; });
  CHECK_EQUAL(keys.size(), size_t(16));
  Product same = product();
  same.a.data = memory + 1024;
  CHECK_EQUAL(product_key(same, false, true), product_key(product(), false, true));
  CHECK(product_key(same, false, false) != product_key(same, false, true));
  same.input = same.output = DType::F32;
  CHECK(product_key(same, true, true) != product_key(same, false, true));
  CHECK_EQUAL(pointer_alignment(memory), 256);
  CHECK_EQUAL(pointer_alignment(memory + 48), 16);
  CHECK_EQUAL(pointer_alignment(memory + 2), 2);
}

TEST("plans: keys of convolutions and of attention") {
  ConvolutionShape shape{2, 64, 64, 320, 640, 3, 3, {}, DType::BF16};
  CHECK_EQUAL(shape.out_height(), 64);
  std::set<std::string> keys;
  for (ConvolutionPass pass :
       {ConvolutionPass::Forward, ConvolutionPass::BackwardInput, ConvolutionPass::BackwardWeight})
    for (bool bias : {false, true})
      for (bool addend : {false, true})
        for (DType output : {DType::F32, DType::BF16})
          keys.insert(convolution_key(pass, shape, {bias, addend, output}, false, true));
  shape.args.pad_before = 0;
  keys.insert(convolution_key(ConvolutionPass::Forward, shape, {}, false, true));
  shape.args.stride = 2;
  keys.insert(convolution_key(ConvolutionPass::Forward, shape, {}, false, true));
  CHECK_EQUAL(keys.size(), size_t(26));

  BufferPool pool;
  Tensor q(pool, {2, 64, 320}, DType::BF16), k(pool, {2, 77, 320}, DType::BF16);
  AttentionShape attention(q, k, {.heads = 8});
  CHECK_EQUAL(attention_key(attention, 0.25, false, true),
              "attention forward bf16 b2 h8 d40 q64 k77 scale 0.25 det");
  CHECK(attention_key(attention, 0.25, true, true) != attention_key(attention, 0.25, false, true));
  CHECK(attention_key(attention, 0.1234567, false, true) !=
        attention_key(attention, 0.1234568, false, true));
}

TEST("plans: deterministic mode takes the best ranked repeatable plan and measures nothing") {
  Selection s;
  s.candidates = 4;
  s.usable = [](int64_t i) { return i != 1; };
  s.repeatable = [](int64_t i) { return i != 0; };
  s.seconds = [](int64_t) -> double { throw Error(Code::Internal, "measured"); };
  CHECK_EQUAL(select_plan(s, true), 2);
  s.repeatable = [](int64_t) { return false; };
  CHECK_EQUAL(select_plan(s, true), -1);
}

TEST("plans: otherwise the fastest of the first usable ones is taken") {
  const double seconds[] = {3, 1, 2, 2, 0.5};
  Selection s;
  s.candidates = 5;
  s.usable = [](int64_t i) { return i != 1; };
  s.repeatable = [](int64_t) { return false; };
  s.seconds = [&](int64_t i) { return seconds[i]; };
  CHECK_EQUAL(select_plan(s, false), 4);
  s.measured = 3;
  CHECK_EQUAL(select_plan(s, false), 2);  // 2 and 3 are equal: the better rank
  s.seconds = nullptr;
  CHECK_EQUAL(select_plan(s, false), 0);
  s.usable = [](int64_t) { return false; };
  CHECK_EQUAL(select_plan(s, false), -1);
}
