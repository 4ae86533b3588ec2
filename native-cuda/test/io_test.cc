// JSON, configs, safetensors and the way from files to parameters.
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "check.h"
#include "io/config.h"
#include "io/json.h"
#include "io/model_source.h"
#include "io/safetensors.h"
#include "temporary.h"

using namespace spindle;

namespace {
void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string with_length(const std::string& header, size_t data_bytes) {
  uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header +
         std::string(data_bytes, '\0');
}

TensorToWrite floats(const std::string& name,
                     const std::vector<int64_t>& shape,
                     const std::vector<float>& values) {
  return {name, FileType::F32, shape,
          [values](const ByteSink& sink) { sink(values.data(), values.size() * 4); }};
}

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}
}  // namespace

TEST("json: a value survives being written and read") {
  std::string text =
      R"({"a":[1,-2.5,true,null,"x\"\\\n"],"b":{"c":-Infinity,"d":9007199254740993}})";
  Json json = Json::parse(text, "test");
  CHECK_EQUAL(json.dump(), text);
  CHECK_EQUAL(json.find("b")->find("d")->integer(), 9007199254740993);
  CHECK(std::isnan(Json::parse("NaN", "test").number()));
  CHECK_EQUAL(Json::parse("\"\\ud83d\\ude00\\u00e9\"", "test").string(),
              std::string("\xf0\x9f\x98\x80\xc3\xa9"));
}

TEST("json: text that is not JSON is refused") {
  for (const char* text :
       {"",    "{",     "[1,]", "{\"a\":1,}",   "{\"a\":1,\"a\":2}", "01",           "1.",
        "1e",  "-",     "tru",  "\"\\x\"",      "\"\\ud800\"",       "\"\\udc00x\"", "\"\n\"",
        "1 2", "{a:1}", "\xff", "\"\xc0\x80\"", "\"\xed\xa0\x80\"",  "1e999",        "[1 2]",
        "nan"})
    check::each(text, [&] { CHECK_THROWS(Json::parse(text, "test"), Code::InvalidArgument); });
  CHECK_THROWS(Json::parse(std::string(100000, '['), "test"), Code::InvalidArgument);
}

TEST("config: fields of the wrong type, closed sets and unread keys are refused by name") {
  Config config = Config::parse(
      R"({"size":"big","kind":"c","extra":1,"_note":2,"none":null,"whole":4.0})", "x/config.json");
  CHECK_EQUAL(message_of([&] { config.integer("size"); }),
              std::string("x/config.json: size: expected an integer, got \"big\""));
  CHECK_EQUAL(message_of([&] { config.choice("kind", {"a", "b"}); }),
              std::string("x/config.json: kind: expected a or b, got \"c\""));
  CHECK_EQUAL(message_of([&] { config.number("missing"); }),
              std::string("x/config.json: missing: expected a number, got nothing"));
  CHECK_EQUAL(message_of([&] { config.integer("none", 7); }),
              std::string("x/config.json: none: expected an integer, got null"));
  CHECK(!config.boolean("none", true));
  config.only("none", {});
  config.only("none", {false});
  CHECK_EQUAL(message_of([&] { config.only("none", {"silu"}); }),
              std::string("x/config.json: none: expected \"silu\" (other values are not "
                          "supported), got null"));
  CHECK_EQUAL(config.integer("whole"), 4);
  CHECK_EQUAL(message_of([&] { config.refuse_unread(); }),
              std::string("x/config.json: extra: expected a known key, got this one with value 1"));
}

