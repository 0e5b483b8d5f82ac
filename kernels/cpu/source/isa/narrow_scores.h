// Scores of units of kColumns columns, 4, 8 or 16 of them: a vector holds 16 / kColumns tokens one behind the other, each
// with its columns.
#pragma once

#include "attention_split.h"
#include "chunk_softmax.h"
#include "transpose.h"

namespace tiercel::TIERCEL_ISA::tiled {

// The first kColumns floats, for each of a vector's tokens.
template <int kColumns>
Vec for_each_token(const float* columns) {
    if constexpr (kColumns == 16) return Vec::load(columns);
    else if constexpr (kColumns == 8) return {_mm512_broadcast_f32x8(_mm256_loadu_ps(columns))};
    else return {_mm512_broadcast_f32x4(_mm_loadu_ps(columns))};
}

// A vector's tokens' floats, each for all columns.
template <int kColumns>
Vec for_each_column(const float* tokens) {
    if constexpr (kColumns == 16) {
        return Vec::of(*tokens);
    } else if constexpr (kColumns == 8) {
        const __m512 pair = _mm512_castsi512_ps(_mm512_set1_epi64(*reinterpret_cast<const long long*>(tokens)));
        return {_mm512_permutevar_ps(pair, _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0))};
    } else {
        const __m512 four = _mm512_broadcast_f32x4(_mm_loadu_ps(tokens));
        return {_mm512_permutevar_ps(four, _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0))};
    }
}

// Folds the tokens of a vector into one, that of the lower half first; all of them are left with the result.
template <int kColumns, typename Fold>
Vec fold_tokens(Vec v, const Fold& fold) {
    if constexpr (kColumns <= 8) v = fold(v, Vec{_mm512_shuffle_f32x4(v.v, v.v, 0x4e)});
    if constexpr (kColumns == 4) v = fold(v, Vec{_mm512_shuffle_f32x4(v.v, v.v, 0xb1)});
    return v;
}

// Rows of kColumns columns, each two vectors' tokens in a row of [columns][tokens] in bf16, to a row of 32 tokens per column.
template <int kColumns>
void transpose_weights(__m512i rows[kColumns]) {
    if constexpr (kColumns == 16) {
        transpose16(rows);
        return;
    }
    const auto lanes = [](const __m512i from[4], __m512i& to0, __m512i& to1, __m512i& to2, __m512i& to3) {
        const __m512i a = _mm512_shuffle_i32x4(from[0], from[1], 0x44), b = _mm512_shuffle_i32x4(from[0], from[1], 0xee);
        const __m512i c = _mm512_shuffle_i32x4(from[2], from[3], 0x44), d = _mm512_shuffle_i32x4(from[2], from[3], 0xee);
        to0 = _mm512_shuffle_i32x4(a, c, 0x88);
        to1 = _mm512_shuffle_i32x4(a, c, 0xdd);
        to2 = _mm512_shuffle_i32x4(b, d, 0x88);
        to3 = _mm512_shuffle_i32x4(b, d, 0xdd);
    };
    if constexpr (kColumns == 8) {
        __m512i even[4], odd[4];
        for (int i = 0; i < 4; ++i) {
            even[i] = _mm512_unpacklo_epi64(rows[2 * i], rows[2 * i + 1]);
            odd[i] = _mm512_unpackhi_epi64(rows[2 * i], rows[2 * i + 1]);
        }
        lanes(even, rows[0], rows[2], rows[4], rows[6]);
        lanes(odd, rows[1], rows[3], rows[5], rows[7]);
    } else if constexpr (kColumns == 4) {
        lanes(rows, rows[0], rows[1], rows[2], rows[3]);
    }
}

// A split's softmax.
template <int kColumns>
class NarrowScores {
public:
    static constexpr int kTokens = 16 / kColumns;  // of a vector

    explicit NarrowScores(const Split& split)
        : split_(split), low_(for_each_token<kColumns>(split.low)), high_(for_each_token<kColumns>(split.high)),
          place_(first_places()), highest_(Vec::of(kNoScore)), looked_base_(highest_), base_(highest_) {
        for (Vec& sum : sums_) sum = Vec::zero();
    }

