#include "../isa.h"

#if defined(TIERCEL_ISA_AMX)
#include "attention_wide.h"
#include "chunk_softmax.h"
#include "tile_products.h"
#include "transpose.h"

namespace tiercel::TIERCEL_ISA::tiled {
namespace {

constexpr int64_t kTileFloats = kTile * kTile;
constexpr int64_t kWeightWords = kTile * kChunkTokens;
constexpr int64_t kScratchFloats = 2 * kChunkScores + 2 * kTileFloats + 2 * kTile;

// Sixteen columns and a chunk of tokens of which any of them sees something.
struct Piece {
    int64_t column = -1;  // of the first; below 0: there is none
    int64_t chunk = 0;
    Steps steps;
    bool is_first = false, is_last = false;  // of the columns' chunks
    bool all_seen = false;
    float* scores = nullptr;  // [16 columns][kChunkTokens]

    bool is_there() const { return column >= 0; }
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

Vec total_of(const float* by_place, Vec (*both)(Vec, Vec)) {
    __m512i rows[kTile];
    for (int i = 0; i < kTile; ++i) rows[i] = _mm512_load_si512(by_place + i * kTile);
    transpose16(rows);
    Vec sums[kTile];
    for (int i = 0; i < kTile; ++i) sums[i] = {_mm512_castsi512_ps(rows[i])};
    for (int half = kTile / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) sums[i] = both(sums[i], sums[i + half]);
    return sums[0];
}

// Piece by piece, so that scores stay in the first cache: while a piece's are weighed, the next one's are made and the
// values of the one before are added up, so that neither tiles nor vectors are idle for long.
template <bool kScaled>
class WideSplit {
public:
    WideSplit(const Split& split, const PackedSplit& kv, const bf16* queries, uint8_t* memory, const Partial& partial)
        : split_(split), kv_(kv), queries_(queries), partial_(partial), dims_(padded_dims(split.kv)) {
        scores_[0] = reinterpret_cast<float*>(memory);
        scores_[1] = scores_[0] + kChunkScores;
        highest_ = scores_[1] + kChunkScores;
        sums_ = highest_ + kTileFloats;
        base_ = sums_ + kTileFloats;
        factors_ = base_ + kTile;
        weights_[0] = reinterpret_cast<bf16*>(factors_ + kTile);
        weights_[1] = weights_[0] + kWeightWords;
    }

