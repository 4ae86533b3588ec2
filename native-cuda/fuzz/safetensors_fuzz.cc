// SafetensorsFile: the header, and every tensor as floats and, where it has them, as integers.
#include "fuzz.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace spindle;
  fuzz::File input(data, size);
  return fuzz::expect_read_or_refusal([&] {
    SafetensorsFile file(input.path());
    for (const FileTensor& tensor : file.tensors()) {
      std::vector<float> floats = file.floats(tensor.name);
      std::vector<double> doubles(floats.size());
      file.read(tensor, doubles.data());
      bool whole = tensor.type == FileType::I64 || tensor.type == FileType::I32 ||
                   tensor.type == FileType::U8;
      if (whole) file.integers(tensor.name);
    }
  });
}
