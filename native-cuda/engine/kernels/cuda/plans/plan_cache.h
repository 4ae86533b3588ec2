// Which algorithm a library took for which shape, remembered: in a file per kind of GPU and library
// versions, and as text that a checkpoint can hold, so that a resumed run computes the same bytes.
// Host code, no CUDA.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace spindle::cuda {

// Whatever may change what a choice means, or which is best.
struct PlanEnvironment {
  std::string gpu;           // e.g. "NVIDIA H200"
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  int driver = 0, runtime = 0;  // as CUDA numbers them: 13000 is 13.0
  uint64_t cublaslt = 0, cudnn = 0;

  // One line, the same for equal environments only.
  std::string text() const;
  // Name of the file of this environment: letters, digits, dashes.
  std::string file_name() const;
};

// Keys and choices are single lines without tabs. Not safe for several threads at a time; several
// processes may share a folder.
class PlanCache {
 public:
  // An empty folder keeps the choices in memory only. A file that is missing, damaged or of another
  // format counts as empty and is written anew; note() says so.
  PlanCache(const std::string& directory, PlanEnvironment environment);
  // Writes what is new; a failure to do so is no error, as the next process finds the same plans
  // itself.
  ~PlanCache();
  PlanCache(const PlanCache&) = delete;

  // What was chosen for that key, pinned choices first.
  std::optional<std::string> find(const std::string& key);
  // A choice made now. Throws Error(Internal) if another one is pinned.
  void remember(const std::string& key, const std::string& choice);
  // A remembered choice that the library does not take any more. Throws Error(DataLoss) if it was
  // pinned.
  void forget(const std::string& key, const std::string& why);
  // Atomically, with what other processes have written in the meantime. Returns false when the
  // folder cannot be written.
  bool save();

  // The choices that are pinned or were used so far, for a checkpoint; empty: none.
  std::string pins() const;
  // Takes a checkpoint's choices over everything else. Returns an empty text, or, if they come from
  // another environment, a sentence that names both: its bytes cannot be repeated here, and nothing
  // is pinned then. Throws Error(DataLoss) if the text is damaged.
  std::string pin(const std::string& text);
  // Counts calls of pin() that changed something: plans made before then are to be made again.
  uint64_t generation() const { return generation_; }

  const std::string& path() const { return path_; }  // empty: none
  const std::string& note() const { return note_; }
  size_t size() const { return choices_.size(); }

 private:
  using Choices = std::map<std::string, std::string>;
  std::string format(const Choices& choices) const;
  // Throws Error with a reason.
  static Choices parse(const std::string& text, const std::string& environment);
  Choices read_file() const;

  PlanEnvironment environment_;
  std::string path_, note_;
  Choices choices_, pinned_, used_;
  bool changed_ = false;
  uint64_t generation_ = 0;
};

}  // namespace spindle::cuda
