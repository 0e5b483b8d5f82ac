// A split of a unit of at most sixteen columns, as decode has them, with tiles as narrow as that: reading K and V is
// what takes the time.
#pragma once

#include "attention_split.h"

#if defined(TIERCEL_ISA_AMX)
namespace tiercel::TIERCEL_ISA::tiled {

// The columns of the tiles that so many columns are computed in.
inline int narrow_columns(int64_t columns) { return columns <= 4 ? 4 : columns <= 8 ? 8 : 16; }

int64_t narrow_scratch_bytes(const PagedKv& kv);

// As put_query() and attend_split() of attention_bf16.h. The thread's tiles are a `ColumnTiles` of
// narrow_columns().
void put_narrow_query(const PagedKv& kv, const float* row, int64_t column, int64_t columns, uint8_t* queries);
void attend_narrow_split(const Split& split, const uint8_t* queries, uint8_t* scratch, const Partial& partial);

}  // namespace tiercel::TIERCEL_ISA::tiled
#endif
