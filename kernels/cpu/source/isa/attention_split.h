// One split of one K/V head: what either way to compute takes and gives.
#pragma once

#include <algorithm>

#include "attention.h"
#include "pages_ahead.h"
#include "rows.h"

namespace tiercel::TIERCEL_ISA {

// Below any score; finite, so that the difference of two of them is a number.
constexpr float kNoScore = -1e30f;

constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// Tokens [start, start + count) of a row, at most kSplitTokens; t counts from `start`. Columns see [low, high) of the
// sequence; both ascend with the column, and those of the padding repeat the last.
struct Split {
    const PagedKv& kv;
    const int32_t* blocks;
    int64_t layer, head;
    int64_t start, count;
    int64_t columns;
    const float* low;
    const float* high;
    float score_scale;  // log2(e) / sqrt(head_dim) or so: scores are to the base of 2
    PagesAhead* ahead;  // stands where this split is read

    // What some consecutive columns see of the split, as [first, last); empty if first >= last.
    int64_t first_seen(int64_t column) const { return std::max<int64_t>(0, int64_t(low[column]) - start); }
    int64_t last_seen(int64_t column) const { return std::min<int64_t>(count, int64_t(high[column]) - start); }

    // Calls body(page, offset in the page, t, number) for runs of tokens that lie in one page.
    template <typename Body>
    void runs(bool is_value, int64_t first, int64_t last, const Body& body) const {
        const int32_t size = kv.block_size;
        const uint32_t position = static_cast<uint32_t>(start + first);
        int64_t block = position / static_cast<uint32_t>(size), offset = position % static_cast<uint32_t>(size);
        for (int64_t t = first; t < last; ++block, offset = 0) {
            const int64_t number = std::min<int64_t>(size - offset, last - t);
            body(static_cast<const uint8_t*>(kv.page(blocks[block], layer, is_value, head)), offset, t, number);
            t += number;
        }
    }

    // factor[t] = what to multiply products with stored elements by: `unit` times the token's scale, if any. Nothing
    // is written from `last` on.
    void load_factors(bool is_value, int64_t first, int64_t last, float unit, float* factor) const {
        runs(is_value, first, last, [&](const uint8_t* page, int64_t offset, int64_t t, int64_t number) {
            const bf16* scales = reinterpret_cast<const bf16*>(page + kv.scales_offset_bytes) + offset;
            for (int64_t i = 0; i < number; ++i) factor[t + i] = unit * usable_scale(scales[i]);
        });
    }
};

// Where a split's result goes; see partial_floats.
struct Partial {
    float* highest;  // [padded columns]
    float* sums;     // [padded columns]
    float* values;   // [padded columns, value_floats]

    Partial(float* memory, int64_t columns)
        : highest(memory), sums(memory + padded_columns(columns)), values(memory + 2 * padded_columns(columns)) {}
};

// s where low <= position < high, else -inf.
inline Vec seen_or_hidden(Vec s, Vec position, Vec low, Vec high) {
#if defined(TIERCEL_ISA_AVX2)
    const __m256 seen = _mm256_and_ps(_mm256_cmp_ps(low.v, position.v, _CMP_LE_OQ),
                                      _mm256_cmp_ps(position.v, high.v, _CMP_LT_OQ));
    return {_mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), s.v, seen)};
#else
    const __mmask16 seen = _mm512_cmp_ps_mask(low.v, position.v, _CMP_LE_OQ) &
                           _mm512_cmp_ps_mask(position.v, high.v, _CMP_LT_OQ);
    return {_mm512_mask_blend_ps(seen, _mm512_set1_ps(-__builtin_inff()), s.v)};
#endif
}

// The result of columns that see nothing of a split.
inline void clear_columns(const Partial& partial, int64_t first, int64_t last, int64_t value_floats) {
    for (int64_t column = first; column < last; ++column) {
        partial.highest[column] = kNoScore;
        partial.sums[column] = 0;
        std::fill_n(partial.values + column * value_floats, value_floats, 0.0f);
    }
}

}  // namespace tiercel::TIERCEL_ISA
