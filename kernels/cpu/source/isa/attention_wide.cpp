#include "../isa.h"

#if defined(TIERCEL_ISA_AMX)
#include "attention_wide.h"
#include "exp2.h"
#include "tile_products.h"
#include "transpose.h"

namespace tiercel::TIERCEL_ISA::tiled {
namespace {

// A tile's scores, and a chunk to spare: the next tile's are made while this one's are weighed, each in the place of the chunk
// that has been weighed before.
constexpr int64_t kSlots = kSplitTokens / kChunkTokens + 1;

constexpr int64_t kChunkSteps = kChunkTokens / kPairStep;
constexpr int64_t kByPlace = kPairColumns * kTile;
constexpr int64_t kScratchFloats = kSlots * kChunkScores + 2 * (2 * kByPlace + kPairColumns);
constexpr int64_t kWeightWords = kPairColumns * kChunkTokens;

// Two tiles of columns on their way through a split.
struct ColumnPair {
    int64_t column = 0;
    int64_t first = 0, last = 0;  // tokens of the split that any of them sees
    int64_t slot = 0;             // of the first chunk's scores
    float* highest = nullptr;     // [kPairColumns][16], by place in sixteen; not scaled where score_scale alone would do it
    float* sums = nullptr;        // [kPairColumns][16], likewise
    float* lowered = nullptr;     // [kPairColumns], 0 - the highest score

    bool sees(int64_t chunk) const { return first < chunk + kChunkTokens && chunk < last; }
    Steps steps(int64_t chunk) const {
        return {std::max<int64_t>(0, first - chunk) / kPairStep,
                (std::min(last - chunk, kChunkTokens) + kPairStep - 1) / kPairStep};
    }
};

// A tile's scores of a chunk.
struct Scores {
    const ColumnPair* columns = nullptr;
    float* data = nullptr;  // [kPairColumns][kChunkTokens]
    int64_t chunk = 0;
    Steps steps;
    bool all_seen = false;
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

// The unit that multiplies tiles and those that work on vectors are kept busy at the same time: while a tile of columns has
// its scores of a chunk weighed, another one's products P V are made and a third one's Q K^T, whose scores take the
// place of such as have been weighed.
template <bool kScaled>
class WideSplit {
public:
    WideSplit(const Split& split, const PackedSplit& kv, const bf16* queries, uint8_t* memory, const Partial& partial)
        : split_(split), kv_(kv), queries_(queries), partial_(partial), dims_(padded_dims(split.kv)),
          products_(queries, dims_) {
        scores_ = reinterpret_cast<float*>(memory);
        float* others = scores_ + kSlots * kChunkScores;
        for (ColumnPair* columns : {&now_, &next_}) {
            columns->highest = others;
            columns->sums = others + kByPlace;
            columns->lowered = others + 2 * kByPlace;
            others += 2 * kByPlace + kPairColumns;
        }
        weights_[0] = reinterpret_cast<bf16*>(others);
        weights_[1] = weights_[0] + kWeightWords;
    }

    void run() {
        for (int64_t column = 0; now_.last > 0 || column < split_.columns; column += kPairColumns) {
            start(next_, column);
            for (int64_t chunk = 0; chunk < split_.count; chunk += kChunkTokens) {
                if (next_.sees(chunk)) multiply_keys(chunk);
                if (now_.sees(chunk)) weigh(chunk);
                else if (making_.columns != nullptr) pass();
            }
            if (now_.last > 0)
                for (int64_t i = 0; i < kPairColumns; i += kTile)
                    total_of(now_.sums + i * kTile, [](Vec a, Vec b) { return a + b; })
                        .store(partial_.sums + now_.column + i);
            if (next_.last > 0) settle_highest();
            std::swap(now_, next_);
        }
        pass();
    }

private:
    void start(ColumnPair& columns, int64_t column) {
        columns.column = column;
        columns.first = columns.last = 0;
        columns.slot = (now_.slot + kSlots - 1) % kSlots;
        if (column >= split_.columns) return;
        const int64_t first = split_.first_seen(column), last = split_.last_seen(column + kPairColumns - 1);
        if (first >= last) return clear_columns(partial_, column, column + kPairColumns, dims_);
        columns.first = first;
        columns.last = last;
        std::fill_n(columns.highest, kByPlace, -__builtin_inff());
        std::fill_n(columns.sums, kByPlace, 0.0f);
    }

    // The next tile's.
    void settle_highest() {
        for (int i = 0; i < kPairColumns; ++i) raise_highest(made_, i);
        made_ = {};
        for (int64_t i = 0; i < kPairColumns; i += kTile) {
            Vec highest = total_of(next_.highest + i * kTile, [](Vec a, Vec b) { return max(a, b); });
            if (!kScaled) highest = highest * Vec::of(split_.score_scale);
            highest = max(highest, Vec::of(kNoScore));
            highest.store(partial_.highest + next_.column + i);
            (Vec::zero() - highest).store(next_.lowered + i);
        }
    }

    Scores scores_of(const ColumnPair& columns, int64_t chunk) const {
        const Steps steps = columns.steps(chunk);
        const int64_t start = split_.start + chunk;
        return {&columns, scores_ + (columns.slot + chunk / kChunkTokens) % kSlots * kChunkScores, chunk, steps,
                split_.low[columns.column + kPairColumns - 1] <= static_cast<float>(start + steps.first * kPairStep) &&
                    static_cast<float>(start + steps.last * kPairStep) <= split_.high[columns.column]};
    }

    // The products of the next tile's queries with a chunk's keys are what to make next.
    void multiply_keys(int64_t chunk) {
        making_ = scores_of(next_, chunk);
        products_.start_keys(next_.column, kv_, chunk, making_.steps, making_.data);
    }

