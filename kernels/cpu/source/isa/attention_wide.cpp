#include "../isa.h"

#if defined(TIERCEL_ISA_AMX)
#include "attention_wide.h"
#include "tile_products.h"
#include "wide_softmax.h"

namespace tiercel::TIERCEL_ISA::tiled {
namespace {

constexpr int64_t kScratchFloats = 2 * kChunkScores + WideSoftmax<true>::kFloats;

// Piece by piece, so that scores stay in the first cache: while a piece's are weighed, the next one's are made and the
// values of the one before are added up, so that neither tiles nor vectors are idle for long.
template <bool kScaled>
class WideSplit {
public:
    WideSplit(const Split& split, const PackedSplit& kv, const bf16* queries, uint8_t* memory, const Partial& partial)
        : kv_(kv), queries_(queries), partial_(partial), dims_(padded_dims(split.kv)), pieces_(split, partial, dims_),
          softmax_(split, kv.key_factors(), kv.value_factors(), reinterpret_cast<float*>(memory) + 2 * kChunkScores) {
        scores_[0] = reinterpret_cast<float*>(memory);
        scores_[1] = scores_[0] + kChunkScores;
        weights_[0] = reinterpret_cast<bf16*>(scores_[0] + kScratchFloats);
        weights_[1] = weights_[0] + kWeightWords;
    }

    void run() {
        Piece piece = pieces_.next({});
        if (!piece.is_there()) return;
        start_scores(piece);
        while (query_keys_.left() > 0) query_keys_.part();
        query_keys_.finish();
        while (piece.is_there()) {
            const float* scores = scores_[0];
            const Piece next = pieces_.next(piece);
            if (next.is_there()) start_scores(next);
            parts_ = query_keys_.left() + weight_values_.left();
            if (!piece.all_seen) attend<true>(piece, piece.steps, scores);
            else if (piece.steps.number() < kChunkSteps) attend<false>(piece, piece.steps, scores);
            else attend<false>(piece, {0, kChunkSteps}, scores);
            piece = next;
        }
        finish_values();
    }

private:
    void start_scores(const Piece& piece) {
        std::swap(scores_[0], scores_[1]);
        query_keys_ = QueryKeys(queries_ + piece.column * dims_, kv_, piece.chunk, piece.steps, dims_, scores_[0]);
    }

    template <bool kMasked>
    void attend(const Piece& piece, Steps steps, const float* scores) {
        if (piece.is_first) softmax_.begin();
        for (int i = 0; i < kTile; ++i) {
            softmax_.template look_at<kMasked>(piece, steps, scores, i);
            if (i % 4 == 3) make_parts(i / 4 + 1);
        }
        if (softmax_.raise_base(piece)) {
            finish_values();
            scale_columns(softmax_.factors(), kTile, dims_, partial_.values + piece.column * dims_);
        }
        bf16* weights = weights_[0];
        std::swap(weights_[0], weights_[1]);
        for (int i = 0; i < kTile; ++i) {
            softmax_.template weigh<kMasked>(piece, steps, scores, i, weights);
            make_parts(kTile / 4 + i + 1);
        }
        query_keys_.finish();
        weight_values_.finish();
        weight_values_ = WeightValues(weights, kv_, piece.chunk, steps, dims_, piece.is_first,
                                      partial_.values + piece.column * dims_);
        if (piece.is_last) softmax_.end(piece, partial_);
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

    static constexpr int64_t kPieceWork = kTile / 4 + kTile;  // a column's look takes a quarter of what weighing does

    const PackedSplit& kv_;
    const bf16* queries_;
    const Partial& partial_;
    const int64_t dims_;
    const Pieces pieces_;
    WideSoftmax<kScaled> softmax_;
    float* scores_[2];  // [16 columns][kChunkTokens]: of the piece that was asked for last, then the other one's
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
