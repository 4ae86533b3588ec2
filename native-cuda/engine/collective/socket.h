// Stream sockets as the ranks of a group use them: non-blocking, with everything that waits bounded
// and cancellable.
#pragma once
#include <atomic>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "core/cancel.h"

namespace spindle {

// A file descriptor; 0 or more when there is one.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();
  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// "unix:/a/path" or "tcp:host:port"; an IPv6 host in brackets.
struct Address {
  bool local = false;  // a Unix socket: `host` is its path
  std::string host, port;
  static Address parse(const std::string& text);
  std::string text() const;
};

// How long to wait for something, and what ends the waiting.
class Patience {
 public:
  Patience(double seconds, const CancelToken* cancel, const std::atomic<bool>* closing = nullptr)
      : seconds_(seconds), cancel_(cancel), closing_(closing) {}
  // Progress gains no time: for peers that may drag their feet on purpose.
  static Patience limit(double seconds, const CancelToken* cancel) {
    Patience patience(seconds, cancel);
    patience.firm_ = true;
    return patience;
  }
  void progress() {
    if (!firm_) since_ = std::chrono::steady_clock::now();
  }
  // Throws when the caller cancelled or the group closes; false when the time is over.
  bool left() const;
  double seconds() const { return seconds_; }

 private:
  double seconds_;
  const CancelToken* cancel_;
  const std::atomic<bool>* closing_;
  bool firm_ = false;
  std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
};

struct Listener {
  Socket socket;
  Address address;  // with the port that the system chose where 0 was asked for
};
// A Unix path that is there already is taken over: names of groups are fresh.
Listener listen_at(const Address& address);
// The next caller; empty when the time is over.
Socket accept_from(const Listener& listener, const Patience& patience);
// Empty when nobody listens there yet; also when the time is over.
Socket connect_to(const Address& address, const Patience& patience);
// This end's address, without its port.
std::string local_host(const Socket& socket);

// One peer's part of an exchange: both directions at once.
struct Transfer {
  const Socket* socket;
  std::string peer;  // for errors
  const char* out = nullptr;
  size_t out_left = 0;
  char* in = nullptr;
  size_t in_left = 0;
};
// Until all of it is through. Unavailable when a peer closes its end or nothing moves for as long
// as `patience` says.
void exchange(std::vector<Transfer>& transfers, Patience patience);

// Short texts, length first.
void send_text(const Socket& socket,
               const std::string& peer,
               const std::string& text,
               const Patience& patience);
std::string receive_text(const Socket& socket, const std::string& peer, const Patience& patience);

}  // namespace spindle
