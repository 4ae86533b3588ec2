// How values reach the device: what is asked of the stream, and of the one beside it. The runtime
// is made up here.
#include "kernels/cuda/staging.h"

#include <cstdlib>
#include <cstring>

#include "asked_streams.h"
#include "check.h"

using namespace spindle;
using namespace asked_streams;

namespace spindle::cuda {

void* device_allocate(size_t bytes) { return std::malloc(bytes); }
void device_free(void* data) noexcept { std::free(data); }
void* pinned_allocate(size_t bytes) { return std::malloc(bytes); }
void pinned_free(void* data) noexcept { std::free(data); }
void synchronize(Event event) { asked.push_back("host waits for " + event->behind); }
void copy_to_device(void* device, const void* host, size_t bytes, Stream stream) {
  asked.push_back(cat("bring ", bytes, " on ", stream->name));
  std::memcpy(device, host, bytes);
}
void copy_to_host(void* host, const void* device, size_t bytes, Stream stream) {
  asked.push_back(cat("fetch ", bytes, " on ", stream->name));
  std::memcpy(host, device, bytes);
}
void copy_on_device(void* to, const void* from, size_t bytes, Stream stream) {
  asked.push_back(cat("place ", bytes, " on ", stream->name));
  std::memcpy(to, from, bytes);
}

}  // namespace spindle::cuda

namespace {

void expect(const std::vector<std::string>& expected) {
  CHECK_EQUAL(joined(asked), joined(expected));
  asked.clear();
}

std::vector<unsigned char> bytes(size_t count) {
  std::vector<unsigned char> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<unsigned char>(i * 7 + i / 251);
  return values;
}

}  // namespace

TEST(
    "large values cross beside the stream's work and are put in place in its order; small ones go "
    "the short way") {
  CUstream_st compute{"compute"};
  cuda::Staging staging;
  std::vector<unsigned char> large = bytes(cuda::Staging::kAside), small = bytes(100),
                             to(large.size()), too(small.size());
  asked.clear();
  staging.upload(to.data(), large.data(), large.size(), &compute);
  expect({"bring 65536 on new", "record new", "compute waits for new", "place 65536 on compute",
          "record compute"});
  staging.upload(too.data(), small.data(), small.size(), &compute);
  expect({"bring 100 on compute", "record compute"});
  CHECK(to == large && too == small);
}

TEST("staging memory is used again once what was in it is in place") {
  CUstream_st compute{"compute"};
  cuda::Staging staging;
  std::vector<unsigned char> values = bytes(2 * cuda::Staging::kBytes + 1000), to(values.size());
  asked.clear();
  staging.upload(to.data(), values.data(), values.size(), &compute);
  CHECK(to == values);
  // Two buffers are full; the third piece waits for the first one.
  size_t waits = 0;
  for (const std::string& each : asked) waits += each == "host waits for compute";
  CHECK_EQUAL(waits, size_t(1));
  CHECK_EQUAL(asked.back(), std::string("record compute"));
  CHECK_EQUAL(asked[asked.size() - 3], std::string("host waits for compute"));
  std::vector<unsigned char> back(values.size());
  staging.download(back.data(), to.data(), to.size(), &compute);
  CHECK(back == values);
}
