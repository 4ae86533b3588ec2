// Json::parse; what it reads comes back from what it writes.
#include "fuzz.h"
#include "io/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using spindle::Json;
  return fuzz::expect_read_or_refusal([&] {
    Json json = Json::parse(fuzz::text(data, size), "input");
    std::string text = json.dump();
    // As text: NaN is not equal to itself.
    if (Json::parse(text, "dump").dump() != text) std::abort();
    json.describe();
  });
}
