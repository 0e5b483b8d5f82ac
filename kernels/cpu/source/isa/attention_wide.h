// A split with AMX for units of more than 16 columns: scores as Q K^T, a row per column, so that what goes along tokens is a
// vector and the softmax's weights are a left operand as they come.
#pragma once

#include "attention_split.h"
#include "tiled_kv.h"

namespace tiercel::TIERCEL_ISA::tiled {

int64_t wide_scratch_bytes(const PagedKv& kv);

// Sixteen rows of queries, in place, in the order of the stored dimensions.
void order_queries(const PagedKv& kv, bf16* rows);

// `queries`: [columns of whole tiles][padded dims].
void attend_wide(const Split& split, TiledKv& kv, const bf16* queries, uint8_t* scratch, const Partial& partial);

}  // namespace tiercel::TIERCEL_ISA::tiled
