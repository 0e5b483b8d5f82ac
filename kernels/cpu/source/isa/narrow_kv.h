// K and V of a split for units of few columns: sixteen rows of K as a left operand, sixteen pairs of rows of V as right
// operands, for 64 dimensions at a time.
//
// Each is used once, so what has to be widened goes through a few kilobytes that stay in the first cache, and rows of
// bf16 are multiplied where they lie. V's dimensions come out in another order, which in_order() puts right.
#pragma once

#include "e4m3_widener.h"
#include "tiled_kv.h"

namespace tiercel::TIERCEL_ISA::tiled {

class NarrowKv {
public:
    NarrowKv(const Split& split, uint8_t* scratch);
    static int64_t scratch_bytes(const PagedKv& kv);

    // Sixteen rows of bf16; a step is 32 dimensions.
    struct KeyTile {
        const bf16* data;
        int64_t stride_bytes, step_words;
    };
    // The tokens [t, t + kTile), t in steps of kTile; what is beyond the split's count is anything. Valid until the one
    // after the next is asked for.
    KeyTile key_tile(int64_t t);
    // Of the tokens of key_tile(), if there are scales.
    const float* key_factors() const { return key_factors_; }

    // The tokens [t, t + kPairStep) and the dimensions [dim, dim + 64), t in steps of kPairStep: four tiles, one behind
    // the other; finite numbers beyond the split's count. The same validity.
    const bf16* value_tiles(int64_t t, int64_t dim);
    // Of the tokens of value_tiles(), if there are scales; zeros beyond the split's count.
    const float* value_factors() const { return value_factors_; }

    // A result's values to the order of the head's dimensions.
    static void in_order(const PagedKv& kv, const float* from, float* to);

private:
    // The rows of tokens [t, t + number); some constant finite row beyond the count.
    void find_rows(bool is_value, int64_t t, int64_t number, const uint8_t** rows) const;
    void load_factors(bool is_value, int64_t t, int64_t number, float unit, float* factors) const;

    const Split& split_;
    const int64_t dims_, row_bytes_;
    const bool in_place_, has_scales_;
    const int64_t token_bytes_;
    bf16* keys_;    // [2][dims / 32][kTile][32]
    bf16* values_;  // [2][4][kTile][32]
    float* key_factors_;    // [kSplitTokens]
    float* value_factors_;  // [kSplitTokens]
    const E4m3Widener widener_;
};

}  // namespace tiercel::TIERCEL_ISA::tiled
