#include "../isa.h"

#if defined(TIERCEL_ISA_AMX)
#include "attention_narrow.h"
#include "attention_tiles.h"
#include "attention_wide.h"
#include "tiled_kv.h"

namespace tiercel::TIERCEL_ISA::tiled {

int64_t value_floats(const PagedKv& kv) { return padded_dims(kv); }

int64_t query_bytes(const PagedKv& kv) { return kMaxColumns * padded_dims(kv) * 2; }

int64_t scratch_bytes(const PagedKv& kv) {
    return std::max(TiledKv::scratch_bytes(kv) + wide_scratch_bytes(kv), narrow_scratch_bytes(kv));
}

void put_query(const PagedKv& kv, const float* row, int64_t column, int64_t columns, uint8_t* queries) {
    if (columns <= kFewColumns) put_narrow_query(kv, row, column, columns, queries);
    else put_wide_query(kv, row, column, columns, queries);
}

void attend_split(const Split& split, const uint8_t* queries, uint8_t* memory, const Partial& partial) {
    if (split.columns <= kFewColumns) return attend_narrow_split(split, queries, memory, partial);
    TiledKv kv(split, memory);
    attend_wide(split, kv, reinterpret_cast<const bf16*>(queries), memory + TiledKv::scratch_bytes(split.kv), partial);
}

void in_order(const PagedKv& kv, int64_t columns, const float* from, float* to) {
    if (columns <= kFewColumns) narrow_in_order(kv, from, to);
    else wide_in_order(kv, from, to);
}

}  // namespace tiercel::TIERCEL_ISA::tiled
#endif
