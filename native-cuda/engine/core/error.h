// Typed errors. Everything the engine refuses is an Error with a code and one sentence; nothing
// exits or aborts.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace spindle {

enum class Code {
  InvalidArgument,
  NotFound,
  DataLoss,
  ResourceExhausted,
  Cancelled,
  Diverged,
  Unavailable,
  Internal
};

const char* code_name(Code code);

class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  Code code() const { return code_; }

 private:
  Code code_;
};

// Joins its arguments into one string.
template <class... Args>
std::string cat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

// Refuses bad input: the message says where, what was expected and what was got.
template <class... Args>
void require(bool condition, const Args&... message) {
  if (!condition) [[unlikely]]
    throw Error(Code::InvalidArgument, cat(message...));
}

// For bugs of ours, not for inputs.
template <class... Args>
void ensure(bool condition, const Args&... message) {
  if (!condition) [[unlikely]]
    throw Error(Code::Internal, cat(message...));
}

}  // namespace spindle
