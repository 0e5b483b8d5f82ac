// A split with AMX for units of more than 16 columns: scores as Q K^T, a row per column, so that what goes along tokens
// is a vector and the softmax's weights are a left operand as they come.
#pragma once

#include "attention_split.h"
#include "packed_kv.h"

namespace tiercel::TIERCEL_ISA::tiled {

int64_t wide_scratch_bytes();

// As put_query() of attention_bf16.h.
void put_wide_query(const PagedKv& kv, const float* row, int64_t column, uint8_t* queries);

// `queries`: [columns of whole tiles][padded dims].
void attend_wide(const Split& split, PackedSplits& packed, const uint8_t* queries, uint8_t* scratch,
                 const Partial& partial);

}  // namespace tiercel::TIERCEL_ISA::tiled