TEST("safetensors: the writer's bytes are the reference library's") {
  TemporaryFolder folder;
  uint16_t half = 0x3c00;
  int64_t whole = 5;
  write_safetensors(folder / "a.safetensors",
                    {floats("b", {2}, {1, 2}),
                     {"h", FileType::F16, {1}, [&](const ByteSink& sink) { sink(&half, 2); }},
                     floats("a.w", {1, 2}, {3, 4}),
                     {"i", FileType::I64, {}, [&](const ByteSink& sink) { sink(&whole, 8); }}},
                    {{"format", "pt"}});
  std::string header =
      R"({"__metadata__":{"format":"pt"},"i":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"a.w":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]},)"
      R"("b":{"dtype":"F32","shape":[2],"data_offsets":[16,24]},"h":{"dtype":"F16","shape":[1],"data_offsets":[24,26]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  float values[] = {3, 4, 1, 2};
  std::string data(reinterpret_cast<const char*>(&whole), 8);
  data += std::string(reinterpret_cast<const char*>(values), 16) +
          std::string(reinterpret_cast<const char*>(&half), 2);
  CHECK(read_file(folder / "a.safetensors") == with_length(header, 0) + data);
  SafetensorsFile file(folder / "a.safetensors");
  CHECK_EQUAL(file.metadata().at("format"), std::string("pt"));
  CHECK_EQUAL(file.floats("h")[0], 1.0f);
  CHECK_EQUAL(file.floats("b")[1], 2.0f);
  CHECK_EQUAL(file.integers("i")[0], 5);
  CHECK_EQUAL(std::distance(std::filesystem::directory_iterator(folder.path), {}), 1);
}

TEST(
    "safetensors: a header that lies is refused with the file, the tensor, the expected and the "
    "got") {
  struct Row {
    const char* name;
    std::string header;
    size_t data_bytes;
    const char* says;
  };
  std::string one = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";
  const Row rows[] = {
      {"an end past the file", R"({"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 8,
       "w: data_offsets: expected an end within the file's 8 bytes of data, got 16"},
      {"a hole", R"({"w":{)" + one + R"(},"v":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})",
       16,
       "v: data_offsets: expected to begin at 8, where the tensor before it ends, got 12 (a hole)"},
      {"a hole at the start", R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8,
       "got 4 (a hole)"},
      {"an overlap",
       R"({"w":{)" + one + R"(},"v":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8,
       "got 4 (an overlap)"},
      {"two tensors at one place", R"({"w":{)" + one + R"(},"v":{)" + one + "}}", 8,
       "(an overlap)"},
      {"bytes after the last tensor", R"({"w":{)" + one + "}}", 9,
       "expected 8 bytes of data as the header says, got 9"},
      {"a name twice", R"({"w":{)" + one + R"(},"w":{)" + one + "}}", 8, "the key \"w\" twice"},
      {"a shape of another size", R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8,
       "w: data_offsets: expected 12 bytes for F32 [3], got 8"},
      {"a product that overflows",
       R"({"w":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}})",
       8, "w: shape: expected a size that fits in memory"},
      {"a product that overflows to a fit",
       R"({"w":{"dtype":"U8","shape":[9223372036854775807,2,2],"data_offsets":[0,8]}})", 8,
       "w: shape: expected a size that fits in memory"},
      {"an overflow hidden by a zero",
       R"({"w":{"dtype":"F32","shape":[9223372036854775807,9223372036854775807,0],"data_offsets":[0,0]}})",
       0, "w: shape: expected a size that fits in memory"},
      {"an unknown type", R"({"w":{"dtype":"F7","shape":[2],"data_offsets":[0,8]}})", 8,
       "w: dtype: expected F64, F32, F16, BF16, I64, I32 or U8, got \"F7\""},
      {"a negative size", R"({"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8,
       "w: shape: expected a non-negative integer, got -2"},
      {"a negative offset", R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", 8,
       "w: data_offsets: expected a non-negative integer, got -8"},
      {"an offset that is no integer",
       R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8.5]}})", 8,
       "expected a non-negative integer, got 8.5"},
      {"an end before the begin", R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8,
       "w: data_offsets: expected begin <= end, got [8,0]"},
      {"one offset", R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8]}})", 8,
       "w: data_offsets: expected two integers, got [8]"},
      {"no shape", R"({"w":{"dtype":"F32","data_offsets":[0,8]}})", 8,
       "w: expected dtype, shape and data_offsets, got no shape"},
      {"a strange field", R"({"w":{)" + one + R"(,"x":1}})", 8,
       "w: expected dtype, shape and data_offsets, got x"},
      {"metadata that is a list", R"({"__metadata__":[]})", 0,
       "__metadata__: expected an object, got []"},
      {"metadata that is no text", R"({"__metadata__":{"a":1}})", 0,
       "__metadata__: a: expected a string, got 1"},
      {"a list", "[]", 0, "header: expected an object, got []"},
      {"no JSON", "{", 0, "header: expected JSON, got the end of the text"},
      {"no UTF-8", "{\"\xff\":1}", 0, "header: expected JSON, got text that is not UTF-8"},
  };
  TemporaryFolder folder;
  for (const Row& row : rows)
    check::each(row.name, [&] {
      write_file(folder / "x.safetensors", with_length(row.header, row.data_bytes));
      std::string message = message_of([&] { SafetensorsFile file(folder / "x.safetensors"); });
      CHECK_THAT(message.starts_with(folder / "x.safetensors: "), message);
      CHECK_THAT(message.find(row.says) != std::string::npos, message);
    });
}

