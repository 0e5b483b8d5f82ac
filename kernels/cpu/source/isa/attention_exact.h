// A split in fp32 with plain vectors, for all instruction sets and types. A vector holds columns: scores are products of
// broadcast elements of K with vectors of Q, and softmax works lane by lane.
#pragma once

#include "attention_split.h"

namespace tiercel::TIERCEL_ISA::exact {

constexpr int64_t kMaxColumns = 128;

int64_t value_floats(const PagedKv& kv);
int64_t query_bytes(const PagedKv& kv);  // of kMaxColumns
int64_t scratch_bytes(const PagedKv& kv);

// Column `column` of `columns`: head_dim floats of `row` into the layout that attend_split wants. The
// caller has zeroed it, unless all its columns are there.
void put_query(const PagedKv& kv, const float* row, int64_t column, int64_t columns, uint8_t* queries);

void attend_split(const Split& split, const uint8_t* queries, uint8_t* scratch, const Partial& partial);

}  // namespace tiercel::TIERCEL_ISA::exact
