// When ranks' values travel between devices: what is asked of the streams, in which order. Streams,
// events and the link (NCCL's place) are made up here; they write down what they are asked.
#include "kernels/cuda/device_collective.h"

#include "asked_streams.h"
#include "check.h"

using namespace spindle;
using namespace asked_streams;

namespace {

struct FakeHosts : Collective {
  explicit FakeHosts(double timeout) : timeout(timeout) {}
  int rank() const override { return 1; }
  int world_size() const override { return 2; }
  double timeout_seconds() const override { return timeout; }
  void start_all_reduce(const std::vector<FloatRange>&) override { asked.push_back("hosts sum"); }
  void wait(const CancelToken*) override { asked.push_back("hosts wait"); }
  void broadcast(FloatRange, const CancelToken*) override { asked.push_back("hosts broadcast"); }
  std::vector<std::string> gather(std::string_view mine, const CancelToken*) override {
    return {"first", std::string(mine)};
  }
  double timeout;
};

struct FakeLink : cuda::RankLink {
  explicit FakeLink(const bool& lost) : lost(lost) {}
  ~FakeLink() override { asked.push_back("link gone"); }
  void all_reduce(const std::vector<FloatRange>& ranges, cuda::Stream stream) override {
    asked.push_back(cat("sum of ", ranges.size(), " on ", stream->name));
  }
  void broadcast(FloatRange range, cuda::Stream stream) override {
    asked.push_back(cat("broadcast of ", range.count, " on ", stream->name));
  }
  void check() override {
    if (lost) throw Error(Code::Unavailable, "rank 0 is lost");
  }
  void abort() noexcept override { asked.push_back("abort"); }
  const bool& lost;
};

struct Group {
  explicit Group(double timeout = 5) {
    asked.clear();
    pending = false;
    ranks = cuda::make_device_collective(std::make_unique<FakeHosts>(timeout),
                                         std::make_unique<FakeLink>(lost), &compute);
  }
  void expect(const std::vector<std::string>& expected) {
    CHECK_EQUAL(joined(asked), joined(expected));
    asked.clear();
  }
  CUstream_st compute{"compute"};
  bool lost = false;
  float values[4] = {};
  std::unique_ptr<Collective> ranks;
};

}  // namespace

TEST("a bucket is summed behind the gradients it has, and what comes after wait() behind its sum") {
  Group g;
  g.ranks->start_all_reduce({{g.values, 2}, {g.values + 3, 1}});
  g.ranks->start_all_reduce({{g.values + 2, 1}});
  g.expect({"record compute", "new waits for compute", "sum of 2 on new", "record compute",
            "new waits for compute", "sum of 1 on new"});
  g.ranks->wait(nullptr);
  g.expect({"record new", "look at new", "compute waits for new"});
  g.ranks->broadcast({g.values, 4}, nullptr);
  g.expect({"record compute", "new waits for compute", "broadcast of 4 on new", "record new",
            "look at new", "compute waits for new"});
  CHECK_EQUAL(g.ranks->gather("second", nullptr)[1], std::string("second"));
  g.ranks.reset();
  g.expect({"abort", "synchronize new", "link gone", "destroy new"});
}

TEST(
    "a lost rank, silence and a cancelled call break the group off before the device is waited "
    "for") {
  for (const char* how : {"lost", "silent", "cancelled"})
    check::each(how, [&] {
      Group g(std::string(how) == "silent" ? 0 : 1e9);
      g.ranks->start_all_reduce({{g.values, 4}});
      asked.clear();
      pending = true;
      CancelToken token;
      if (std::string(how) == "lost") g.lost = true;
      if (std::string(how) == "cancelled") token.cancel();
      CHECK_THROWS(g.ranks->wait(&token),
                   std::string(how) == "cancelled" ? Code::Cancelled : Code::Unavailable);
      // The computing stream never comes behind sums that are not there.
      std::vector<std::string> end(asked.end() - 3, asked.end());
      CHECK_EQUAL(joined(end), joined({"abort", "synchronize new", "link gone"}));
      for (const std::string& each : asked) CHECK(each != "compute waits for new");
      CHECK_THROWS(g.ranks->start_all_reduce({{g.values, 4}}), Code::Unavailable);
      CHECK_THROWS(g.ranks->wait(nullptr), Code::Unavailable);
    });
}

TEST("a sum that ended with a failure is none") {
  Group g;
  g.ranks->start_all_reduce({{g.values, 4}});
  g.lost = true;
  CHECK_THROWS(g.ranks->wait(nullptr), Code::Unavailable);
  for (const std::string& each : asked) CHECK(each != "compute waits for new");
}
