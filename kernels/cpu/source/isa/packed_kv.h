// K and V of a split packed for units of many columns: K as the right operand of Q K^T, pairs of dimensions by tokens, V
// as that of P V. All units of a K/V head read the same, so a thread keeps what it has packed for those that follow.
#pragma once

#include <array>

#include "../attention_work.h"
#include "kv_tiles.h"

namespace tiercel::TIERCEL_ISA::tiled {

class PackedSplit {
public:
    PackedSplit() = default;
    PackedSplit(const PagedKv& kv, uint8_t* memory);
    static int64_t bytes(const PagedKv& kv) { return kSplitTokens * (padded_dims(kv) * 4 + 2 * 4); }

    bool is_of_head(const Split& split) const { return blocks_ == split.blocks && head_ == split.head; }
    bool is_of(const Split& split) const { return is_of_head(split) && start_ == split.start; }
    // Forgets what it holds.
    void become(const Split& split);
    // Packs tokens [first, last), where they are not; whole groups of kPairStep.
    void fetch(const Split& split, int64_t first, int64_t last);

    // [dims / 32][16 pairs of dimensions][16 tokens][2] of tokens [t, t + kTile); what is beyond the split's count is
    // anything.
    const bf16* keys(int64_t t) const { return keys_ + t * dims_; }
    // [dims / 16][16 pairs of tokens][16 dimensions][2] of tokens [t, t + kPairStep); finite beyond the split's count.
    const bf16* values(int64_t t) const { return values_ + t * dims_; }
    // Of these, the tiles from dimension `dim` on.
    const bf16* value_tiles(int64_t t, int64_t dim) const { return values(t) + dim / kTile * kTileWords; }
    // Of each token, if there are scales; those of values are zeros beyond the split's count.
    const float* key_factors() const { return key_factors_; }
    const float* value_factors() const { return value_factors_; }

private:
    void pack_keys(const KvTiles& tiles, int64_t t);
    void pack_values(const KvTiles& tiles, int64_t t);

    const int32_t* blocks_ = nullptr;
    int64_t head_ = 0, start_ = 0, dims_ = 0;
    uint32_t packed_ = 0;  // a bit for each group
    bf16* keys_ = nullptr;
    bf16* values_ = nullptr;
    float* key_factors_ = nullptr;
    float* value_factors_ = nullptr;
};

// Those of one thread, while it attends in one layer of one step. K and V do not change meanwhile, and it is made anew for
// the next layer, so nothing in it can be out of date.
class PackedSplits {
public:
    PackedSplits(const PagedKv& kv, uint8_t* memory, int64_t num_places);

    // The split's place, emptied if it holds another one. Units read their splits in the same order, so where these are
    // too many the last place is the one that changes.
    PackedSplit& place_of(const Split& split);

private:
    std::array<PackedSplit, kMaxPackedSplits> places_;
    const int64_t num_places_;
    int64_t num_used_ = 0;
};

}  // namespace tiercel::TIERCEL_ISA::tiled
