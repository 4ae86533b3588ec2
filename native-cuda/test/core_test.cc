#include <atomic>
#include <map>
#include <numeric>

#include "autograd/tape.h"
#include "check.h"
#include "core/cancel.h"
#include "core/flush_subnormals.h"
#include "core/pool.h"
#include "core/thread_pool.h"
#include "ops/ops.h"
#include "tensors.h"

using namespace spindle;

namespace {
DeviceOptions reference_device() { return {.backend = "reference", .threads = 1, .isa = "auto"}; }

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}
}  // namespace

TEST("a shape counts its elements and reads from either end") {
  Shape s{2, 3, 5};
  CHECK_EQUAL(s.rank(), 3);
  CHECK_EQUAL(s.numel(), 30);
  CHECK_EQUAL(s[0], 2);
  CHECK_EQUAL(s[-1], 5);
  CHECK_EQUAL(s[-3], 2);
  CHECK_EQUAL(Shape().numel(), 1);
  CHECK_EQUAL((Shape{4, 0}).numel(), 0);
  CHECK_EQUAL(cat(s), "(2, 3, 5)");
}

TEST("shapes are equal when rank and dimensions are") {
  CHECK((Shape{2, 3} == Shape{2, 3}));
  CHECK(!(Shape{2, 3} == Shape{3, 2}));
  CHECK(!(Shape{2, 3} == Shape{2, 3, 1}));
}

TEST("a shape refuses negative dimensions and more than six") {
  CHECK_THROWS((Shape{2, -1}), Code::InvalidArgument);
  CHECK_THROWS((Shape{1, 1, 1, 1, 1, 1, 1}), Code::InvalidArgument);
}

TEST("reshapes and slices share the storage") {
  BufferPool pool;
  Tensor t = uniform_tensor(pool, {4, 6}, DType::F32, 1);
  Tensor r = t.reshape({2, 12}), row = t.slice(6, {6});
  CHECK_EQUAL(r.raw(), t.raw());
  CHECK_EQUAL(r.id(), t.id());
  CHECK_EQUAL(row.f32(), t.f32() + 6);
  CHECK_EQUAL(row.slice(2, {3}).f32(), t.f32() + 8);
  CHECK(!t.unique());
  CHECK_THROWS(t.reshape({5, 5}), Code::InvalidArgument);
  CHECK_THROWS(t.slice(20, {5}), Code::InvalidArgument);
  CHECK_THROWS(t.slice(-1, {2}), Code::InvalidArgument);
}

TEST("slices of bfloat16 count in elements") {
  BufferPool pool;
  Tensor t(pool, {8}, DType::BF16);
  CHECK_EQUAL(t.bytes(), size_t(16));
  CHECK_EQUAL(static_cast<std::byte*>(t.slice(3, {2}).raw()) - static_cast<std::byte*>(t.raw()), 6);
}

TEST("storage ids are unique, also when the pool hands out the same block again") {
  BufferPool pool;
  uint64_t first = Tensor(pool, {16}, DType::F32).id();
  CHECK(Tensor(pool, {16}, DType::F32).id() != first);
}

TEST("the pool hands out released blocks again and asks the system for nothing more") {
  BufferPool pool;
  const void* before;
  {
    Tensor a(pool, {1000}, DType::F32), b(pool, {50}, DType::F64);
    before = a.raw();
  }
  CHECK_EQUAL(pool.stats().system_allocations, uint64_t(2));
  for (int i = 0; i < 10; ++i) {
    Tensor a(pool, {1000}, DType::F32), b(pool, {50}, DType::F64);
    CHECK_EQUAL(a.raw(), before);
  }
  CHECK_EQUAL(pool.stats().system_allocations, uint64_t(2));
  CHECK_EQUAL(pool.stats().used_bytes, size_t(0));
}

