#include "kernels/cuda/plans/plan_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/error.h"

namespace spindle::cuda {

namespace {

constexpr const char* kFormat = "spindle-plans 1";

// FNV-1a: names and damage, not enemies.
uint64_t digest(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : text) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

std::string hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

bool is_line(const std::string& text) {
  return !text.empty() && text.find_first_of("\t\n\r") == std::string::npos;
}

}  // namespace

std::string PlanEnvironment::text() const {
  std::string name = gpu;
  for (char& c : name)
    if (c == '\t' || c == '\n' || c == '\r') c = ' ';
  return cat(name, ", sm ", major, ".", minor, ", ", multiprocessors, " multiprocessors, driver ",
             driver, ", runtime ", runtime, ", cublaslt ", cublaslt, ", cudnn ", cudnn);
}

std::string PlanEnvironment::file_name() const {
  std::string name;
  for (char c : gpu) {
    bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (plain)
      name += c;
    else if (!name.empty() && name.back() != '-')
      name += '-';
  }
  return cat(name.empty() ? "gpu" : name, "-", hex(digest(text())), ".plans");
}

PlanCache::PlanCache(const std::string& directory, PlanEnvironment environment)
    : environment_(std::move(environment)) {
  if (directory.empty()) return;
  path_ = (std::filesystem::path(directory) / environment_.file_name()).string();
  try {
    choices_ = read_file();
    note_ = cat(choices_.size(), " plans read");
  } catch (const Error& error) {
    note_ = cat(path_, ": ", error.what(), "; it is written anew");
    changed_ = true;
  }
}

PlanCache::~PlanCache() {
  try {
    save();
  } catch (...) {
    // the plans are found again
  }
}

std::optional<std::string> PlanCache::find(const std::string& key) {
  for (const Choices* choices : {&pinned_, &choices_})
    if (auto it = choices->find(key); it != choices->end()) {
      used_[key] = it->second;
      return it->second;
    }
  return std::nullopt;
}

void PlanCache::remember(const std::string& key, const std::string& choice) {
  ensure(is_line(key) && is_line(choice), "[plans] a key or choice is not one line: ", key);
  auto it = pinned_.find(key);
  ensure(it == pinned_.end() || it->second == choice, "[plans] ", key, ": chose ", choice,
         ", but the checkpoint pins another algorithm");
  used_[key] = choice;
  auto [entry, added] = choices_.try_emplace(key, choice);
  if (added || entry->second != choice) changed_ = true;
  entry->second = choice;
}

void PlanCache::forget(const std::string& key, const std::string& why) {
  if (pinned_.count(key))
    throw Error(Code::DataLoss,
                cat("[plans] ", key, ": the algorithm that the checkpoint pins cannot be used (",
                    why, "): resume with the same GPU, driver and libraries, or begin again"));
  used_.erase(key);
  if (choices_.erase(key)) changed_ = true;
}

std::string PlanCache::format(const Choices& choices) const {
  std::string text = cat(kFormat, "\n", environment_.text(), "\n");
  for (const auto& [key, choice] : choices) text += cat(key, "\t", choice, "\n");
  return cat(text, "end ", hex(digest(text)), "\n");
}

PlanCache::Choices PlanCache::parse(const std::string& text, const std::string& environment) {
  auto refuse = [](const std::string& why) { throw Error(Code::DataLoss, why); };
  size_t end = text.rfind("end ");
  if (text.compare(0, std::string(kFormat).size() + 1, cat(kFormat, "\n")) != 0)
    refuse("not a file of plans of this format");
  if (end == std::string::npos ||
      text.substr(end) != cat("end ", hex(digest(text.substr(0, end))), "\n"))
    refuse("the plans are damaged");
  std::istringstream lines(text.substr(0, end));
  std::string line;
  std::getline(lines, line);
  std::getline(lines, line);
  if (line != environment)
    throw Error(Code::InvalidArgument,
                cat("the plans are those of ", line, "; this is ", environment));
  Choices choices;
  while (std::getline(lines, line)) {
    size_t tab = line.find('\t');
    if (tab == std::string::npos) refuse("the plans are damaged");
    choices[line.substr(0, tab)] = line.substr(tab + 1);
  }
  return choices;
}

PlanCache::Choices PlanCache::read_file() const {
  std::ifstream in(path_, std::ios::binary);
  if (!in) return {};
  std::stringstream text;
  text << in.rdbuf();
  return parse(text.str(), environment_.text());
}

bool PlanCache::save() {
  if (path_.empty() || !changed_) return true;
  std::error_code failed;
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), failed);
  Choices all = choices_;
  try {
    all.merge(read_file());
  } catch (const Error&) {
    // damaged: replaced
  }
  std::string text = format(all), part = cat(path_, ".", getpid(), ".part");
  int file = open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) return false;
  bool written = write(file, text.data(), text.size()) == ssize_t(text.size());
  written = close(file) == 0 && written;
  if (!written || rename(part.c_str(), path_.c_str()) != 0) {
    unlink(part.c_str());
    return false;
  }
  changed_ = false;
  return true;
}

std::string PlanCache::pins() const {
  Choices all = used_;
  all.insert(pinned_.begin(), pinned_.end());
  return all.empty() ? std::string() : format(all);
}

std::string PlanCache::pin(const std::string& text) {
  try {
    pinned_ = parse(text, environment_.text());
  } catch (const Error& error) {
    if (error.code() == Code::InvalidArgument) return error.what();
    throw Error(error.code(),
                cat("[plans] the checkpoint's algorithms cannot be used: ", error.what()));
  }
  used_.clear();
  ++generation_;
  return {};
}

}  // namespace spindle::cuda
