// A split with products of bf16, in AMX tiles (attention_tiles.cpp) or in vectors (attention_dots.cpp); sums and softmax
// in fp32. Q, K and the softmax's weights are rounded to bf16; bf16 and FP8 elements are so exactly, and the scales of
// FP8 go to the scores and the weights.
#pragma once

#include "attention_split.h"

#if defined(TIERCEL_BF16_PRODUCTS)
#include "packed_kv.h"

namespace tiercel::TIERCEL_ISA::tiled {

constexpr int64_t kMaxColumns = 256;

int64_t value_floats(const PagedKv& kv);
int64_t query_bytes(const PagedKv& kv);  // of kMaxColumns
int64_t scratch_bytes(const PagedKv& kv);

// Column `column` of `columns`: head_dim floats of `row`, and zeros up to a multiple of 64, into the layout
// that attend_split wants. The caller has zeroed it, unless all its columns are there.
void put_query(const PagedKv& kv, const float* row, int64_t column, int64_t columns, uint8_t* queries);

void attend_split(const Split& split, PackedSplits& packed, const uint8_t* queries, uint8_t* scratch,
                  const Partial& partial);

// A column's values of a partial in the order of the head's dimensions.
void in_order(const PagedKv& kv, const float* from, float* to);

}  // namespace tiercel::TIERCEL_ISA::tiled
#endif