TEST("the pool's blocks are aligned, large enough and apart from each other") {
  BufferPool pool;
  std::vector<Tensor> tensors;
  std::vector<int64_t> sizes = {0, 1, 63, 64, 65, 1023, 1025, 4097, 70001, 3 << 20};
  for (int64_t n : sizes) {
    tensors.emplace_back(pool, Shape{n}, DType::F32);
    CHECK_EQUAL(reinterpret_cast<uintptr_t>(tensors.back().raw()) % 64, uintptr_t(0));
    std::memset(tensors.back().raw(), int(tensors.size()), tensors.back().bytes());
  }
  for (size_t i = 0; i < tensors.size(); ++i)
    for (size_t j = 0; j < tensors[i].bytes(); j += 997)
      CHECK_EQUAL(int(tensors[i].data<uint8_t>()[j]), int(i + 1));
}

TEST("the pool counts bytes in use, its peak and what it holds") {
  BufferPool pool;
  {
    Tensor a(pool, {1 << 20}, DType::F32);
    Tensor b(pool, {1 << 10}, DType::F32);
    CHECK(pool.stats().used_bytes >= a.bytes() + b.bytes());
    CHECK(pool.stats().used_bytes <= (a.bytes() + b.bytes()) * 9 / 8);
  }
  size_t peak = pool.stats().peak_bytes;
  CHECK(peak >= (size_t(1) << 22));
  CHECK(pool.stats().held_bytes >= peak);
  pool.reset_peak();
  CHECK_EQUAL(pool.stats().peak_bytes, size_t(0));
  pool.trim();
  CHECK_EQUAL(pool.stats().held_bytes, size_t(0));
}

TEST("free pieces of the pool grow together, so that other sizes fit where they were") {
  BufferPool pool;
  const int64_t mib = 1 << 18;  // floats
  const void* first;
  {
    std::vector<Tensor> pieces;
    for (int64_t i = 0; i < 30; ++i) pieces.emplace_back(pool, Shape{mib}, DType::F32);
    first = pieces[0].raw();
    for (int i : {1, 3, 2}) pieces[size_t(i)] = Tensor();  // neighbours, the middle one last
    Tensor three(pool, {3 * mib}, DType::F32);
    CHECK_EQUAL(three.raw(),
                static_cast<const void*>(static_cast<const std::byte*>(first) + 4 * mib));
    Tensor one(pool, {mib}, DType::F32);
    CHECK(one.raw() > pieces.back().raw());
  }
  Tensor all(pool, {60 * mib}, DType::F32);
  CHECK_EQUAL(all.raw(), first);
  CHECK_EQUAL(pool.stats().system_allocations, uint64_t(1));
}

TEST("a trimmed pool keeps what is in use and gives back the rest") {
  BufferPool pool;
  auto a = std::make_unique<Tensor>(pool, Shape{1 << 20}, DType::F32);
  Tensor b(pool, {1 << 20}, DType::F32), c(pool, {40 << 20}, DType::F32);
  std::memset(b.raw(), 7, b.bytes());
  size_t held = pool.stats().held_bytes;
  a.reset();
  c = Tensor();
  pool.trim();
  CHECK(pool.stats().held_bytes < held);
  CHECK_EQUAL(int(b.data<uint8_t>()[b.bytes() - 1]), 7);
  Tensor again(pool, {1 << 20}, DType::F32);
  CHECK(again.raw() < b.raw());
}

TEST("memory that the system does not have is refused in one sentence") {
  BufferPool pool;
  CHECK_THROWS(Tensor(pool, {int64_t(1) << 50}, DType::F32), Code::ResourceExhausted);
  CHECK_EQUAL(pool.stats().used_bytes, size_t(0));
}

TEST("bfloat16 rounds to nearest, ties to even") {
  CHECK_EQUAL(to_float(to_bf16(1.0f)), 1.0f);
  CHECK_EQUAL(to_bf16(1.0f + 0x1p-8f).bits, 0x3f80);              // tie, down to even
  CHECK_EQUAL(to_bf16(1.0f + 3 * 0x1p-8f).bits, 0x3f82);          // tie, up to even
  CHECK_EQUAL(to_bf16(1.0f + 0x1p-8f + 0x1p-20f).bits, 0x3f81);   // above the tie
  CHECK_EQUAL(to_bf16(-1.0f - 0x1p-8f - 0x1p-20f).bits, 0xbf81);  // sign by sign
  CHECK_EQUAL(to_bf16(0x1.fffffep127f).bits, 0x7f80);             // too large for bfloat16
  CHECK_EQUAL(to_bf16(-0.0f).bits, 0x8000);
}

