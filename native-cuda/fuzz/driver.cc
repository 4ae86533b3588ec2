// Runs a fuzz program where there is no libFuzzer: the files of the folders that it is given, then
// changes of them that are the same for the same seed. Takes libFuzzer's options that scripts use:
// -runs=N -max_total_time=SECONDS -seed=N -artifact_prefix=PATH; what ends the program is kept as
// PATH followed by "crash".
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "fuzz.h"

extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace {
using Bytes = std::vector<uint8_t>;

constexpr size_t kLongest = 1 << 16;
constexpr unsigned kSecondsForOne = 60;

Bytes current;
std::string kept = "crash";

void keep_current() {
  int file = ::open(kept.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return;
  for (size_t at = 0; at < current.size();) {
    ssize_t count = ::write(file, current.data() + at, current.size() - at);
    if (count <= 0) break;
    at += size_t(count);
  }
  ::close(file);
}

void on_signal(int number) {
  keep_current();
  std::signal(number, SIG_DFL);
  std::raise(number == SIGALRM ? SIGKILL : number);
}

class Mutator {
 public:
  Mutator(std::vector<Bytes> pool, uint32_t seed) : pool_(std::move(pool)), random_(seed) {}

  Bytes next() {
    Bytes input = pool_[below(pool_.size())];
    for (size_t changes = 1 + below(size_t(1) << below(4)); changes > 0; --changes) {
      change(input);
      if (input.size() > kLongest) input.resize(kLongest);
    }
    return input;
  }

 private:
  size_t below(size_t end) { return size_t(random_() % end); }

  void insert(Bytes& input, size_t at, const Bytes& piece) {
    input.insert(input.begin() + ptrdiff_t(at), piece.begin(), piece.end());
  }

  Bytes piece_of(const Bytes& from) {
    if (from.empty()) return {};
    size_t start = below(from.size());
    size_t count = std::min(from.size() - start, 1 + below(size_t(1) << below(10)));
    return {from.begin() + ptrdiff_t(start), from.begin() + ptrdiff_t(start + count)};
  }

  Bytes word() {
    static const std::vector<std::string> words = {
        "[",       "]",        "{",     "}",     "\"",  "\\",       ",",
        ":",       "null",     "true",  "NaN",   "-1",  "1e999",    "18446744073709551615",
        "\\u0000", "\\ud800",  "dtype", "shape", "F32", "BF16",     "I64",
        "\xff",    "\xc3\xa9", "[0,0]", "0.5",   "-0",  "Infinity", "4611686018427387904"};
    const std::string& text = words[below(words.size())];
    return {text.begin(), text.end()};
  }

  Bytes number() {
    constexpr int64_t edges[] = {0,         1,         -1,        7,        8,     127,
                                 128,       255,       256,       32767,    65535, 65536,
                                 INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};
    int64_t value = edges[below(std::size(edges))];
    Bytes bytes(sizeof(value));
    std::memcpy(bytes.data(), &value, sizeof(value));
    bytes.resize(size_t(1) << below(4));
    return bytes;
  }

  void change(Bytes& input) {
    if (input.empty()) input.push_back(uint8_t(below(256)));
    size_t at = below(input.size());
    switch (below(9)) {
      case 0:
        input[at] ^= uint8_t(1u << below(8));
        break;
      case 1:
        input[at] = uint8_t(below(256));
        break;
      case 2:
        input.erase(input.begin() + ptrdiff_t(at),
                    input.begin() + ptrdiff_t(std::min(input.size(), at + 1 + below(64))));
        break;
      case 3:
        input.resize(at);
        break;
      case 4:
        insert(input, at, word());
        break;
      case 5: {
        Bytes bytes = number();
        for (size_t i = 0; i < bytes.size() && at + i < input.size(); ++i) input[at + i] = bytes[i];
        break;
      }
      case 6:
        insert(input, at, piece_of(input));
        break;
      case 7:
        insert(input, at, piece_of(pool_[below(pool_.size())]));
        break;
      default: {
        Bytes piece = piece_of(input), repeated;
        for (size_t times = size_t(1) << below(8); times > 0; --times)
          repeated.insert(repeated.end(), piece.begin(), piece.end());
        insert(input, at, repeated);
      }
    }
  }

  std::vector<Bytes> pool_;
  std::mt19937 random_;
};

void run(Bytes input) {
  current = std::move(input);
  ::alarm(kSecondsForOne);
  LLVMFuzzerTestOneInput(current.data(), current.size());
  ::alarm(0);
}

std::vector<Bytes> files_of(const std::vector<std::string>& folders) {
  std::vector<std::filesystem::path> paths;
  for (const std::string& folder : folders)
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      if (entry.is_regular_file()) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> files;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return files;
}
}  // namespace

int main(int argc, char** argv) {
  long runs = -1, seconds = 0;
  uint32_t seed = 1;
  std::vector<std::string> folders;
  for (int i = 1; i < argc; ++i) {
    std::string option = argv[i];
    size_t equals = option.find('=');
    std::string value = equals == std::string::npos ? "" : option.substr(equals + 1);
    if (option.starts_with("-runs="))
      runs = std::stol(value);
    else if (option.starts_with("-max_total_time="))
      seconds = std::stol(value);
    else if (option.starts_with("-seed="))
      seed = uint32_t(std::stoul(value));
    else if (option.starts_with("-artifact_prefix="))
      kept = value + "crash";
    else if (!option.starts_with("-"))
      folders.push_back(option);
  }
  for (int number : {SIGABRT, SIGALRM, SIGFPE, SIGILL}) std::signal(number, on_signal);
  if (__sanitizer_set_death_callback)
    __sanitizer_set_death_callback(keep_current);
  else
    std::signal(SIGSEGV, on_signal);
  std::vector<Bytes> pool = files_of(folders);
  if (pool.empty()) pool.emplace_back();
  long done = 0;
  for (const Bytes& input : pool) {
    run(input);
    ++done;
  }
  auto start = std::chrono::steady_clock::now();
  Mutator mutator(std::move(pool), seed);
  auto in_time = [&] {
    return seconds == 0 || std::chrono::steady_clock::now() - start < std::chrono::seconds(seconds);
  };
  for (; (runs < 0 || done < runs) && in_time(); ++done) run(mutator.next());
  std::fprintf(stderr, "Done %ld runs\n", done);
  return 0;
}