    void run() {
        Piece piece = next_of({});
        if (!piece.is_there()) return;
        start_scores(piece);
        while (query_keys_.left() > 0) query_keys_.part();
        query_keys_.finish();
        while (piece.is_there()) {
            const Piece next = next_of(piece);
            if (next.is_there()) start_scores(next);
            parts_ = query_keys_.left() + weight_values_.left();
            if (!piece.all_seen) attend<true>(piece, piece.steps);
            else if (piece.steps.number() < kChunkSteps) attend<false>(piece, piece.steps);
            else attend<false>(piece, {0, kChunkSteps});
            piece = next;
        }
        finish_values();
    }

private:
    // The one after `piece`, or the first; clears the columns between that see nothing.
    Piece next_of(const Piece& piece) {
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

    Piece piece_of(int64_t column, int64_t chunk, int64_t first, int64_t last) {
        std::swap(scores_[0], scores_[1]);
        const Steps steps{std::max<int64_t>(0, first - chunk) / kPairStep,
                          (std::min(last - chunk, kChunkTokens) + kPairStep - 1) / kPairStep};
        const int64_t start = split_.start + chunk;
        return {column, chunk, steps, chunk <= first, chunk + kChunkTokens >= last,
                split_.low[column + kTile - 1] <= static_cast<float>(start + steps.first * kPairStep) &&
                    static_cast<float>(start + steps.last * kPairStep) <= split_.high[column],
                scores_[0]};
    }

    void start_scores(const Piece& piece) {
        query_keys_ = QueryKeys(queries_ + piece.column * dims_, kv_, piece.chunk, piece.steps, dims_, piece.scores);
    }

    template <bool kMasked>
    void attend(const Piece& piece, Steps steps) {
        if (piece.is_first) {
            Vec::of(kNoScore).store(base_);
            std::fill_n(sums_, kTileFloats, 0.0f);
        }
        for (int i = 0; i < kTile; ++i) {
            look_at_column<kMasked>(piece, steps, i);
            if (i % 4 == 3) make_parts(i / 4 + 1);
        }
        raise_base(piece);
        bf16* weights = weights_[0];
        std::swap(weights_[0], weights_[1]);
        for (int i = 0; i < kTile; ++i) {
            weigh_column<kMasked>(piece, steps, i, weights);
            make_parts(kTile / 4 + i + 1);
        }
        query_keys_.finish();
        weight_values_.finish();
        weight_values_ = WeightValues(weights, kv_, piece.chunk, steps, dims_, piece.is_first,
                                      partial_.values + piece.column * dims_);
        if (!piece.is_last) return;
        total_of(sums_, [](Vec a, Vec b) { return a + b; }).store(partial_.sums + piece.column);
        Vec::load(base_).store(partial_.highest + piece.column);
    }

    // Those of the products' parts that are due when so much of a piece is done.
    void make_parts(int64_t done) {
        while ((query_keys_.left() + weight_values_.left()) * kPieceWork > parts_ * (kPieceWork - done)) {
            if (query_keys_.left() > weight_values_.left()) query_keys_.part();
            else weight_values_.part();
        }
    }

    void finish_values() {
        while (weight_values_.left() > 0) weight_values_.part();
        weight_values_.finish();
    }

    void raise_base(const Piece& piece) {
        const Vec before = Vec::load(base_);
        Vec highest = total_of(highest_, [](Vec a, Vec b) { return max(a, b); });
        if (!kScaled) highest = highest * Vec::of(split_.score_scale);
        const Vec base = raised_base(before, max(highest, Vec::of(kNoScore)));
        if (!any_differs(before, base)) return;
        base.store(base_);
        if (piece.is_first) return;
        finish_values();
        exp2(before - base).store(factors_);
        scale_columns(factors_, kTile, kTile, sums_);
        scale_columns(factors_, kTile, dims_, partial_.values + piece.column * dims_);
    }

    // The highest scores of one column, by place in sixteen; not scaled where score_scale alone would do it. A NaN is left
    // out.
    template <bool kMasked>
    void look_at_column(const Piece& piece, Steps steps, int64_t i) const {
        const float* scores = piece.scores + i * kChunkTokens;
        const Seen seen(split_, piece.column + i, piece.chunk);
        Vec highest = Vec::of(-__builtin_inff());
        for (int64_t t = steps.first * kPairStep; t < steps.last * kPairStep; t += kTile) {
            Vec score = Vec::load(scores + t);
            if constexpr (kScaled) score = score * Vec::load(kv_.key_factors() + piece.chunk + t);
            if constexpr (kMasked) score = seen.or_hidden(score, t);
            highest = max(score, highest);
        }
        highest.store(highest_ + i * kTile);
    }

    // The scores of one column to weights, a row of each step's tile.
    template <bool kMasked>
    void weigh_column(const Piece& piece, Steps steps, int64_t i, bf16* weights) const {
        const float* scores = piece.scores + i * kChunkTokens;
        const Seen seen(split_, piece.column + i, piece.chunk);
        const Vec lowered = Vec::of(0.0f - base_[i]);
        Vec sum = Vec::load(sums_ + i * kTile);
        const auto weight = [&](int64_t t) {
            const Vec factor = kScaled ? Vec::load(kv_.key_factors() + piece.chunk + t) : Vec::of(split_.score_scale);
            Vec score = fma(Vec::load(scores + t), factor, lowered);
            if constexpr (kMasked) score = seen.or_hidden(score, t);
            const Vec weight = exp2_for_bf16(score);
            sum = sum + weight;
            // Without scales the factors are 1 for what can be seen.
            return kScaled ? weight * Vec::load(kv_.value_factors() + piece.chunk + t) : weight;
        };
        for (int64_t step = steps.first; step < steps.last; ++step) {
            const Vec lower = weight(step * kPairStep), upper = weight(step * kPairStep + kTile);
            _mm512_store_si512(weights + (step * kTile + i) * kPairStep, (__m512i)_mm512_cvtne2ps_pbh(upper.v, lower.v));
        }
        sum.store(sums_ + i * kTile);
    }

    static constexpr int64_t kChunkSteps = kChunkTokens / kPairStep;
    static constexpr int64_t kPieceWork = kTile / 4 + kTile;  // a column's look takes a quarter of what weighing does

    const Split& split_;
    const PackedSplit& kv_;
    const bf16* queries_;
    const Partial& partial_;
    const int64_t dims_;
    float* scores_[2];  // that of the last piece that was asked for, then the other one
    float* highest_;    // [16 columns][16], by place in sixteen
    float* sums_;       // [16 columns][16], likewise
    float* base_;       // [16 columns]
    float* factors_;    // [16 columns]
    bf16* weights_[2];  // [steps of a chunk][16 columns][kPairStep]: to write to next, and what is multiplied
    int64_t parts_ = 0; // of products, when the piece began
    QueryKeys query_keys_;
    WeightValues weight_values_;
};

}  // namespace

int64_t wide_scratch_bytes() { return kScratchFloats * 4 + 2 * kWeightWords * 2; }

void put_wide_query(const PagedKv& kv, const float* row, int64_t column, uint8_t* queries) {
    KvTiles::put_query(kv, row, reinterpret_cast<bf16*>(queries) + column * padded_dims(kv));
}

void attend_wide(const Split& split, PackedSplits& packed, const uint8_t* queries, uint8_t* scratch,
                 const Partial& partial) {
    const int64_t first = split.first_seen(0), last = split.last_seen(split.columns - 1);
    PackedSplit& kv = packed.place_of(split);
    if (first < last) kv.fetch(split, first, last);
    const bf16* words = reinterpret_cast<const bf16*>(queries);
    if (is_fp8(split.kv)) WideSplit<true>(split, kv, words, scratch, partial).run();
    else WideSplit<false>(split, kv, words, scratch, partial).run();
}

}  // namespace tiercel::TIERCEL_ISA::tiled
#endif
