// K and V of a split as vectors multiply them: as they are read, or packed before.
#pragma once

#include <algorithm>

#include "packed_kv.h"

namespace tiercel::TIERCEL_ISA::tiled {

// K and V of a split for units of few columns: each is used once, so it goes through registers or a few kilobytes that
// stay in the first cache.
template <bool kIsFp8>
class StreamedKv {
public:
    StreamedKv(const Split& split, uint8_t* memory)
        : split_(split), tiles_(split), dims_(padded_dims(split.kv)), keys_(reinterpret_cast<bf16*>(memory)),
          values_(keys_ + kPairStep * dims_),
          key_factors_(reinterpret_cast<float*>(values_ + kPairStep * kValueDims)),
          value_factors_(key_factors_ + kSplitTokens) {}
    static int64_t bytes(const PagedKv& kv) {
        return kPairStep * padded_dims(kv) * 2 + kPairStep * kValueDims * 2 + 2 * kSplitTokens * 4;
    }
    static constexpr bool kIsStreamed = true;

    // As KvTiles::each_key_pair(); the tokens' factors are there then.
    template <typename Each>
    [[gnu::always_inline]] inline void each_key_pair(int64_t t, const Each& each) {
        if constexpr (kIsFp8) {
            tiles_.load_factors(false, t, kTile, split_.score_scale, key_factors_);
            tiles_.each_key_pair_of_codes(t, each);
        } else {
            tiles_.each_key_pair_of_words(t, each);
        }
    }
    template <typename Each>
    [[gnu::always_inline]] inline void each_value_pair(int64_t t, int64_t dim, const Each& each) const {
        tiles_.each_value_pair(t, dim, each);
    }
    const uint8_t* value_rows(int64_t t) const { return tiles_.values_in_place(t); }

    // As those of PackedSplit; valid until the next ones are asked for.
    const bf16* keys(int64_t t) {
        for (int64_t i = 0; i < kPairStep / kTile; ++i)
            each_key_pair(t + i * kTile, [&](int64_t k, __m512i pairs) {
                _mm512_store_si512(keys_ + i * kTile * dims_ + k * 32, pairs);
            });
        return keys_;
    }
    const bf16* value_tiles(int64_t t, int64_t dim) {
        tiles_.values(t, dim, values_);
        return values_;
    }
    void load_value_factors(int64_t first, int64_t last) {
        if constexpr (!kIsFp8) return;
        std::fill(value_factors_ + first, value_factors_ + last, 0.0f);
        tiles_.load_factors(true, first, last - first, 1.0f, value_factors_);
    }
    const float* key_factors() const { return key_factors_; }
    const float* value_factors() const { return value_factors_; }

private:
    const Split& split_;
    const KvTiles tiles_;
    const int64_t dims_;
    bf16* const keys_;              // [2][dims / 32][16 pairs of dimensions][16 tokens][2]
    bf16* const values_;            // [4][16 pairs of tokens][16 dimensions][2]
    float* const key_factors_;      // [kSplitTokens]
    float* const value_factors_;    // [kSplitTokens]
};

// For units of many columns, packed once for all of a thread's.
class KeptKv {
public:
    explicit KeptKv(const PackedSplit& kv) : kv_(kv) {}
    static constexpr bool kIsStreamed = false;
    const bf16* keys(int64_t t) const { return kv_.keys(t); }
    const bf16* value_tiles(int64_t t, int64_t dim) const { return kv_.value_tiles(t, dim); }
    void load_value_factors(int64_t, int64_t) {}
    const float* key_factors() const { return kv_.key_factors(); }
    const float* value_factors() const { return kv_.value_factors(); }

private:
    const PackedSplit& kv_;
};

}  // namespace tiercel::TIERCEL_ISA::tiled
