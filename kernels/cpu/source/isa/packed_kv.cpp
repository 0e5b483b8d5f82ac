#include "../isa.h"

#if defined(TIERCEL_BF16_PRODUCTS)
#include "packed_kv.h"
#if defined(TIERCEL_ISA_AMX)
#include "tiles.h"
#endif

namespace tiercel::TIERCEL_ISA::tiled {

#if !defined(TIERCEL_ISA_AMX)
static void keep_awake() {}
#endif

PackedSplit::PackedSplit(const PagedKv& kv, uint8_t* memory)
    : dims_(padded_dims(kv)), keys_(reinterpret_cast<bf16*>(memory)), values_(keys_ + kSplitTokens * dims_),
      key_factors_(reinterpret_cast<float*>(values_ + kSplitTokens * dims_)),
      value_factors_(key_factors_ + kSplitTokens) {}

void PackedSplit::become(const Split& split) {
    blocks_ = split.blocks;
    head_ = split.head;
    start_ = split.start;
    packed_ = 0;
}

void PackedSplit::fetch(const Split& split, int64_t first, int64_t last) {
    uint32_t wanted = 0;
    for (int64_t step = first / kPairStep; step * kPairStep < last; ++step) wanted |= 1u << step;
    wanted &= ~packed_;
    if (wanted == 0) return;
    packed_ |= wanted;
    split.ahead->begin({&split.kv, split.blocks, split.layer, split.head, 1,
                        split.start + first, split.start + std::min(last, split.count)}, {});
    const KvTiles tiles(split);
    // In the order in which `ahead` asks for them.
    constexpr int64_t kPartSteps = PagesAhead::kPartTokens / kPairStep;
    for (int64_t part = 0; wanted >> part; part += kPartSteps) {
        for (int64_t step = part; step < part + kPartSteps; ++step)
            if (wanted >> step & 1) pack_keys(tiles, step * kPairStep);
        for (int64_t step = part; step < part + kPartSteps; ++step)
            if (wanted >> step & 1) pack_values(tiles, step * kPairStep);
    }
    if (!is_fp8(split.kv)) return;
    for (int64_t step = 0; wanted >> step; ++step) {
        if (!(wanted >> step & 1)) continue;
        const int64_t t = step * kPairStep;
        tiles.load_factors(false, t, kPairStep, split.score_scale, key_factors_);
        std::fill_n(value_factors_ + t, kPairStep, 0.0f);
        tiles.load_factors(true, t, kPairStep, 1.0f, value_factors_);
    }
}

void PackedSplit::pack_keys(const KvTiles& tiles, int64_t t) {
    for (const int64_t last = std::min(t + kPairStep, kSplitTokens); t < last; t += kTile) {
        bf16* to = keys_ + t * dims_;
        tiles.each_key_pair(t, [&](int64_t k, __m512i pairs) {
            if (k % kTile == 0) keep_awake();
            _mm512_store_si512(to + k * 32, pairs);
        });
    }
}

void PackedSplit::pack_values(const KvTiles& tiles, int64_t t) {
    for (int64_t dim = 0; dim < dims_; dim += kValueDims) {
        keep_awake();
        tiles.values(t, dim, values_ + t * dims_ + dim / 16 * kTileWords);
    }
}

PackedSplits::PackedSplits(const PagedKv& kv, uint8_t* memory, int64_t num_places) : num_places_(num_places) {
    for (int64_t i = 0; i < num_places; ++i)
        places_[static_cast<size_t>(i)] = PackedSplit(kv, memory + i * PackedSplit::bytes(kv));
}

PackedSplit& PackedSplits::place_of(const Split& split) {
    for (int64_t i = 0; i < num_used_; ++i) {
        PackedSplit& place = places_[static_cast<size_t>(i)];
        if (place.is_of(split)) return place;
    }
    // No unit of another head comes again.
    if (num_used_ > 0 && !places_[0].is_of_head(split)) num_used_ = 0;
    num_used_ = std::min(num_used_ + 1, num_places_);
    PackedSplit& place = places_[static_cast<size_t>(num_used_ - 1)];
    place.become(split);
    return place;
}

}  // namespace tiercel::TIERCEL_ISA::tiled
#endif