TEST("bfloat16 keeps infinities, NaN and subnormals") {
  CHECK_EQUAL(to_float(to_bf16(INFINITY)), INFINITY);
  CHECK_EQUAL(to_float(to_bf16(-INFINITY)), -INFINITY);
  CHECK(std::isnan(to_float(to_bf16(NAN))));
  CHECK(std::isnan(to_float(to_bf16(std::bit_cast<float>(0x7f800001u)))));
  CHECK_EQUAL(to_float(to_bf16(0x1p-130f)), 0x1p-130f);
}

TEST("every bfloat16 survives the way to float and back") {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    float x = to_float(bf16{uint16_t(bits)});
    if (!std::isnan(x)) CHECK_EQUAL(uint32_t(to_bf16(x).bits), bits);
  }
}

TEST("half precision is read exactly") {
  CHECK_EQUAL(half_to_float(0x3c00), 1.0f);
  CHECK_EQUAL(half_to_float(0xc000), -2.0f);
  CHECK_EQUAL(half_to_float(0x7bff), 65504.0f);
  CHECK_EQUAL(half_to_float(0x0001), 0x1p-24f);
  CHECK_EQUAL(half_to_float(0x83ff), -1023 * 0x1p-24f);
  CHECK_EQUAL(half_to_float(0x0400), 0x1p-14f);
  CHECK_EQUAL(half_to_float(0xfc00), -INFINITY);
  CHECK(std::isnan(half_to_float(0x7e01)));
  CHECK_EQUAL(std::bit_cast<uint32_t>(half_to_float(0x8000)), 0x80000000u);
}

TEST("the thread pool runs every task once") {
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    CHECK_EQUAL(pool.threads(), threads);
    for (int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
      std::atomic<bool> inside{true};
      pool.run(count, [&](int64_t i, int thread) {
        runs[size_t(i)].fetch_add(1);
        if (thread < 0 || thread >= threads) inside = false;
      });
      CHECK(inside);
      for (auto& n : runs) CHECK_EQUAL(n.load(), 1);
    }
  }
}

TEST("the thread pool is ready for the next run at once") {
  ThreadPool pool(3);
  std::atomic<int64_t> sum{0};
  for (int round = 0; round < 2000; ++round) pool.run(4, [&](int64_t i, int) { sum += i; });
  CHECK_EQUAL(sum.load(), int64_t(2000) * 6);
}

TEST("an exception of a task is thrown again by run, and the pool goes on") {
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 20; ++round) {
      CHECK_THROWS(pool.run(100, [](int64_t i, int) { require(i != 37, "[task] 37 is refused"); }),
                   Code::InvalidArgument);
      std::atomic<int> done{0};
      pool.run(50, [&](int64_t, int) { ++done; });
      CHECK_EQUAL(done.load(), 50);
    }
  }
}

#if defined(__x86_64__) || defined(__aarch64__)
TEST("tasks flush subnormal numbers, and the caller's own mode is back after them") {
  volatile float small = 1e-39f, one = 1;
  for (int threads : {1, 3})
    for (int64_t count : {1, 300}) {
      ThreadPool pool(threads);
      std::atomic<int64_t> flushed{0}, zeros{0};
      pool.run(count, [&](int64_t, int) {
        flushed += FlushSubnormals::on();
        zeros += small * one == 0;
      });
      CHECK_EQUAL(flushed.load(), count);
      CHECK_EQUAL(zeros.load(), count);
      CHECK(!FlushSubnormals::on());
      CHECK(small * one != 0);
      CHECK_THROWS(pool.run(count, [](int64_t, int) { require(false, "[task] refused"); }),
                   Code::InvalidArgument);
      CHECK(!FlushSubnormals::on());
    }
}
#endif