TEST("safetensors: metadata that is null is none") {
  TemporaryFolder folder;
  write_file(
      folder / "x",
      with_length(R"({"__metadata__":null,"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
                  8));
  SafetensorsFile file(folder / "x");
  CHECK(file.metadata().empty());
  CHECK_EQUAL(file.tensors().size(), size_t(1));
  CHECK(file.floats("w") == std::vector<float>(2, 0.0f));
}

TEST("safetensors: an endless shape is refused before any of its dimensions is looked at") {
  // 800 kB of header. Were the dimensions read one by one, the message would be of the first.
  std::string shape = "-1";
  for (int i = 1; i < 400'000; ++i) shape += ",1";
  TemporaryFolder folder;
  auto message = [&](const std::string& dims) {
    write_file(
        folder / "x",
        with_length(R"({"w":{"dtype":"U8","shape":[)" + dims + R"(],"data_offsets":[0,1]}})", 1));
    return message_of([&] { SafetensorsFile file(folder / "x"); });
  };
  CHECK_EQUAL(message(shape), folder / "x: w: shape: expected at most 16 dimensions, got 400000");
  CHECK_EQUAL(message("1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1"), std::string());
  CHECK_EQUAL(message("1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1"),
              folder / "x: w: shape: expected at most 16 dimensions, got 17");
}

TEST("safetensors: a tensor without values is read as no values, of every type") {
  TemporaryFolder folder;
  for (const char* type : {"F64", "F32", "F16", "BF16", "I64", "I32", "U8"})
    check::each(type, [&] {
      write_file(folder / "x", with_length(cat(R"({"w":{"dtype":")", type,
                                               R"(","shape":[0,3],"data_offsets":[0,0]}})"),
                                           0));
      SafetensorsFile file(folder / "x");
      CHECK(file.floats("w").empty());
      file.read(file.at("w"), static_cast<float*>(nullptr));
      file.read(file.at("w"), static_cast<double*>(nullptr));
    });
}

TEST("safetensors: a file too short for its header and an endless header are refused") {
  TemporaryFolder folder;
  std::string path = folder / "x.safetensors";
  for (const std::string& bytes :
       {std::string(), std::string("abc"), std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10),
        std::string("\x40\0\0\0\0\0\0\0{}", 10), std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10)}) {
    write_file(path, bytes);
    CHECK_THROWS(SafetensorsFile{path}, Code::InvalidArgument);
  }
  CHECK_THROWS(SafetensorsFile{folder / "none.safetensors"}, Code::NotFound);
  CHECK_THROWS(SafetensorsFile{folder.path}, Code::InvalidArgument);
}

