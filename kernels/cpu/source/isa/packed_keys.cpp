#include "../isa.h"

#if defined(TIERCEL_ISA_AMX)
#include "packed_keys.h"
#include "tiles.h"
#include "transpose.h"

namespace tiercel::TIERCEL_ISA::tiled {

PackedKeys::PackedKeys(TiledKv& kv, const PagedKv& pages, uint8_t* memory)
    : kv_(kv), dims_(padded_dims(pages)), tiles_(reinterpret_cast<bf16*>(memory)) {}

void PackedKeys::pack(int64_t t) {
    kv_.fetch_keys(t);
    for (const int64_t last = t + kKeyStep; t < last; t += kTile) {
        const uint8_t* rows = reinterpret_cast<const uint8_t*>(kv_.key_tile(t));
        for (int64_t step = 0; step < dims_ / 32; ++step) {
            keep_awake();
            __m512i pairs[kTile];
            for (int i = 0; i < kTile; ++i) pairs[i] = _mm512_loadu_si512(rows + i * kv_.key_stride_bytes() + step * 64);
            transpose16(pairs);
            bf16* to = tiles_ + t * dims_ + step * kTile * 32;
            for (int i = 0; i < kTile; ++i) _mm512_store_si512(to + i * 32, pairs[i]);
        }
    }
}

}  // namespace tiercel::TIERCEL_ISA::tiled
#endif
