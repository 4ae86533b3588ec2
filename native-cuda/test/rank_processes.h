// Runs a function in several processes, as ranks of one group.
#pragma once
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "check.h"
#include "collective/socket_collective.h"
#include "temporary.h"

namespace ranks {

using namespace spindle;

struct Outcome {
  std::string text;  // what it returned, or "CODE: message" of what it threw
  int status = 0;    // of the process: 0, or the signal that ended it
};

inline RankGroup group(const std::string& folder,
                       int rank,
                       int world,
                       double timeout_seconds = 20) {
  return {.rank = rank,
          .world_size = world,
          .address = "unix:" + folder + "/group",
          .token = "test",
          .timeout_seconds = timeout_seconds};
}

// The caller must not have threads of its own yet: they are not there in a forked process.
inline std::vector<Outcome> run(int world, const std::function<std::string(int rank)>& work) {
  std::fflush(nullptr);
  std::vector<pid_t> processes;
  std::vector<int> pipes;
  for (int rank = 0; rank < world; ++rank) {
    int ends[2];
    ensure(pipe(ends) == 0, "no pipe");
    pid_t process = fork();
    ensure(process >= 0, "no process");
    if (process == 0) {
      close(ends[0]);
      std::string text;
      try {
        text = work(rank);
      } catch (const Error& e) {
        text = cat(code_name(e.code()), ": ", e.what());
      } catch (const std::exception& e) {
        text = cat("exception: ", e.what());
      }
      for (size_t at = 0; at < text.size();) {
        ssize_t n = write(ends[1], text.data() + at, text.size() - at);
        if (n <= 0) _exit(9);
        at += size_t(n);
      }
      _exit(0);
    }
    close(ends[1]);
    processes.push_back(process);
    pipes.push_back(ends[0]);
  }
  std::vector<Outcome> outcomes;
  for (int rank = 0; rank < world; ++rank) {
    Outcome outcome;
    char buffer[1 << 14];
    for (ssize_t n; (n = read(pipes[size_t(rank)], buffer, sizeof buffer)) > 0;)
      outcome.text.append(buffer, size_t(n));
    close(pipes[size_t(rank)]);
    int status = 0;
    waitpid(processes[size_t(rank)], &status, 0);
    outcome.status = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
    outcomes.push_back(std::move(outcome));
  }
  return outcomes;
}

inline std::string bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}
inline std::vector<float> floats_of(const std::string& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

}  // namespace ranks
