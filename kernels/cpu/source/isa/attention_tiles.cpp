#include "../isa.h"

#if defined(TIERCEL_ISA_AMX)
#include "attention_narrow.h"
#include "attention_bf16.h"
#include "attention_wide.h"

namespace tiercel::TIERCEL_ISA::tiled {

int64_t value_floats(const PagedKv& kv) { return padded_dims(kv); }

int64_t query_bytes(const PagedKv& kv) { return kMaxColumns * padded_dims(kv) * 2; }

int64_t scratch_bytes(const PagedKv& kv) {
    return std::max(wide_scratch_bytes(), narrow_scratch_bytes(kv));
}

void put_query(const PagedKv& kv, const float* row, int64_t column, int64_t columns, uint8_t* queries) {
    if (columns <= kFewColumns) put_narrow_query(kv, row, column, columns, queries);
    else put_wide_query(kv, row, column, queries);
}

void attend_split(const Split& split, PackedSplits& packed, const uint8_t* queries, uint8_t* scratch,
                  const Partial& partial) {
    if (split.columns <= kFewColumns) attend_narrow_split(split, queries, scratch, partial);
    else attend_wide(split, packed, queries, scratch, partial);
}

void in_order(const PagedKv& kv, const float* from, float* to) { KvTiles::in_order(kv, from, to); }

}  // namespace tiercel::TIERCEL_ISA::tiled
#endif
