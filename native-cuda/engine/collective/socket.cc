#include "collective/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace spindle {

namespace {

constexpr int kTickMs = 50;  // how often waiting looks at what may end it
constexpr uint32_t kLongestText = 1 << 20;

[[noreturn]] void failed(const char* what, const std::string& where) {
  throw Error(Code::Unavailable, cat("[ranks] ", what, " ", where, ": ", std::strerror(errno)));
}

void make_ready(int fd, bool local) {
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  if (local) return;
  int on = 1, idle = 20, interval = 10, probes = 6;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  // A machine that vanished without a word is noticed.
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  require(path.size() < sizeof a.sun_path, "[ranks] address: expected a path of less than ",
          sizeof a.sun_path, " bytes, got ", path);
  std::memcpy(a.sun_path, path.c_str(), path.size() + 1);
  return a;
}

using Found = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

// Null when the name is not known (yet: in a cluster names come with their pods).
Found look_up(const Address& address, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* list = nullptr;
  if (getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &list) != 0) list = nullptr;
  return {list, freeaddrinfo};
}

bool wait_for(int fd, short events, const Patience& patience) {
  while (patience.left()) {
    pollfd p{fd, events, 0};
    if (poll(&p, 1, kTickMs) > 0) return true;
  }
  return false;
}

Socket connect_one(int family,
                   const sockaddr* a,
                   socklen_t size,
                   bool local,
                   const Patience& patience) {
  Socket s(socket(family, SOCK_STREAM, 0));
  if (!s) failed("opening a socket for", "a connection");
  make_ready(s.fd(), local);
  if (connect(s.fd(), a, size) == 0) return s;
  if (errno != EINPROGRESS) return {};
  int error = 0;
  socklen_t length = sizeof error;
  if (!wait_for(s.fd(), POLLOUT, patience) ||
      getsockopt(s.fd(), SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error != 0)
    return {};
  return s;
}

[[noreturn]] void gone(const std::string& peer) {
  throw Error(Code::Unavailable, cat("[ranks] ", peer, " ended its connection"));
}

// A peer that ends with our words unread resets the connection instead of closing it.
bool was_reset() { return errno == ECONNRESET || errno == EPIPE; }

bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

// Moves what can be moved now; true when anything was.
bool send_some(Transfer& t) {
  ssize_t n = send(t.socket->fd(), t.out, t.out_left, MSG_NOSIGNAL);
  if (n < 0 && would_block()) return false;
  if (n < 0 && was_reset()) gone(t.peer);
  if (n < 0) failed("sending to", t.peer);
  t.out += n;
  t.out_left -= size_t(n);
  return n > 0;
}

bool receive_some(Transfer& t) {
  ssize_t n = recv(t.socket->fd(), t.in, t.in_left, 0);
  if (n < 0 && would_block()) return false;
  if (n == 0 || (n < 0 && was_reset())) gone(t.peer);
  if (n < 0) failed("receiving from", t.peer);
  t.in += n;
  t.in_left -= size_t(n);
  return true;
}

}  // namespace

Socket::~Socket() {
  if (fd_ >= 0) close(fd_);
}

Address Address::parse(const std::string& text) {
  Address a;
  if (text.starts_with("unix:/")) {
    a.local = true;
    a.host = text.substr(5);
    return a;
  }
  size_t colon = text.rfind(':');
  require(text.starts_with("tcp:") && colon > 4 && colon + 1 < text.size(),
          "[ranks] address: expected unix:/path or tcp:host:port, got ", text);
  a.host = text.substr(4, colon - 4);
  a.port = text.substr(colon + 1);
  if (a.host.size() > 2 && a.host.front() == '[' && a.host.back() == ']')
    a.host = a.host.substr(1, a.host.size() - 2);
  return a;
}

std::string Address::text() const {
  if (local) return "unix:" + host;
  return host.find(':') == std::string::npos ? cat("tcp:", host, ":", port)
                                             : cat("tcp:[", host, "]:", port);
}

bool Patience::left() const {
  check_cancelled(cancel_);
  if (closing_ && closing_->load(std::memory_order_relaxed))
    throw Error(Code::Cancelled, "[ranks] the group was closed");
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since_).count() <
         seconds_;
}

