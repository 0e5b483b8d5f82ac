// The two ways to compute a split behind one face: in fp32 throughout, and with products of bf16.
#pragma once

#include "attention_exact.h"
#include "attention_bf16.h"
#if defined(TIERCEL_ISA_AMX)
#include "attention_narrow.h"
#include "tiles.h"
#endif

namespace tiercel::TIERCEL_ISA {

struct ExactMath {
    struct Packed {
        Packed(const PagedKv&, uint8_t*, int64_t) {}
    };
    static constexpr int64_t kMaxColumns = exact::kMaxColumns, kMaxUnits = 1;
    static int64_t value_floats(const PagedKv& kv) { return exact::value_floats(kv); }
    static int64_t query_bytes(const PagedKv& kv) { return exact::query_bytes(kv); }
    static int64_t scratch_bytes(const PagedKv& kv) { return exact::scratch_bytes(kv); }
    static constexpr auto put_query = exact::put_query;
    static void attend_split(const Split& split, Packed&, const uint8_t* queries, uint8_t* scratch,
                             const Partial& partial) {
        exact::attend_split(split, queries, scratch, partial);
    }
    static void in_order(const PagedKv&, const float*, float*) {}
    static constexpr bool kReorders = false;
    static constexpr bool kReadsAhead = false;
    static int64_t packed_bytes(const PagedKv&) { return 0; }
    struct Tiles {
        void set(int64_t) {}
    };
};

#if defined(TIERCEL_BF16_PRODUCTS)
struct Bf16Math {
    static constexpr int64_t kMaxColumns = tiled::kMaxColumns, kMaxUnits = kMaxColumns / kFewColumns;
    static int64_t value_floats(const PagedKv& kv) { return tiled::value_floats(kv); }
    static int64_t query_bytes(const PagedKv& kv) { return tiled::query_bytes(kv); }
    static int64_t scratch_bytes(const PagedKv& kv) { return tiled::scratch_bytes(kv); }
    static constexpr auto put_query = tiled::put_query;
    static constexpr auto attend_split = tiled::attend_split;
    static constexpr auto in_order = tiled::in_order;
    static int64_t packed_bytes(const PagedKv& kv) { return tiled::PackedSplit::bytes(kv); }
    using Packed = tiled::PackedSplits;
    static constexpr bool kReorders = true;
    static constexpr bool kReadsAhead = true;
#if defined(TIERCEL_ISA_AMX)
    struct Tiles : ColumnTiles {
        void set(int64_t columns) { ColumnTiles::set(tiled::narrow_columns(columns)); }
    };
#else
    using Tiles = ExactMath::Tiles;
#endif
};
#endif

}  // namespace tiercel::TIERCEL_ISA
