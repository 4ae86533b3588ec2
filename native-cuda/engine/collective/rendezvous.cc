#include "collective/rendezvous.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <thread>

namespace spindle {

namespace {

constexpr const char* kGreeting = "spindle ranks 1";
// Whoever connects and then says nothing must not keep the others waiting.
constexpr double kGreetingSeconds = 5;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines(1);
  for (char c : text) {
    if (c == '\n')
      lines.emplace_back();
    else
      lines.back() += c;
  }
  return lines;
}

struct Hello {
  int rank = -1;
  std::string address;  // where it listens for ranks above it
};

std::string hello(const RankGroup& group, const std::string& address) {
  return cat(kGreeting, "\n", group.token, "\n", group.world_size, "\n", group.rank, "\n", address);
}

// In a time that says nothing about where the two differ.
bool same_token(const std::string& given, const std::string& expected) {
  volatile size_t difference = given.size() ^ expected.size();
  for (size_t i = 0; i < given.size() && !expected.empty(); ++i)
    difference = difference | size_t(given[i] ^ expected[i % expected.size()]);
  return difference == 0;
}

// Nothing from strangers and leftovers of an earlier group.
std::optional<Hello> read_hello(const Socket& socket,
                                const RankGroup& group,
                                const CancelToken* cancel) {
  std::vector<std::string> lines;
  try {
    lines = lines_of(
        receive_text(socket, "a caller",
                     Patience::limit(std::min(kGreetingSeconds, group.timeout_seconds), cancel)));
  } catch (const Error& e) {
    if (e.code() != Code::Unavailable) throw;
    return std::nullopt;
  }
  if (lines.size() != 5 || lines[0] != kGreeting || !same_token(lines[1], group.token) ||
      lines[2] != std::to_string(group.world_size))
    return std::nullopt;
  Hello h{-1, lines[4]};
  const std::string& digits = lines[3];
  if (std::from_chars(digits.data(), digits.data() + digits.size(), h.rank).ec != std::errc() ||
      h.rank <= group.rank || h.rank >= group.world_size)
    return std::nullopt;
  return h;
}

class Meeting {
 public:
  Meeting(const RankGroup& group, const CancelToken* cancel)
      : group_(group),
        cancel_(cancel),
        patience_(group.timeout_seconds, cancel),
        sockets_(size_t(group.world_size)),
        addresses_(size_t(group.world_size)) {}

  std::vector<Socket> meet() {
    if (group_.rank == 0)
      lead();
    else
      join();
    return std::move(sockets_);
  }

 private:
  std::string name(int rank) const { return cat("rank ", rank, " of ", group_.world_size); }

  void lead() {
    Address address = Address::parse(group_.address);
    Listener listener = listen_at(address);
    accept_above(listener);
    std::string table;
    for (const std::string& a : addresses_) table += a + "\n";
    for (int r = 1; r < group_.world_size; ++r)
      send_text(sockets_[size_t(r)], name(r), table, patience_);
    if (address.local) unlink(address.host.c_str());
  }

  void join() {
    Address leader = Address::parse(group_.address);
    while (!(sockets_[0] = connect_to(leader, patience_))) {
      if (!patience_.left())
        throw Error(Code::Unavailable,
                    cat("[ranks] ", name(0), " at ", leader.text(), ": expected it within ",
                        group_.timeout_seconds, " s, got no answer"));
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    Listener listener =
        listen_at(leader.local ? Address{true, cat(leader.host, ".", group_.rank), ""}
                               : Address{false, local_host(sockets_[0]), "0"});
    send_text(sockets_[0], name(0), hello(group_, listener.address.text()), patience_);
    std::vector<std::string> table = lines_of(receive_text(sockets_[0], name(0), patience_));
    if (table.size() < size_t(group_.world_size))
      throw Error(Code::Unavailable, cat("[ranks] ", name(0), ": expected ", group_.world_size,
                                         " addresses, got ", table.size()));
    for (int r = 1; r < group_.rank; ++r) {
      sockets_[size_t(r)] = connect_to(Address::parse(table[size_t(r)]), patience_);
      if (!sockets_[size_t(r)])
        throw Error(Code::Unavailable, cat("[ranks] ", name(r), " at ", table[size_t(r)],
                                           ": expected it to listen, got no answer"));
      send_text(sockets_[size_t(r)], name(r), hello(group_, "-"), patience_);
    }
    accept_above(listener);
    if (leader.local) unlink(listener.address.host.c_str());
  }

  void accept_above(const Listener& listener) {
    for (int missing = group_.world_size - 1 - group_.rank; missing > 0;) {
      Socket socket = accept_from(listener, patience_);
      // Also where strangers come without end.
      if (!patience_.left())
        throw Error(Code::Unavailable, cat("[ranks] ", absent(), ": expected within ",
                                           group_.timeout_seconds, " s, did not come"));
      if (!socket) continue;
      std::optional<Hello> h = read_hello(socket, group_, cancel_);
      if (!h || sockets_[size_t(h->rank)]) continue;
      sockets_[size_t(h->rank)] = std::move(socket);
      addresses_[size_t(h->rank)] = h->address;
      --missing;
    }
  }

  std::string absent() const {
    std::string names;
    for (int r = group_.rank + 1; r < group_.world_size; ++r)
      if (!sockets_[size_t(r)]) names += (names.empty() ? "" : ", ") + name(r);
    return names;
  }

  const RankGroup& group_;
  const CancelToken* cancel_;
  Patience patience_;  // for all of it together
  std::vector<Socket> sockets_;
  std::vector<std::string> addresses_;
};

}  // namespace

std::vector<Socket> meet(const RankGroup& group, const CancelToken* cancel) {
  require(group.world_size >= 1 && group.rank >= 0 && group.rank < group.world_size,
          "[ranks] rank: expected 0 to ", group.world_size - 1, ", got ", group.rank);
  require(group.token.find('\n') == std::string::npos,
          "[ranks] token: expected one line, got several");
  require(group.timeout_seconds > 0, "[ranks] timeout: expected more than 0 s, got ",
          group.timeout_seconds);
  return Meeting(group, cancel).meet();
}

}  // namespace spindle
