// A split in pieces of sixteen columns and a chunk of tokens, whose scores lie in rows, a row per column: what goes along
// tokens is a vector, and the softmax's weights are a left operand as they come.
#pragma once

#include "attention_split.h"
#include "chunk_softmax.h"
#include "kv_tiles.h"
#include "transpose.h"

namespace tiercel::TIERCEL_ISA::tiled {

constexpr int64_t kTileFloats = kTile * kTile;
constexpr int64_t kWeightWords = kTile * kChunkTokens;
constexpr int64_t kChunkSteps = kChunkTokens / kPairStep;

// Steps of kPairStep tokens of a chunk, [first, last).
struct Steps {
    int64_t first = 0, last = 0;
    int64_t number() const { return last - first; }
};

// Sixteen columns and a chunk of tokens of which any of them sees something.
struct Piece {
    int64_t column = -1;  // of the first; below 0: there is none
    int64_t chunk = 0;
    Steps steps;
    bool is_first = false, is_last = false;  // of the columns' chunks
    bool all_seen = false;

    bool is_there() const { return column >= 0; }
};

class Pieces {
public:
    Pieces(const Split& split, const Partial& partial, int64_t dims) : split_(split), partial_(partial), dims_(dims) {}

    // The one after `piece`, or the first; clears the columns between that see nothing.
    Piece next(const Piece& piece) const {
        int64_t column = std::max<int64_t>(0, piece.column), chunk = piece.chunk + kChunkTokens;
        for (bool is_new = !piece.is_there();; is_new = true) {
            if (column >= split_.columns) return {};
            const int64_t first = split_.first_seen(column), last = split_.last_seen(column + kTile - 1);
            if (is_new && first < last) chunk = first / kChunkTokens * kChunkTokens;
            if (first < last && chunk < last) return piece_of(column, chunk, first, last);
            if (first >= last) clear_columns(partial_, column, column + kTile, dims_);
            column += kTile;
        }
    }

private:
    Piece piece_of(int64_t column, int64_t chunk, int64_t first, int64_t last) const {
        const Steps steps{std::max<int64_t>(0, first - chunk) / kPairStep,
                          (std::min(last - chunk, kChunkTokens) + kPairStep - 1) / kPairStep};
        const int64_t start = split_.start + chunk;
        return {column, chunk, steps, chunk <= first, chunk + kChunkTokens >= last,
                split_.low[column + kTile - 1] <= static_cast<float>(start + steps.first * kPairStep) &&
                    static_cast<float>(start + steps.last * kPairStep) <= split_.high[column]};
    }

    const Split& split_;
    const Partial& partial_;
    const int64_t dims_;
};

// What a chunk's vectors of one column need to know: which tokens the column sees.
struct Seen {
    Vec position, low, high;

    Seen(const Split& split, int64_t column, int64_t chunk)
        : position{_mm512_add_ps(_mm512_set1_ps(static_cast<float>(split.start + chunk)),
                                 _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0))},
          low(Vec::of(split.low[column])), high(Vec::of(split.high[column])) {}
    Vec or_hidden(Vec score, int64_t t) const {
        return seen_or_hidden(score, position + Vec::of(static_cast<float>(t)), low, high);
    }
};

// The softmax of sixteen columns, or of the first few of them, chunk by chunk. Factors are those of the split's tokens;
// they count if kScaled.
template <bool kScaled>
class WideSoftmax {
public:
    static constexpr int64_t kFloats = 2 * kTileFloats + 2 * kTile;

    WideSoftmax(const Split& split, const float* key_factors, const float* value_factors, float* memory)
        : split_(split), key_factors_(key_factors), value_factors_(value_factors), highest_(memory),
          sums_(highest_ + kTileFloats), base_(sums_ + kTileFloats), factors_(base_ + kTile) {
        std::fill_n(highest_, kTileFloats, kNoScore);
    }

    // The columns' first chunk follows.
    void begin() {
        Vec::of(kNoScore).store(base_);
        std::fill_n(sums_, kTileFloats, 0.0f);
    }