TEST("safetensors: every type is read as float") {
  TemporaryFolder folder;
  double d = -1.5;
  uint16_t half = 0x0001, brain = 0xc020;
  int32_t i = -7;
  uint8_t u = 200;
  auto one = [](const char* name, FileType type, auto& value) {
    return TensorToWrite{
        name, type, {1}, [&value](const ByteSink& sink) { sink(&value, sizeof(value)); }};
  };
  write_safetensors(
      folder / "x",
      {one("d", FileType::F64, d), one("h", FileType::F16, half), one("b", FileType::BF16, brain),
       one("i", FileType::I32, i), one("u", FileType::U8, u)},
      {});
  SafetensorsFile file(folder / "x");
  CHECK_EQUAL(file.floats("d")[0], -1.5f);
  CHECK_EQUAL(file.floats("h")[0], 0x1p-24f);
  CHECK_EQUAL(file.floats("b")[0], -2.5f);
  CHECK_EQUAL(file.floats("i")[0], -7.0f);
  CHECK_EQUAL(file.floats("u")[0], 200.0f);
  CHECK_THROWS(file.integers("d"), Code::InvalidArgument);
}

TEST("safetensors: a full disk is reported as such and leaves nothing behind") {
  // Every write to /dev/full fails like a full disk; the file beside it must not stay.
  TemporaryFolder folder;
  std::string target = folder / "x.safetensors", partial = cat(target, ".partial-", ::getpid());
  CHECK(::symlink("/dev/full", partial.c_str()) == 0);
  CHECK_THROWS(write_safetensors(target, {floats("w", {2}, {1, 2})}, {}), Code::ResourceExhausted);
  CHECK(std::filesystem::is_empty(folder.path));
  CHECK_THROWS(write_safetensors(folder / "no/such/folder/x", {}, {}), Code::InvalidArgument);
}

TEST("safetensors: a write that fails midway keeps the old file") {
  TemporaryFolder folder;
  std::string path = folder / "x.safetensors";
  write_safetensors(path, {floats("w", {1}, {1})}, {});
  TensorToWrite bad{
      "w", FileType::F32, {1}, [](const ByteSink&) { throw Error(Code::Cancelled, "stopped"); }};
  CHECK_THROWS(write_safetensors(path, {bad}, {}), Code::Cancelled);
  CHECK_EQUAL(SafetensorsFile(path).floats("w")[0], 1.0f);
  CHECK_EQUAL(std::distance(std::filesystem::directory_iterator(folder.path), {}), 1);
}

namespace {
struct Model {
  explicit Model(DType master = DType::F32)
      : device({.backend = "reference", .threads = 1}), store(device) {
    Scope scope(store);
    filter = (scope / "conv").parameter("weight", {2, 1, 3, 2}, ParameterKind::Filter);
    matrix = (scope / "linear").parameter("weight", {2, 3}, ParameterKind::Matrix);
    pointwise = (scope / "proj").parameter("weight", {2, 1, 1, 3}, ParameterKind::Filter);
    bias = (scope / "linear").parameter("bias", {2}, ParameterKind::Vector);
    store.allocate(master, master, true);
  }
  Device device;
  ParameterStore store;
  Parameter *filter, *matrix, *pointwise, *bias;
};

const std::vector<float> kTwelve = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
                         kSix = {0, 1, 2, 3, 4, 5};

std::vector<TensorToWrite> good_tensors() {
  return {floats("conv.weight", {2, 2, 1, 3}, kTwelve), floats("linear.weight", {2, 3, 1, 1}, kSix),
          floats("proj.weight", {2, 3}, kSix), floats("linear.bias", {2}, {7, 8})};
}
}  // namespace

