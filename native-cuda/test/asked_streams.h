// kernels/cuda/runtime.h's streams and events for one test program, which write down what they are
// asked.
#pragma once
#include <string>
#include <vector>

#include "kernels/cuda/runtime.h"

struct CUstream_st {
  std::string name;
};
struct CUevent_st {
  std::string behind;  // the stream's name, once recorded
};

namespace asked_streams {

inline std::vector<std::string> asked;
inline bool pending = false;  // the last event is never reached

inline std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

}  // namespace asked_streams

namespace spindle::cuda {

using asked_streams::asked;

Stream create_stream() { return new CUstream_st{"new"}; }
void destroy_stream(Stream stream) noexcept {
  asked.push_back("destroy " + stream->name);
  delete stream;
}
void synchronize(Stream stream) { asked.push_back("synchronize " + stream->name); }
Event create_event() { return new CUevent_st; }
void destroy_event(Event event) noexcept { delete event; }
void record(Event event, Stream stream) {
  event->behind = stream->name;
  asked.push_back("record " + stream->name);
}
void wait(Stream stream, Event event) {
  asked.push_back(stream->name + " waits for " + event->behind);
}
bool reached(Event event) {
  asked.push_back("look at " + event->behind);
  return !asked_streams::pending;
}

}  // namespace spindle::cuda
