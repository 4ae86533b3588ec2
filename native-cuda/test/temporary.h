// Files and folders that are removed at the end.
#pragma once
#include <stdlib.h>

#include <filesystem>
#include <string>

#include "core/error.h"

namespace spindle {

struct TemporaryFolder {
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "spindle-test-XXXXXX").string();
    ensure(::mkdtemp(name.data()) != nullptr, "no temporary folder");
    path = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
  std::string operator/(const std::string& file) const { return path + "/" + file; }
  std::string path;
};

// The name of a safetensors file that is not there yet.
struct TemporaryFile {
  TemporaryFolder folder;
  std::string path = folder / "values.safetensors";
};

}  // namespace spindle
