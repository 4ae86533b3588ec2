// The threads of a block.
#include <algorithm>
#include <deque>
#include <exception>
#include <utility>
#include <vector>

#include "core/error.h"
#include "cuda_emulator/device.h"
#include "cuda_emulator/fiber.h"

namespace spindle::emulator {

Dim thread_index, block_index, block_size, grid_size;

namespace {

constexpr unsigned kLanes = 32;
constexpr size_t kMaxShared = 227 * 1024;

enum class State : uint8_t { Ready, AtBlockBarrier, AtWarpBarrier, Done };

struct Thread {
  Fiber fiber;
  State state = State::Ready;
};

struct Running {
  const char* name = "";
  const std::function<void()>* thread = nullptr;
  std::deque<Thread> threads;  // kept from launch to launch
  Thread* current = nullptr;   // null: the plain loop
  bool met_others = false;     // a thread of this launch met a barrier or an exchange
  std::exception_ptr failure;
  std::vector<Slot> slots;
  alignas(16) unsigned char shared[kMaxShared];
};

Running& running() {
  static Running r;
  return r;
}

void entry() {
  Running& r = running();
  try {
    (*r.thread)();
  } catch (...) {
    if (!r.failure) r.failure = std::current_exception();
  }
  r.current->state = State::Done;
  r.current->fiber.yield();
}

void wait_at(State barrier) {
  Running& r = running();
  r.met_others = true;
  ensure(r.current != nullptr, "[emulator] ", r.name,
         ": a thread waits for others that its first thread did not wait for");
  r.current->state = barrier;
  r.current->fiber.yield();
}

void resume(unsigned index) {
  Running& r = running();
  thread_index = {index, 0, 0};
  r.current = &r.threads[index];
  r.current->fiber.resume();
  r.current = nullptr;
  if (r.failure) std::rethrow_exception(std::exchange(r.failure, nullptr));
}

// Runs a warp until all of its threads are done or at the block's barrier.
void run_warp(unsigned first, unsigned last) {
  Running& r = running();
  for (;;) {
    for (unsigned i = first; i < last; ++i)
      if (r.threads[i].state == State::Ready) resume(i);
    unsigned at_warp = 0, others = 0;
    for (unsigned i = first; i < last; ++i)
      (r.threads[i].state == State::AtWarpBarrier ? at_warp : others) += 1;
    if (at_warp == 0) return;
    ensure(others == 0, "[emulator] ", r.name, ": ", at_warp,
           " threads of a warp exchange values without the other ", others);
    for (unsigned i = first; i < last; ++i) r.threads[i].state = State::Ready;
  }
}

void run_fibers(unsigned count) {
  Running& r = running();
  while (r.threads.size() < count) r.threads.emplace_back();
  for (unsigned i = 0; i < count; ++i) {
    r.threads[i].fiber.prepare(entry);
    r.threads[i].state = State::Ready;
  }
  for (;;) {
    for (unsigned first = 0; first < count; first += kLanes)
      run_warp(first, std::min(count, first + kLanes));
    unsigned done = 0;
    for (unsigned i = 0; i < count; ++i) done += r.threads[i].state == State::Done;
    if (done == count) return;
    ensure(done == 0, "[emulator] ", r.name, ": ", count - done,
           " threads of a block wait at a barrier that ", done, " never reach");
    for (unsigned i = 0; i < count; ++i) r.threads[i].state = State::Ready;
  }
}

}  // namespace

void block_barrier() { wait_at(State::AtBlockBarrier); }
void warp_barrier() { wait_at(State::AtWarpBarrier); }
void* dynamic_shared() { return running().shared; }
Slot* warp_slots() { return running().slots.data() + thread_index.x / kLanes * kLanes; }

void check_launch(const char* name,
                  unsigned x,
                  unsigned y,
                  unsigned z,
                  unsigned block,
                  size_t shared_bytes) {
  ensure(x >= 1 && x <= 0x7fffffffu && y >= 1 && y <= 65535 && z >= 1 && z <= 65535, "[emulator] ",
         name, ": a grid of ", x, " x ", y, " x ", z, " blocks");
  ensure(block >= 1 && block <= 1024, "[emulator] ", name, ": a block of ", block, " threads");
  ensure(shared_bytes <= kMaxShared, "[emulator] ", name, ": ", shared_bytes,
         " bytes of shared memory");
}

void run(const char* name,
         const Dim& grid,
         unsigned block,
         size_t shared_bytes,
         const std::function<void()>& thread) {
  Running& r = running();
  ensure(r.thread == nullptr, "[emulator] ", name, ": a launch within a launch");
  struct Clear {
    ~Clear() { running().thread = nullptr; }
  } clear;
  r.name = name;
  r.thread = &thread;
  r.met_others = false;
  r.slots.resize((block + kLanes - 1) / kLanes * kLanes);
  grid_size = grid;
  block_size = {block, 1, 1};
  bool fibers = true;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = {x, y, z};
        std::memset(r.shared, 0xff, shared_bytes);  // NaN
        if (fibers) {
          run_fibers(block);
          fibers = r.met_others;  // else the next blocks need none
          continue;
        }
        for (unsigned i = 0; i < block; ++i) {
          thread_index = {i, 0, 0};
          thread();
        }
      }
}

}  // namespace spindle::emulator

namespace spindle::cuda {

namespace {
float element(uint32_t pair, unsigned which) {
  return to_float(bf16{uint16_t(which ? pair >> 16 : pair)});
}
}  // namespace

void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  using namespace emulator;
  struct Operands {
    uint32_t a[4], b[2];
  } own{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  Slot* slots = warp_slots();
  std::memcpy(&slots[lane()], &own, sizeof own);
  warp_barrier();
  auto of = [&](unsigned l) {
    Operands o;
    std::memcpy(&o, &slots[l], sizeof o);
    return o;
  };
  for (unsigned i = 0; i < 4; ++i) {
    unsigned row = lane() / 4 + (i >= 2 ? 8 : 0), column = lane() % 4 * 2 + i % 2;
    float sum = d[i];
    for (unsigned k = 0; k < 16; ++k) {
      Operands from_a = of(row % 8 * 4 + k % 8 / 2), from_b = of(column * 4 + k % 8 / 2);
      sum += element(from_a.a[(row >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0)], k % 2) *
             element(from_b.b[k >= 8 ? 1 : 0], k % 2);
    }
    d[i] = sum;
  }
  warp_barrier();
}

namespace {
void load(uint32_t (&r)[4], const void* row, bool transposed) {
  using namespace emulator;
  ensure(reinterpret_cast<uintptr_t>(row) % 16 == 0,
         "[emulator] load_matrices: a row that is not 16-byte aligned");
  Slot* slots = warp_slots();
  std::memcpy(&slots[lane()], &row, sizeof row);
  warp_barrier();
  for (unsigned matrix = 0; matrix < 4; ++matrix) {
    auto at = [&](unsigned i, unsigned j) {
      const uint16_t* from;
      std::memcpy(&from, &slots[matrix * 8 + i], sizeof from);
      return uint32_t(from[j]);
    };
    unsigned i = lane() / 4, j = lane() % 4 * 2;
    r[matrix] = transposed ? at(j, i) | at(j + 1, i) << 16 : at(i, j) | at(i, j + 1) << 16;
  }
  warp_barrier();
}
}  // namespace

void load_matrices(uint32_t (&r)[4], const void* row) { load(r, row, false); }
void load_matrices_transposed(uint32_t (&r)[4], const void* row) { load(r, row, true); }

}  // namespace spindle::cuda
