// What ranks say to each other, in real processes over real sockets.
#include <thread>

#include "check.h"
#include "collective/rendezvous.h"
#include "core/rng.h"
#include "rank_processes.h"

using namespace spindle;

namespace {

std::vector<float> values_of(int rank, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  Philox(uint64_t(rank), 0).normal(values.data(), count, 0, 0, Draw::Test);
  return values;
}

// Kept apart from the code under test: every value's sum over the ranks.
std::vector<float> expected_sum(int world, int64_t count) {
  std::vector<double> sums(static_cast<size_t>(count));
  for (int r = 0; r < world; ++r) {
    std::vector<float> values = values_of(r, count);
    for (size_t i = 0; i < values.size(); ++i) sums[i] += double(values[i]);
  }
  return {sums.begin(), sums.end()};
}

void each_is_refused(const std::vector<ranks::Outcome>& outcomes, const std::string& start) {
  for (const ranks::Outcome& o : outcomes) CHECK_THAT(o.text.starts_with(start), o.text);
}

}  // namespace

TEST(
    "sums over ranks are those of the values, however many ranks there are and however the values "
    "are cut") {
  constexpr int64_t kCount = 100'003;
  for (int world : {1, 2, 3, 5})
    check::each(cat(world, " ranks"), [&] {
      ranks::TemporaryFolder folder;
      for (bool cut : {false, true}) {
        auto outcomes = ranks::run(world, [&](int rank) {
          auto c = connect_ranks(ranks::group(folder.path, rank, world), nullptr);
          std::vector<float> values = values_of(rank, kCount);
          float* v = values.data();
          if (cut) {
            c->start_all_reduce({{v, 7}, {v + 7, 0}, {v + 50'000, kCount - 50'000}});
            c->start_all_reduce({{v + 7, 1}});
            c->start_all_reduce({{v + 8, 50'000 - 8}});
          } else {
            c->start_all_reduce({{v, kCount}});
          }
          c->wait(nullptr);
          return ranks::bytes_of(values);
        });
        std::string expected = ranks::bytes_of(expected_sum(world, kCount));
        for (const ranks::Outcome& o : outcomes) CHECK(o.text == expected);
      }
    });
}

TEST("broadcasts and gathered texts arrive, over TCP too") {
  // Rank 0 asks for any free port first; the probing socket is closed again before the group uses
  // the port.
  std::string address = listen_at(Address::parse("tcp:127.0.0.1:0")).address.text();
  auto outcomes = ranks::run(3, [&](int rank) {
    auto c = connect_ranks(
        {.rank = rank, .world_size = 3, .address = address, .token = "t", .timeout_seconds = 20},
        nullptr);
    std::vector<float> values = values_of(rank, 1000);
    c->broadcast({values.data(), 1000}, nullptr);
    std::string text;
    for (const std::string& said :
         c->gather(std::string(size_t(rank), 'x') + std::to_string(rank), nullptr))
      text += said + ",";
    return text + (values == values_of(0, 1000) ? "same" : "different");
  });
  for (const ranks::Outcome& o : outcomes) CHECK_EQUAL(o.text, std::string("0,x1,xx2,same"));
}

TEST("a rank that is killed is named to the others at once") {
  ranks::TemporaryFolder folder;
  auto outcomes = ranks::run(3, [&](int rank) -> std::string {
    auto c = connect_ranks(ranks::group(folder.path, rank, 3), nullptr);
    std::vector<float> values(1'000'000);
    for (int step = 0;; ++step) {
      if (rank == 1 && step == 2) raise(SIGKILL);
      c->start_all_reduce({{values.data(), 1'000'000}});
      c->wait(nullptr);
    }
  });
  CHECK_EQUAL(outcomes[1].status, SIGKILL);
  // Rank 1's end ends the group; whoever hears of it second may hear it from the other survivor.
  for (int r : {0, 2})
    CHECK_THAT(outcomes[size_t(r)].text.starts_with("UNAVAILABLE: [ranks] ") &&
                   outcomes[size_t(r)].text.find("rank ") != std::string::npos,
               outcomes[size_t(r)].text);
  CHECK_THAT((outcomes[0].text + outcomes[2].text).find("rank 1 of 3") != std::string::npos,
             outcomes[0].text, outcomes[2].text);
}

TEST("a rank that does not come, or comes and is silent, is waited for only so long") {
  ranks::TemporaryFolder folder;
  auto absent = ranks::run(1, [&](int) {
    return connect_ranks(ranks::group(folder.path, 0, 2, 0.2), nullptr) ? "met" : "";
  });
  CHECK_EQUAL(absent[0].text,
              std::string("UNAVAILABLE: [ranks] rank 1 of 2: expected within 0.2 s, did not come"));
  auto leaderless = ranks::run(1, [&](int) {
    return connect_ranks(ranks::group(folder.path, 1, 2, 0.2), nullptr) ? "met" : "";
  });
  CHECK_EQUAL(leaderless[0].text, cat("UNAVAILABLE: [ranks] rank 0 of 2 at unix:", folder.path,
                                      "/group: expected it within 0.2 s, got no answer"));
  // Rank 1 waits for rank 0's connection to end, and says nothing meanwhile.
  auto silent = ranks::run(2, [&](int rank) -> std::string {
    std::vector<Socket> sockets = meet(ranks::group(folder.path, rank, 2, 0.3), nullptr);
    char byte;
    std::vector<Transfer> transfers = {
        {&sockets[size_t(1 - rank)], cat("rank ", 1 - rank, " of 2"), nullptr, 0, &byte, 1}};
    exchange(transfers, Patience(rank == 0 ? 0.3 : 20, nullptr));
    return "heard";
  });
  CHECK_EQUAL(
      silent[0].text,
      std::string("UNAVAILABLE: [ranks] rank 1 of 2: expected an answer within 0.3 s, got none"));
  CHECK_EQUAL(silent[1].text, std::string("UNAVAILABLE: [ranks] rank 0 of 2 ended its connection"));
}

TEST("strangers and leftovers of another group are not let in") {
  ranks::TemporaryFolder folder;
  auto outcomes = ranks::run(3, [&](int process) -> std::string {
    RankGroup group = ranks::group(folder.path, process == 0 ? 0 : 1, 2);
    if (process == 2) {
      group.token = "another group";
      group.timeout_seconds = 1;  // the others may have met before it comes
    }
    auto c = connect_ranks(group, nullptr);
    return c->gather(process == 2 ? "stranger" : "friend", nullptr)[1];
  });
  CHECK_EQUAL(outcomes[0].text, std::string("friend"));
  CHECK_EQUAL(outcomes[1].text, std::string("friend"));
  CHECK_THAT(outcomes[2].text.starts_with("UNAVAILABLE: [ranks] rank 0 of 2"), outcomes[2].text);
}

TEST("a stranger that drags its feet keeps nobody waiting for long") {
  ranks::TemporaryFolder folder;
  auto outcomes = ranks::run(2, [&](int process) -> std::string {
    if (process == 0) {
      RankGroup group = ranks::group(folder.path, 0, 2, 0.5);
      return meet(group, nullptr).empty() ? "" : "met";
    }
    // A length, then a byte at a time, and never a whole greeting.
    Address leader = Address::parse(ranks::group(folder.path, 1, 2).address);
    Socket socket;
    while (!(socket = connect_to(leader, Patience(20, nullptr)))) {
    }
    const char said[] = {0, 0, 1, 0, 's'};
    try {
      for (size_t length = sizeof said;; length = 1) {
        std::vector<Transfer> transfers = {{&socket, "rank 0", said, length}};
        exchange(transfers, Patience(20, nullptr));
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    } catch (const Error& e) {
      return code_name(e.code());
    }
  });
  CHECK_EQUAL(outcomes[0].text,
              std::string("UNAVAILABLE: [ranks] rank 1 of 2: expected within 0.5 s, did not come"));
  CHECK_EQUAL(outcomes[1].text, std::string("UNAVAILABLE"));
}

TEST("a leader that names too few ranks is refused") {
  ranks::TemporaryFolder folder;
  auto outcomes = ranks::run(2, [&](int process) -> std::string {
    RankGroup group = ranks::group(folder.path, process == 0 ? 0 : 2, 3);
    if (process == 1) return connect_ranks(group, nullptr) ? "met" : "";
    Listener listener = listen_at(Address::parse(group.address));
    Socket socket = accept_from(listener, Patience(20, nullptr));
    receive_text(socket, "rank 2", Patience(20, nullptr));
    send_text(socket, "rank 2", "unix:/x", Patience(20, nullptr));
    char byte;
    std::vector<Transfer> transfers = {{&socket, "rank 2", nullptr, 0, &byte, 1}};
    exchange(transfers, Patience(20, nullptr));
    return "heard";
  });
  CHECK_EQUAL(outcomes[1].text,
              std::string("UNAVAILABLE: [ranks] rank 0 of 3: expected 3 addresses, got 1"));
}

TEST("ranks that are not at the same operation find out") {
  ranks::TemporaryFolder folder;
  each_is_refused(ranks::run(2,
                             [&](int rank) -> std::string {
                               auto c = connect_ranks(ranks::group(folder.path, rank, 2), nullptr);
                               std::vector<float> values(10);
                               c->start_all_reduce({{values.data(), 9 + rank}});
                               c->wait(nullptr);
                               return "summed";
                             }),
                  "INTERNAL: [ranks] rank ");
}

TEST("waiting ends when it is cancelled") {
  ranks::TemporaryFolder folder;
  auto outcomes = ranks::run(2, [&](int rank) -> std::string {
    if (rank == 1) {  // comes, and then only listens until rank 0 goes
      std::vector<Socket> sockets = meet(ranks::group(folder.path, 1, 2), nullptr);
      std::string heard(1 << 20, ' ');
      std::vector<Transfer> transfers = {
          {&sockets[0], "rank 0 of 2", nullptr, 0, heard.data(), heard.size()}};
      exchange(transfers, Patience(20, nullptr));
      return "heard all";
    }
    auto c = connect_ranks(ranks::group(folder.path, 0, 2), nullptr);
    std::vector<float> values(10);
    c->start_all_reduce({{values.data(), 10}});
    CancelToken cancel;
    std::thread later([&] { cancel.cancel(); });
    std::string text;
    try {
      c->wait(&cancel);
    } catch (const Error& e) {
      text = code_name(e.code());
    }
    later.join();
    return text;
  });
  CHECK_EQUAL(outcomes[0].text, std::string("CANCELLED"));
  CHECK_EQUAL(outcomes[1].text,
              std::string("UNAVAILABLE: [ranks] rank 0 of 2 ended its connection"));
}

TEST("addresses are refused in one sentence") {
  for (const char* text : {"", "unix:relative", "tcp:", "tcp:host", "tcp:host:", "127.0.0.1:80"})
    CHECK_THROWS(Address::parse(text), Code::InvalidArgument);
  CHECK_EQUAL(Address::parse("tcp:[::1]:80").text(), std::string("tcp:[::1]:80"));
  CHECK_THROWS(
      connect_ranks({.rank = 2, .world_size = 2, .address = "unix:/x", .token = "t"}, nullptr),
      Code::InvalidArgument);
}
