// K and V of a split for units of few columns. Each is used once, so what has to be widened goes through a few kilobytes
// that stay in the first cache, and rows of bf16 are multiplied where they lie.
#pragma once

#include "kv_tiles.h"

namespace tiercel::TIERCEL_ISA::tiled {

class NarrowKv {
public:
    NarrowKv(const Split& split, uint8_t* scratch)
        : split_(split), tiles_(split), dims_(padded_dims(split.kv)), has_scales_(is_fp8(split.kv)),
          keys_(reinterpret_cast<bf16*>(scratch)), values_(keys_ + 2 * kTile * dims_),
          key_factors_(reinterpret_cast<float*>(values_ + 2 * 4 * kTileWords)),
          value_factors_(key_factors_ + kSplitTokens) {}
    static int64_t scratch_bytes(const PagedKv& kv) {
        return 2 * kTile * padded_dims(kv) * 2 + 2 * 4 * kTileWords * 2 + 2 * kSplitTokens * 4;
    }

    // As KvTiles::keys(). Valid until the one after the next is asked for.
    KvTiles::KeyTile key_tile(int64_t t) {
        if (has_scales_) tiles_.load_factors(false, t, kTile, split_.score_scale, key_factors_);
        return tiles_.keys(t, keys_ + t / kTile % 2 * kTile * dims_);
    }
    // Of the tokens of key_tile(), if there are scales.
    const float* key_factors() const { return key_factors_; }

    // As KvTiles::values(). The same validity.
    const bf16* value_tiles(int64_t t, int64_t dim) {
        if (dim == 0 && has_scales_) {
            for (int64_t i = 0; i < kPairStep; i += 16) Vec::zero().store(value_factors_ + t + i);
            tiles_.load_factors(true, t, kPairStep, 1.0f, value_factors_);
        }
        bf16* to = values_ + t / kPairStep % 2 * 4 * kTileWords;
        tiles_.values(t, dim, to);
        return to;
    }
    // Of the tokens of value_tiles(), if there are scales; zeros beyond the split's count.
    const float* value_factors() const { return value_factors_; }

private:
    const Split& split_;
    const KvTiles tiles_;
    const int64_t dims_;
    const bool has_scales_;
    bf16* keys_;            // [2][dims / 32][kTile][32]
    bf16* values_;          // [2][4][kTile][32]
    float* key_factors_;    // [kSplitTokens]
    float* value_factors_;  // [kSplitTokens]
};

}  // namespace tiercel::TIERCEL_ISA::tiled