TEST("parameters: PyTorch's layout is taken apart and put together again") {
  TemporaryFolder folder;
  write_safetensors(folder / "m", good_tensors(), {});
  for (DType master : {DType::F32, DType::F64}) {
    Model model(master);
    load_parameters(model.store, {"", {folder / "m"}, "m"});
    auto value = [&](const Parameter* p, int64_t i) {
      return master == DType::F64 ? p->master.data<double>()[i] : double(p->master.f32()[i]);
    };
    // (Co, R, S, Ci) = [o][0][s][i] is the file's [o][i][0][s]
    for (int64_t o = 0; o < 2; ++o)
      for (int64_t s = 0; s < 3; ++s)
        for (int64_t i = 0; i < 2; ++i)
          CHECK_EQUAL(value(model.filter, (o * 3 + s) * 2 + i), double((o * 2 + i) * 3 + s));
    CHECK_EQUAL(value(model.matrix, 4), 4.0);
    CHECK_EQUAL(value(model.pointwise, 5), 5.0);
    save_parameters(folder / "saved", {{"weights.", &model.store, model.store.master()}},
                    {{"step", "3"}});
    SafetensorsFile saved(folder / "saved");
    CHECK(saved.at("weights.conv.weight").shape == (std::vector<int64_t>{2, 2, 1, 3}));
    CHECK(saved.at("weights.linear.weight").shape == (std::vector<int64_t>{2, 3}));
    CHECK(saved.at("weights.proj.weight").shape == (std::vector<int64_t>{2, 3, 1, 1}));
    CHECK(saved.floats("weights.conv.weight") == kTwelve);
    Model other(master);
    CHECK_EQUAL(
        load_saved_parameters(folder / "saved", {{"weights.", &other.store, other.store.master()}})
            .at("step"),
        std::string("3"));
    CHECK(std::memcmp(other.store.master().raw(), model.store.master().raw(),
                      model.store.master().bytes()) == 0);
    CHECK_THROWS(
        load_saved_parameters(folder / "saved", {{"ema.", &other.store, other.store.master()}}),
        Code::InvalidArgument);
  }
}

TEST("parameters: missing, unexpected, doubled and mis-shaped tensors are refused by name") {
  TemporaryFolder folder;
  std::string path = folder / "m";
  Model model;
  auto message = [&](std::vector<TensorToWrite> tensors, const LoadOptions& options = {}) {
    write_safetensors(path, std::move(tensors), {});
    std::string checked =
        message_of([&] { check_parameters(model.store, {"", {path}, "m"}, options); });
    CHECK_EQUAL(checked,
                message_of([&] { load_parameters(model.store, {"", {path}, "m"}, options); }));
    return checked;
  };
  std::vector<TensorToWrite> tensors = good_tensors();
  tensors.pop_back();
  CHECK_EQUAL(message(tensors), path + ": linear.bias: expected a tensor of shape (2), got none");
  tensors.push_back(floats("linear.bias", {3}, {1, 2, 3}));
  CHECK_EQUAL(message(tensors), path + ": linear.bias: expected shape (2), got (3)");
  tensors = good_tensors();
  tensors[0] = floats("conv.weight", {2, 1, 3, 2}, kTwelve);
  CHECK_EQUAL(message(tensors),
              path + ": conv.weight: expected shape (2, 2, 1, 3), got (2, 1, 3, 2)");
  tensors = good_tensors();
  tensors.push_back(floats("extra", {1}, {1}));
  CHECK_EQUAL(
      message(tensors),
      path + ": extra: expected only tensors that the config asks for, got this one of shape (1)");
  tensors.back() = floats("embeddings.position_ids", {1}, {1});
  CHECK_EQUAL(message(tensors), std::string());
  tensors.back() = floats("old.linear.bias", {2}, {1, 1});
  LoadOptions options;
  options.rename = [](const std::string& name) {
    return name.starts_with("old.") ? name.substr(4) : name;
  };
  CHECK(message(tensors, options).find("expected one tensor for linear.bias, got another") !=
        std::string::npos);
  CHECK_THROWS(load_parameters(model.store, {"", {}, "m"}), Code::InvalidArgument);
}