    // Takes note of the scores of tokens [first, first + 16). `factors`: of these tokens; null for score_scale.
    void look_at(const float* scores, int64_t first, const float* factors) {
        const bool seen = all_seen(first, first + 16);
        for (int i = 0; i < kColumns; ++i) {
            Vec score = Vec::load(scores + i * 16) * factor(factors, i, split_.score_scale);
            if (!seen) score = seen_or_hidden(score, position(first + i * kTokens), low_, high_);
            highest_ = max(score, highest_);  // so a NaN is left out
        }
    }
    // After those of a chunk, before those of the next one.
    void end_look(int64_t chunk) {
        const Vec highest = fold_tokens<kColumns>(highest_, [](Vec a, Vec b) { return max(a, b); });
        bases_[chunk] = looked_base_ = raised_base(looked_base_, highest);
    }

    // Of a chunk after the first one that was looked at.
    bool raises_base(int64_t chunk) const { return any_differs(bases_[chunk - 1], bases_[chunk]); }

    // Before a chunk is weighed. Where a base is raised, what has been added up has to be multiplied by `factors`,
    // [columns].
    bool start_chunk(int64_t chunk, float* factors) {
        const Vec before = base_;
        base_ = bases_[chunk];
        if (!any_differs(before, base_)) return false;
        const Vec factor = exp2(before - base_);
        for (Vec& sum : sums_) sum = sum * factor;
        factor.store(factors);
        return true;
    }

    // The scores of tokens [first, first + 32) as weights, [kColumns][32].
    void weigh(const float* scores, int64_t first, const float* key_factors, const float* value_factors, bf16* weights) {
        const bool seen = all_seen(first, first + 32);
        const auto weight = [&](int i) {
            Vec score = fma(Vec::load(scores + i * 16), factor(key_factors, i, split_.score_scale), Vec::zero() - base_);
            if (!seen) score = seen_or_hidden(score, position(first + i * kTokens), low_, high_);
            const Vec weight = exp2_for_bf16(score);
            sums_[i % kColumns] = sums_[i % kColumns] + weight;
            return value_factors ? weight * for_each_column<kColumns>(value_factors + i * kTokens) : weight;
        };
        const __m512i order = by_column();
        __m512i rows[kColumns];
#pragma GCC unroll 16
        for (int i = 0; i < kColumns; ++i) {
            const Vec even = weight(2 * i), odd = weight(2 * i + 1);
            rows[i] = _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd.v, even.v));
        }
        transpose_weights<kColumns>(rows);
        for (int i = 0; i < kColumns; ++i) _mm512_store_si512(weights + i * 32, rows[i]);
    }

    Vec base() const { return base_; }
    // The sum of exponentials is sixteen sums, of the tokens with the same place in sixteen, and then a tree of them: in
    // whatever way a column is computed, its sum is the same to the bit.
    Vec total() const {
        Vec sums[kColumns];
        std::copy_n(sums_, kColumns, sums);
        for (int half = kColumns / 2; half > 0; half /= 2)
            for (int i = 0; i < half; ++i) sums[i] = sums[i] + sums[i + half];
        return fold_tokens<kColumns>(sums[0], [](Vec a, Vec b) { return a + b; });
    }

private:
    static Vec first_places() {
        alignas(64) float places[16];
        for (int i = 0; i < 16; ++i) places[i] = static_cast<float>(i / kColumns);
        return Vec::load(places);
    }
    // Two vectors' tokens in bf16, [tokens][columns], to [columns][tokens].
    static __m512i by_column() {
        alignas(64) uint16_t order[32];
        for (int i = 0; i < 32; ++i) order[i] = static_cast<uint16_t>(i % (2 * kTokens) * kColumns + i / (2 * kTokens));
        return _mm512_load_si512(order);
    }
    static Vec factor(const float* factors, int i, float constant) {
        return factors ? for_each_column<kColumns>(factors + i * kTokens) : Vec::of(constant);
    }
    bool all_seen(int64_t first, int64_t last) const {
        return split_.low[kColumns - 1] <= static_cast<float>(split_.start + first) &&
               static_cast<float>(split_.start + last) <= split_.high[0];
    }
    Vec position(int64_t t) const { return place_ + Vec::of(static_cast<float>(split_.start + t)); }

    const Split& split_;
    const Vec low_, high_, place_;
    Vec highest_, looked_base_, base_;
    Vec bases_[kSplitTokens / kChunkTokens];
    Vec sums_[kColumns];  // by place in sixteen, a vector's tokens behind each other
};

}  // namespace tiercel::TIERCEL_ISA::tiled