TEST("zero threads means all processors that the process may use") {
  ThreadPool pool(0);
  CHECK_EQUAL(pool.threads(), ThreadPool::available_processors());
}

TEST("a cancelled token ends the call that checks it") {
  CancelToken token;
  check_cancelled(nullptr);
  check_cancelled(&token);
  token.cancel();
  CHECK_THROWS(check_cancelled(&token), Code::Cancelled);
}

TEST("a device refuses a backend that it does not know") {
  CHECK_THROWS(Device({.backend = "abacus", .threads = 1, .isa = "auto"}), Code::InvalidArgument);
  std::string message =
      message_of([] { Device({.backend = "abacus", .threads = 1, .isa = "auto"}); });
  CHECK_EQUAL(message,
              "[device] backend: expected auto, cuda, cuda:N, cpu or reference, got abacus");
}

TEST("a tape that does not record keeps nothing alive") {
  Device device(reference_device());
  Tape tape(device, false);
  Tensor x = uniform_tensor(device.pool(), {8}, DType::F32, 1);
  Tensor y = ops::activation(tape, x, Activation::Silu);
  CHECK(x.unique());
  CHECK(!y.needs_grad());
  CHECK_EQUAL(tape.size(), size_t(0));
}

TEST("backward pops the tape and frees what its nodes saved") {
  Device device(reference_device());
  Tape tape(device, true);
  Tensor x = uniform_tensor(device.pool(), {8}, DType::F32, 1);
  x.set_needs_grad(true);
  Tensor y = ops::activation(tape, x, Activation::Silu);
  CHECK(!x.unique());
  Grads grads = tape.backward(y, uniform_tensor(device.pool(), {8}, DType::F32, 2));
  CHECK(x.unique());
  CHECK_EQUAL(tape.size(), size_t(0));
  CHECK(bool(grads.get(x)));
}

TEST("a gradient shared by add is copied before it is written to") {
  Device device(reference_device());
  Tensor a = device.zeros({3}, DType::F32), b = device.zeros({3}, DType::F32),
         dy = device.empty({3}, DType::F32);
  a.set_needs_grad(true);
  b.set_needs_grad(true);
  std::fill_n(dy.f32(), 3, 2.0f);
  Grads grads(device);
  grads.add(a, dy);
  grads.add(b, dy);
  CHECK_EQUAL(grads.get(a).raw(), dy.raw());
  grads.add(a, dy);
  CHECK_EQUAL(grads.get(a).f32()[0], 4.0f);
  CHECK_EQUAL(grads.get(b).f32()[0], 2.0f);
  CHECK_EQUAL(dy.f32()[0], 2.0f);
  GradSlot slot = grads.slot(b);
  CHECK(slot.accumulate);
  std::fill_n(slot.tensor.f32(), 3, 7.0f);
  CHECK_EQUAL(grads.get(b).f32()[1], 7.0f);
  CHECK_EQUAL(dy.f32()[1], 2.0f);
}

TEST("tensors without needs_grad have no slot and take no gradient") {
  Device device(reference_device());
  Tensor x = device.zeros({3}, DType::F32);
  Grads grads(device);
  CHECK(!grads.slot(x));
  CHECK(!grads.separate(x));
  grads.add(x, x);
  CHECK(!grads.get(x));
}

TEST("a slot of a reshaped tensor is that of the tensor, in its shape") {
  Device device(reference_device());
  Tensor x = device.zeros({2, 3}, DType::F32);
  x.set_needs_grad(true);
  Grads grads(device);
  GradSlot first = grads.slot(x);
  const void* where = first.tensor.raw();
  CHECK(!first.accumulate);
  first = {};
  GradSlot second = grads.slot(x.reshape({6}));
  CHECK(second.accumulate);
  CHECK_EQUAL(second.tensor.raw(), where);
  CHECK_EQUAL(second.tensor.rank(), 1);
}