    // The highest scores of column i, by place in sixteen; not scaled where score_scale alone would do it. A NaN is left
    // out.
    template <bool kMasked>
    void look_at(const Piece& piece, Steps steps, const float* scores, int64_t i) {
        const Seen seen(split_, piece.column + i, piece.chunk);
        Vec highest = Vec::of(-__builtin_inff());
        for (int64_t t = steps.first * kPairStep; t < steps.last * kPairStep; t += kTile) {
            Vec score = Vec::load(scores + i * kChunkTokens + t);
            if constexpr (kScaled) score = score * Vec::load(key_factors_ + piece.chunk + t);
            if constexpr (kMasked) score = seen.or_hidden(score, t);
            highest = max(score, highest);
        }
        highest.store(highest_ + i * kTile);
    }

    // Whether what has been added up has to be multiplied by factors(): after all columns were looked at.
    bool raise_base(const Piece& piece) {
        const Vec before = Vec::load(base_);
        Vec highest = total_of(highest_, [](Vec a, Vec b) { return max(a, b); });
        if (!kScaled) highest = highest * Vec::of(split_.score_scale);
        const Vec base = raised_base(before, max(highest, Vec::of(kNoScore)));
        if (!any_differs(before, base)) return false;
        base.store(base_);
        if (piece.is_first) return false;
        exp2(before - base).store(factors_);
        scale_columns(factors_, kTile, kTile, sums_);
        return true;
    }
    const float* factors() const { return factors_; }

    // The scores of column i to weights, a row of each step's tile.
    template <bool kMasked>
    void weigh(const Piece& piece, Steps steps, const float* scores, int64_t i, bf16* weights) {
        const Seen seen(split_, piece.column + i, piece.chunk);
        const Vec lowered = Vec::of(0.0f - base_[i]);
        Vec sum = Vec::load(sums_ + i * kTile);
        const auto weight = [&](int64_t t) {
            const Vec factor = kScaled ? Vec::load(key_factors_ + piece.chunk + t) : Vec::of(split_.score_scale);
            Vec score = fma(Vec::load(scores + i * kChunkTokens + t), factor, lowered);
            if constexpr (kMasked) score = seen.or_hidden(score, t);
            const Vec weight = exp2_for_bf16(score);
            sum = sum + weight;
            // Without scales the factors are 1 for what can be seen.
            return kScaled ? weight * Vec::load(value_factors_ + piece.chunk + t) : weight;
        };
        for (int64_t step = steps.first; step < steps.last; ++step) {
            const Vec lower = weight(step * kPairStep), upper = weight(step * kPairStep + kTile);
            const __m512i words = (__m512i)_mm512_cvtne2ps_pbh(upper.v, lower.v);
            _mm512_store_si512(weights + (step * kTile + i) * kPairStep, words);
        }
        sum.store(sums_ + i * kTile);
    }

    // The columns' last chunk has been weighed.
    void end(const Piece& piece, const Partial& partial) const {
        total_of(sums_, [](Vec a, Vec b) { return a + b; }).store(partial.sums + piece.column);
        Vec::load(base_).store(partial.highest + piece.column);
    }

private:
    static Vec total_of(const float* by_place, Vec (*both)(Vec, Vec)) {
        __m512i rows[kTile];
        for (int i = 0; i < kTile; ++i) rows[i] = _mm512_load_si512(by_place + i * kTile);
        transpose16(rows);
        Vec sums[kTile];
        for (int i = 0; i < kTile; ++i) sums[i] = {_mm512_castsi512_ps(rows[i])};
        for (int half = kTile / 2; half > 0; half /= 2)
            for (int i = 0; i < half; ++i) sums[i] = both(sums[i], sums[i + half]);
        return sums[0];
    }

    const Split& split_;
    const float* const key_factors_;
    const float* const value_factors_;
    float* const highest_;  // [16 columns][16], by place in sixteen
    float* const sums_;     // [16 columns][16], likewise
    float* const base_;     // [16 columns]
    float* const factors_;  // [16 columns]
};

}  // namespace tiercel::TIERCEL_ISA::tiled