Listener listen_at(const Address& address) {
  if (address.local) {
    sockaddr_un a = unix_address(address.host);
    unlink(address.host.c_str());
    Socket s(socket(AF_UNIX, SOCK_STREAM, 0));
    if (!s || bind(s.fd(), reinterpret_cast<sockaddr*>(&a), sizeof a) != 0 ||
        listen(s.fd(), 64) != 0)
      failed("listening at", address.text());
    make_ready(s.fd(), true);
    return {std::move(s), address};
  }
  Found found = look_up(address, AI_PASSIVE);
  if (!found)
    throw Error(Code::Unavailable,
                cat("[ranks] listening at ", address.text(), ": the host's name is not known"));
  Socket s(socket(found->ai_family, SOCK_STREAM, 0));
  int on = 1;
  if (s) setsockopt(s.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (!s || bind(s.fd(), found->ai_addr, found->ai_addrlen) != 0 || listen(s.fd(), 64) != 0)
    failed("listening at", address.text());
  make_ready(s.fd(), false);
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  getsockname(s.fd(), reinterpret_cast<sockaddr*>(&bound), &size);
  int port = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                               : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  return {std::move(s), {false, address.host, std::to_string(port)}};
}

Socket accept_from(const Listener& listener, const Patience& patience) {
  if (!wait_for(listener.socket.fd(), POLLIN, patience)) return {};
  Socket s(accept(listener.socket.fd(), nullptr, nullptr));
  if (s) make_ready(s.fd(), listener.address.local);
  return s;
}

Socket connect_to(const Address& address, const Patience& patience) {
  if (address.local) {
    sockaddr_un a = unix_address(address.host);
    return connect_one(AF_UNIX, reinterpret_cast<sockaddr*>(&a), sizeof a, true, patience);
  }
  Found found = look_up(address, 0);
  for (const addrinfo* a = found.get(); a; a = a->ai_next)
    if (Socket s = connect_one(a->ai_family, a->ai_addr, a->ai_addrlen, false, patience)) return s;
  return {};
}

std::string local_host(const Socket& socket) {
  sockaddr_storage a{};
  socklen_t size = sizeof a;
  char host[NI_MAXHOST] = "";
  getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&a), &size);
  getnameinfo(reinterpret_cast<sockaddr*>(&a), size, host, sizeof host, nullptr, 0, NI_NUMERICHOST);
  return host;
}

void exchange(std::vector<Transfer>& transfers, Patience patience) {
  std::vector<pollfd> polls;
  for (;;) {
    polls.clear();
    for (const Transfer& t : transfers)
      if (t.out_left || t.in_left)
        polls.push_back(
            {t.socket->fd(), short((t.out_left ? POLLOUT : 0) | (t.in_left ? POLLIN : 0)), 0});
    if (polls.empty()) return;
    if (!patience.left()) {
      std::string silent;
      for (const Transfer& t : transfers)
        if (t.out_left || t.in_left) silent += (silent.empty() ? "" : ", ") + t.peer;
      throw Error(Code::Unavailable, cat("[ranks] ", silent, ": expected an answer within ",
                                         patience.seconds(), " s, got none"));
    }
    if (poll(polls.data(), polls.size(), kTickMs) <= 0) continue;
    for (Transfer& t : transfers) {
      if (t.in_left && receive_some(t)) patience.progress();
      if (t.out_left && send_some(t)) patience.progress();
    }
  }
}

void send_text(const Socket& socket,
               const std::string& peer,
               const std::string& text,
               const Patience& patience) {
  uint32_t length = uint32_t(text.size());
  std::string message(reinterpret_cast<const char*>(&length), sizeof length);
  message += text;
  std::vector<Transfer> transfers = {{&socket, peer, message.data(), message.size()}};
  exchange(transfers, patience);
}

std::string receive_text(const Socket& socket, const std::string& peer, const Patience& patience) {
  uint32_t length = 0;
  std::vector<Transfer> transfers = {
      {&socket, peer, nullptr, 0, reinterpret_cast<char*>(&length), sizeof length}};
  exchange(transfers, patience);
  if (length > kLongestText)
    throw Error(Code::Unavailable, cat("[ranks] ", peer, " does not speak as a rank does"));
  std::string text(length, '\0');
  transfers = {{&socket, peer, nullptr, 0, text.data(), text.size()}};
  exchange(transfers, patience);
  return text;
}

}  // namespace spindle