    void weigh(int64_t chunk) {
        const Scores scores = scores_of(now_, chunk);
        bf16* weights = weights_[0];
        std::swap(weights_[0], weights_[1]);
        if (!scores.all_seen) pass([&](int i) { weigh_column<true>(scores, scores.steps, i, weights); });
        else if (scores.steps.number() < kChunkTokens / kPairStep)
            pass([&](int i) { weigh_column<false>(scores, scores.steps, i, weights); });
        else pass([&](int i) { weigh_column<false>(scores, {0, kChunkTokens / kPairStep}, i, weights); });
        products_.start_values(weights, kv_, chunk, scores.steps, chunk <= now_.first,
                               partial_.values + now_.column * dims_);
    }

    // kPairColumns times `work`, and meanwhile the products that are to be made, and the highest of those made before.
    template <typename Work>
    void pass(const Work& work) {
        const int64_t parts = products_.left();
        for (int i = 0; i < kPairColumns; ++i) {
            work(i);
            if (made_.columns != nullptr) raise_highest(made_, i);
            while (products_.left() * kPairColumns > parts * (kPairColumns - 1 - i)) products_.part();
        }
        products_.finish();
        made_ = making_;
        making_ = {};
    }
    void pass() {
        pass([](int) {});
    }

    // The highest scores of one column. A NaN is left out.
    void raise_highest(const Scores& made, int64_t i) const {
        if (made.all_seen) raise_highest<false>(made, i);
        else raise_highest<true>(made, i);
    }
    template <bool kMasked>
    void raise_highest(const Scores& made, int64_t i) const {
        const float* scores = made.data + i * kChunkTokens;
        const Seen seen(split_, made.columns->column + i, made.chunk);
        Vec highest = Vec::load(made.columns->highest + i * kTile);
        for (int64_t t = made.steps.first * kPairStep; t < made.steps.last * kPairStep; t += kTile) {
            Vec score = Vec::load(scores + t);
            if constexpr (kScaled) score = score * Vec::load(kv_.key_factors() + made.chunk + t);
            if constexpr (kMasked) score = seen.or_hidden(score, t);
            highest = max(score, highest);
        }
        highest.store(made.columns->highest + i * kTile);
    }

    // The scores of one column to weights, a row of each step's tile.
    template <bool kMasked>
    void weigh_column(const Scores& scores, Steps steps, int64_t i, bf16* weights) const {
        const ColumnPair& columns = *scores.columns;
        const float* from = scores.data + i * kChunkTokens;
        const Seen seen(split_, columns.column + i, scores.chunk);
        const Vec lowered = Vec::of(columns.lowered[i]);
        Vec sum = Vec::load(columns.sums + i * kTile);
        const auto weight = [&](int64_t t) {
            const Vec factor = kScaled ? Vec::load(kv_.key_factors() + scores.chunk + t) : Vec::of(split_.score_scale);
            Vec score = fma(Vec::load(from + t), factor, lowered);
            if constexpr (kMasked) score = seen.or_hidden(score, t);
            const Vec weight = exp2_for_bf16(score);
            sum = sum + weight;
            // Without scales the factors are 1 for what can be seen.
            return kScaled ? weight * Vec::load(kv_.value_factors() + scores.chunk + t) : weight;
        };
        for (int64_t step = steps.first; step < steps.last; ++step) {
            const Vec lower = weight(step * kPairStep), upper = weight(step * kPairStep + kTile);
            bf16* to = weights + ((i / kTile * kChunkSteps + step) * kTile + i % kTile) * kPairStep;
            _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh(upper.v, lower.v));
        }
        sum.store(columns.sums + i * kTile);
    }

    const Split& split_;
    const PackedSplit& kv_;
    const bf16* queries_;
    const Partial& partial_;
    const int64_t dims_;
    float* scores_;  // [kSlots][kChunkScores]
    ColumnPair now_, next_;
    Scores making_, made_;  // by products_; and what has not been looked through for the highest
    PairProducts products_;
    bf16* weights_[2];  // [steps of a chunk][kPairColumns][kPairStep]: to write to next, and what is multiplied
};

// Sixteen rows of queries, in place, in the order of the stored dimensions.
void order_queries(const PagedKv& kv, bf16* rows) {
    if (!is_fp8(kv)) return;
    // The order of E4m3Widener::key: every other eight of 64.
    for (int64_t i = 0; i < kTile * padded_dims(kv); i += 64) {
        const __m512i a = _mm512_load_si512(rows + i), b = _mm512_load_si512(rows + i + 32);
        _mm512_store_si512(rows + i, _mm512_shuffle_i32x4(a, b, 0x88));
        _mm512_store_si512(rows + i + 32, _mm512_shuffle_i32x4(a, b, 0xdd));
    }
}

}  // namespace

int64_t wide_scratch_bytes() { return kScratchFloats * 4 + 2 * kWeightWords * 2; }

void put_wide_query(const PagedKv& kv, const float* row, int64_t column, int64_t columns, uint8_t* queries) {
    const int64_t dims = padded_dims(kv);
    bf16* tile = reinterpret_cast<bf16*>(queries) + column / kTile * kTile * dims;
    bf16* words = tile + column % kTile * dims;
    for (int64_t d = 0; d < kv.head_dim; d += 8)
        _mm_store_si128(reinterpret_cast<__m128i*>(words + d), to_bf16(_mm256_loadu_ps(row + d)));
    if (column % kTile == kTile - 1 || column == columns - 1) order_queries(kv, tile);
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
