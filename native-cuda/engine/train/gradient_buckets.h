// Sums gradients over the ranks while backward goes on. Buckets hold parameters in the order in
// which backward is done with them, which the first backward teaches; a bucket goes out when its
// last gradient is final. Where a parameter is used several times, its gradient is final after as
// many uses as it had then.
#pragma once
#include <vector>

#include "autograd/parameter.h"
#include "collective/collective.h"

namespace spindle {

class GradientBuckets {
 public:
  // A bucket holds at least `bucket_bytes` of gradients, but for the last one. Every rank needs the
  // same size.
  GradientBuckets(ParameterStore& store, Collective& ranks, int64_t bucket_bytes);
  ~GradientBuckets();
  GradientBuckets(const GradientBuckets&) = delete;

  // Around each backward. `last`: gradients leave as they become final; the caller waits for the
  // collective.
  void begin(bool last);
  void node_done();
  void end();

  // Buckets that left while backward was still at work, in the last step; for tests and traces.
  int64_t overlapped() const { return overlapped_; }
  int64_t count() const { return int64_t(buckets_.size()); }

 private:
  struct Use {
    int64_t planned = 0, seen = 0;  // in one backward
    size_t bucket = 0;
  };
  struct Bucket {
    std::vector<FloatRange> ranges;
    int64_t parameters = 0, final = 0;
  };
  void plan();
  void send_final();

  ParameterStore& store_;
  Collective& ranks_;
  int64_t bucket_bytes_;
  std::vector<Parameter*> touched_;  // by the node at work
  std::vector<Parameter*> order_;    // while learning: every use
  std::vector<Use> uses_;            // by place in the store
  std::vector<Bucket> buckets_;
  bool last_ = false;
  size_t sent_ = 0;
  int64_t overlapped_ = 0;
};

}  // namespace spindle