TEST("bfloat16 parameters have float32 masters; vectors have no copy") {
  Device device(reference_device());
  ParameterStore store(device);
  Parameter &matrix = store.add("m.weight", {3, 5}, ParameterKind::Matrix),
            &bias = store.add("m.bias", {3}, ParameterKind::Vector);
  store.allocate(DType::BF16, DType::F32, true);
  fill_uniform(matrix.master, 1);
  store.commit();
  CHECK_EQUAL(int(matrix.value.dtype()), int(DType::BF16));
  CHECK_EQUAL(bias.value.raw(), bias.master.raw());
  CHECK_EQUAL(store.numel(), 18);
  for (int i = 0; i < 15; ++i)
    CHECK_EQUAL(matrix.value.data<bf16>()[i].bits, to_bf16(matrix.master.f32()[i]).bits);
  CHECK_EQUAL(store.find("m.bias"), &bias);
  CHECK_EQUAL(store.find("m.other"), static_cast<Parameter*>(nullptr));
}

TEST("a parameter cannot be added twice or after allocation") {
  Device device(reference_device());
  ParameterStore store(device);
  store.add("w", {3}, ParameterKind::Vector);
  CHECK_THROWS(store.add("w", {3}, ParameterKind::Vector), Code::Internal);
  store.allocate(DType::F32, DType::F32, false);
  CHECK_THROWS(store.add("v", {3}, ParameterKind::Vector), Code::Internal);
  CHECK(!store.trainable());
}

TEST("scopes spell the checkpoint's names") {
  Device device(reference_device());
  ParameterStore store(device);
  Parameter* p = (Scope(store) / "down_blocks" / 0 / "resnets" / 1)
                     .parameter("conv1.weight", {1}, ParameterKind::Vector);
  CHECK_EQUAL(p->name, "down_blocks.0.resnets.1.conv1.weight");
}

namespace {
// A device's memory: so much of it, in blocks that begin at multiples of 256 like the runtime's.
class SmallDevice : public BlockSource {
 public:
  void* allocate(size_t bytes, bool, size_t) override {
    if (used + bytes > (size_t(4) << 20))
      throw Error(Code::ResourceExhausted, "out of device memory");
    void* data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    blocks[data] = bytes;
    used += bytes;
    return data;
  }
  void free(void* data) noexcept override {
    used -= blocks[data];
    blocks.erase(data);
    std::free(data);
  }
  size_t region_bytes() const override { return size_t(1) << 20; }

  std::map<void*, size_t> blocks;
  size_t used = 0;
};
}  // namespace

TEST(
    "a pool on a device's memory: addresses are aligned and come again; what is kept makes room, "
    "unless captures have its addresses") {
  auto source = std::make_shared<SmallDevice>();
  BufferPool pool(source);
  std::vector<std::pair<void*, size_t>> taken;
  for (int round = 0; round < 2; ++round) {
    std::vector<std::pair<void*, size_t>> now;
    for (size_t bytes : {1, 100, 5000, 300000, 400000, 70000}) {
      now.push_back({pool.allocate(bytes), bytes});
      CHECK_THAT(reinterpret_cast<uintptr_t>(now.back().first) % 256 == 0, bytes, " bytes at ",
                 now.back().first);
    }
    // Given back in the same order, as a stream's work is, they are handed out again in it.
    for (auto [data, bytes] : now) pool.release(data, bytes);
    if (round > 0) CHECK(now == taken);
    taken = now;
  }
  CHECK_EQUAL(pool.stats().system_allocations, uint64_t(5));  // four small ones and a region
  // Two megabytes more than there are beside what is kept.
  void* whole = pool.allocate(size_t(4) << 20);
  CHECK_EQUAL(source->blocks.size(), size_t(1));
  pool.release(whole, size_t(4) << 20);
  pool.hold();
  CHECK_THROWS(pool.allocate(size_t(5) << 20), Code::ResourceExhausted);
  CHECK_EQUAL(source->blocks.size(), size_t(1));
  pool.hold(false);
  CHECK_THROWS(pool.allocate(size_t(5) << 20), Code::ResourceExhausted);
  CHECK(source->blocks.empty());
}
