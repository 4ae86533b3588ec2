// What the inner loops of attention with queries in lanes (attention_lanes.inl) are called with.
#pragma once
#include <cstdint>

namespace spindle::cpu {

// Attention of a block of queries of one head, in lanes: see attention_lanes.inl.
struct AttentionForwardCall {
  const void* q;  // the first query; o has the same stride
  void* o;
  float* lse;
  int64_t stride, queries, d;  // elements between rows; 1 .. attention_queries
  int64_t first;               // index of the first query: matters where `causal`
  const float *k, *v;  // all keys by attention_rows, values by attention_row_pairs with ld = d
  int64_t keys;
  float scale;  // above zero
  bool causal;
  float* scratch;  // attention_queries * (2 d + attention_keys) floats, on a cache line
};

// What attention_gradient wants of a block of queries; `buffer` holds width * d floats. q_rows may
// be null: no gradients of keys.
struct AttentionQueries {
  const void *q, *o, *d_o;  // the first query
  const float* lse;
  int64_t stride, queries, d, ld;
  float *q_lanes, *do_lanes;  // [pair of d][queries up to whole vectors]
  float *q_rows, *do_rows;    // [pair of queries][ld]
  float *lse_lanes, *delta;   // for bfloat16 in base 2; the sum of o * d_o
  float* buffer;
};
// A block of keys and a block of queries. Gradients are added to, without the factor `scale` in dq
// and dk.
struct AttentionGradient {
  const float *q, *d_o, *q_rows, *do_rows, *lse, *delta;  // of attention_gradient_queries
  int64_t queries;
  const float *k, *v, *k_pairs;  // attention_rows, and attention_row_pairs with ld = d
  int64_t keys, d, ld;           // 1 .. attention_keys; d up to whole vectors
  int64_t visible;               // query i sees key r where i >= visible + r
  float scale;
  float* dq;       // [d][queries up to whole vectors], or null
  float *dk, *dv;  // [keys][ld], or null both
  float* scratch;  // attention_queries * attention_keys * 2 floats
};

}  // namespace spindle::cpu
