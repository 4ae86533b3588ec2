// A small test frame: TEST("sentence") { CHECK(...); } in one source file per program; this header
// has the main function. A program takes words as arguments and runs the tests whose names have one
// of them; it ends with "N passed, N failed".
#pragma once
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "core/error.h"

// What the sanitizers' runtimes read when they start. Running out of memory is tested too: it is
// for the engine to report.
extern "C" {
__attribute__((visibility("default"), used)) const char* __asan_default_options() {
  return "allocator_may_return_null=1";
}
__attribute__((visibility("default"), used)) const char* __tsan_default_options() {
  return "allocator_may_return_null=1:halt_on_error=1:second_deadlock_stack=1";
}
}

namespace check {

struct Test {
  std::string name;
  std::function<void()> body;
};

struct State {
  std::vector<Test> tests;
  std::vector<std::string> words;
  std::string current;
  int passed = 0, failed = 0;
  bool failing = false;
  // Why none of these tests can run here ("no device"), and whose they are ("cuda"); set before
  // main.
  std::function<std::string()> why_not;
  std::string whose;
};

inline State& state() {
  static State s;
  return s;
}

inline void fail(const char* file, int line, const std::string& what) {
  state().failing = true;
  std::fprintf(stderr, "%s:%d: %s\n    in: %s\n", file, line, what.c_str(),
               state().current.c_str());
}

inline void run(const Test& test) {
  State& s = state();
  std::string outer = s.current;
  bool outer_failing = s.failing;
  s.current = test.name;
  s.failing = false;
  try {
    test.body();
  } catch (const std::exception& e) {
    fail("exception", 0, e.what());
  }
  ++(s.failing ? s.failed : s.passed);
  s.current = outer;
  s.failing = outer_failing;
}

// A named test within a test, for rows of a table.
inline void each(const std::string& name, std::function<void()> body) {
  run({state().current + ": " + name, std::move(body)});
}

struct Register {
  Register(const char* name, void (*body)()) { state().tests.push_back({name, body}); }
};

inline bool wanted(const std::string& name) {
  if (state().words.empty()) return true;
  for (const std::string& word : state().words)
    if (name.find(word) != std::string::npos) return true;
  return false;
}

template <class F>
void throws(const char* file, int line, const char* text, spindle::Code code, F&& f) {
  try {
    f();
  } catch (const spindle::Error& e) {
    if (e.code() != code)
      fail(file, line,
           std::string(text) + ": expected " + code_name(code) + ", got " + code_name(e.code()) +
               ": " + e.what());
    return;
  }
  fail(file, line, std::string(text) + ": expected " + code_name(code) + ", got no error");
}

// The message of the error that f throws.
template <class F>
std::string message(F&& f) {
  try {
    f();
  } catch (const spindle::Error& e) {
    return e.what();
  }
  return "no error";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace check

#define CHECK_JOIN2(a, b) a##b
#define CHECK_JOIN(a, b) CHECK_JOIN2(a, b)
#define TEST(name)                                                                            \
  static void CHECK_JOIN(test_, __LINE__)();                                                  \
  static const check::Register CHECK_JOIN(register_, __LINE__){name,                          \
                                                               &CHECK_JOIN(test_, __LINE__)}; \
  static void CHECK_JOIN(test_, __LINE__)()
#define CHECK(condition)                                           \
  do {                                                             \
    if (!(condition)) check::fail(__FILE__, __LINE__, #condition); \
  } while (0)
// With a message, made of values, that is only joined when the check fails.
#define CHECK_THAT(condition, ...)                                                       \
  do {                                                                                   \
    if (!(condition))                                                                    \
      check::fail(__FILE__, __LINE__, spindle::cat(#condition, " (", __VA_ARGS__, ")")); \
  } while (0)
#define CHECK_EQUAL(a, b)                                                           \
  do {                                                                              \
    const auto check_a = (a); /* copies: `a` may refer into a temporary */          \
    const auto check_b = (b);                                                       \
    if (!(check_a == check_b))                                                      \
      check::fail(__FILE__, __LINE__,                                               \
                  spindle::cat(#a " == " #b " (", check_a, " and ", check_b, ")")); \
  } while (0)
#define CHECK_THROWS(expression, code) \
  check::throws(__FILE__, __LINE__, #expression, code, [&] { static_cast<void>(expression); })

int main(int argc, char** argv) {
  check::state().words.assign(argv + 1, argv + argc);
  if (std::string why = check::state().why_not ? check::state().why_not() : std::string();
      !why.empty()) {
    std::printf("%s: %s, %zu cases not run\n0 passed, 0 failed\n", check::state().whose.c_str(),
                why.c_str(), check::state().tests.size());
    return 0;
  }
  for (const check::Test& test : check::state().tests)
    if (check::wanted(test.name)) check::run(test);
  std::printf("%d passed, %d failed\n", check::state().passed, check::state().failed);
  return check::state().failed == 0 ? 0 : 1;
}
