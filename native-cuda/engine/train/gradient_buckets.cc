#include "train/gradient_buckets.h"

#include <algorithm>

namespace spindle {

GradientBuckets::GradientBuckets(ParameterStore& store, Collective& ranks, int64_t bucket_bytes)
    : store_(store), ranks_(ranks), bucket_bytes_(bucket_bytes), uses_(store.parameters().size()) {
  require(bucket_bytes > 0, "[train] bucket_bytes: expected more than 0, got ", bucket_bytes);
  store_.watch(&touched_);
}

GradientBuckets::~GradientBuckets() { store_.watch(nullptr); }

void GradientBuckets::begin(bool last) {
  last_ = last;
  sent_ = 0;
  overlapped_ = 0;
  touched_.clear();
  for (Use& use : uses_) use.seen = 0;
  for (Bucket& bucket : buckets_) bucket.final = 0;
}

void GradientBuckets::node_done() {
  for (Parameter* p : touched_) {
    Use& use = uses_[size_t(p->place)];
    ++use.seen;
    if (buckets_.empty()) {
      order_.push_back(p);
      continue;
    }
    ensure(use.seen <= use.planned, "[train] ", p->name,
           ": its gradient was written after it had been sent to the other ranks");
    if (use.seen == use.planned) ++buckets_[use.bucket].final;
  }
  touched_.clear();
  if (last_) send_final();
}

void GradientBuckets::send_final() {
  while (sent_ < buckets_.size() && buckets_[sent_].final == buckets_[sent_].parameters) {
    ranks_.start_all_reduce(buckets_[sent_++].ranges);
    ++overlapped_;
  }
}

void GradientBuckets::end() {
  if (buckets_.empty()) plan();
  if (!last_) return;
  // Gradients that this backward did not reach (again).
  while (sent_ < buckets_.size()) ranks_.start_all_reduce(buckets_[sent_++].ranges);
}

void GradientBuckets::plan() {
  // By last use; those that no backward reaches come last, and leave at the end of it, when they
  // have been zeroed.
  std::vector<Parameter*> done;
  std::vector<int64_t> left(uses_.size());
  for (size_t i = 0; i < uses_.size(); ++i) left[i] = uses_[i].planned = uses_[i].seen;
  for (Parameter* p : order_)
    if (--left[size_t(p->place)] == 0) done.push_back(p);
  for (Parameter& p : store_.parameters())
    if (uses_[size_t(p.place)].planned == 0) done.push_back(&p);
  order_ = {};
  std::vector<std::vector<Parameter*>> groups;
  int64_t bytes = bucket_bytes_;
  for (Parameter* p : done) {
    if (bytes >= bucket_bytes_) {
      groups.emplace_back();
      bytes = 0;
    }
    groups.back().push_back(p);
    bytes += int64_t(p->grad.bytes());
  }
  for (std::vector<Parameter*>& group : groups) {
    Bucket bucket;
    for (Parameter* p : group) {
      uses_[size_t(p->place)].bucket = buckets_.size();
      ++bucket.parameters;
    }
    std::sort(group.begin(), group.end(),
              [](const Parameter* a, const Parameter* b) { return a->offset < b->offset; });
    for (Parameter* p : group) {
      float* data = p->grad.f32();
      // Neighbours in the arena travel together; the few zeros between them do not matter.
      if (!bucket.ranges.empty() &&
          data - (bucket.ranges.back().data + bucket.ranges.back().count) < 16)
        bucket.ranges.back().count = data + p->grad.numel() - bucket.ranges.back().data;
      else
        bucket.ranges.push_back({data, p->grad.numel()});
    }
    buckets_.push_back(std::move(bucket));
  }
}

}  // namespace spindle
