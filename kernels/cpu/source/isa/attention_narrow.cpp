#include "../isa.h"

#if defined(TIERCEL_ISA_AMX)
#include "attention_narrow.h"
#include "narrow_kv.h"
#include "narrow_scores.h"
#include "tiles.h"

namespace tiercel::TIERCEL_ISA::tiled {
namespace {

// Tiles: 0 is a full one, for rows of K or V; 1 queries, 2 scores, 3 weights, 4 to 7 values (`ColumnTiles`).

// scores[16][kColumns] = K Q^T.
template <int kColumns>
void multiply_keys(const KvTiles::KeyTile& keys, int64_t num_steps, const bf16* q, float* scores) {
    stores_before_tiles();
    _tile_zero(2);
    for (int64_t i = 0; i < num_steps; ++i) {
        _tile_loadd(1, q + i * kTile * 2 * kColumns, 4 * kColumns);
        _tile_loadd(0, keys.data + i * keys.step_words, keys.stride_bytes);
        _tile_dpbf16ps(2, 0, 1);
    }
    _tile_stored(2, scores, 4 * kColumns);
}

// values += P V for 32 tokens and 16 kTiles dimensions.
template <int kTiles>
void multiply_values(const bf16* weights, const bf16* values) {
    stores_before_tiles();
    _tile_loadd(3, weights, 64);
    _tile_loadd(0, values, 64);
    _tile_dpbf16ps(4, 3, 0);
    _tile_loadd(0, values + kTileWords, 64);
    _tile_dpbf16ps(5, 3, 0);
    if constexpr (kTiles == 4) {
        _tile_loadd(0, values + 2 * kTileWords, 64);
        _tile_dpbf16ps(6, 3, 0);
        _tile_loadd(0, values + 3 * kTileWords, 64);
        _tile_dpbf16ps(7, 3, 0);
    }
}

template <int kColumns>
class NarrowSplit {
public:
    NarrowSplit(const Split& split, const uint8_t* queries, uint8_t* scratch)
        : split_(split), first_(split.first_seen(0) / kPairStep * kPairStep), last_(split.last_seen(kColumns - 1)),
          dims_(padded_dims(split.kv)), has_scales_(is_fp8(split.kv)), q_(reinterpret_cast<const bf16*>(queries)),
          raw_(reinterpret_cast<float*>(scratch)), weights_(reinterpret_cast<bf16*>(raw_ + kSplitTokens * kColumns)),
          kv_(split, reinterpret_cast<uint8_t*>(weights_ + kSplitTokens * kColumns)), scores_(split) {}

    void attend(const Partial& partial) {
        multiply_all_keys();
        // Of all dimensions in turn, so that memory is read evenly; what a product adds to goes through the first cache.
        for (int64_t t = first_; t < last_;) {
            int64_t chunk = t / kChunkTokens;
            alignas(64) float factors[16];
            if (scores_.start_chunk(chunk, factors) && t > first_)
                scale_columns(factors, kColumns, dims_, partial.values);
            int64_t end = std::min(++chunk * kChunkTokens, last_);
            // With so few tiles they can stay for several chunks.
            while (dims_ <= 64 && end < last_ && !scores_.raises_base(chunk))
                end = std::min(++chunk * kChunkTokens, last_);
            for (int64_t dim = 0; dim < dims_; dim += 64) {
                if (dims_ - dim >= 64) add_values<4>(t, end, dim, partial.values + dim);
                else add_values<2>(t, end, dim, partial.values + dim);
            }
            t = end;
        }
        scores_.base().store(partial.highest);
        scores_.total().store(partial.sums);
    }

private:
    // Each product's result is looked at while the next one is made.
    void multiply_all_keys() {
        KvTiles::KeyTile next = kv_.key_tile(first_);
        for (int64_t t = first_; t < last_; t += kTile) {
            const KvTiles::KeyTile keys = next;
            if (t + kTile < last_) next = kv_.key_tile(t + kTile);
            multiply_keys<kColumns>(keys, dims_ / 32, q_, raw_ + t * kColumns);
            if (t > first_) look_at(t - kTile);
        }
        look_at((last_ - 1) / kTile * kTile);
    }

    void look_at(int64_t t) {
        scores_.look_at(raw_ + t * kColumns, t, has_scales_ ? kv_.key_factors() + t : nullptr);
        if (t + kTile >= last_ || (t + kTile) % kChunkTokens == 0) scores_.end_look(t / kChunkTokens);
    }

    template <int kTiles>
    void add_values(int64_t first, int64_t last, int64_t dim, float* values) {
        if (first == first_) {
            _tile_zero(4);
            _tile_zero(5);
            if constexpr (kTiles == 4) {
                _tile_zero(6);
                _tile_zero(7);
            }
        } else {
            _tile_loadd(4, values, dims_ * 4);
            _tile_loadd(5, values + 16, dims_ * 4);
            if constexpr (kTiles == 4) {
                _tile_loadd(6, values + 32, dims_ * 4);
                _tile_loadd(7, values + 48, dims_ * 4);
            }
        }
        const bf16* next = prepare(first, dim);
        for (int64_t t = first; t < last; t += kPairStep) {
            const bf16* tiles = next;
            if (t + kPairStep < last) next = prepare(t + kPairStep, dim);
            multiply_values<kTiles>(weights_ + t * kColumns, tiles);
        }
        _tile_stored(4, values, dims_ * 4);
        _tile_stored(5, values + 16, dims_ * 4);
        if constexpr (kTiles == 4) {
            _tile_stored(6, values + 32, dims_ * 4);
            _tile_stored(7, values + 48, dims_ * 4);
        }
    }

    // The operands of tokens [t, t + kPairStep).
    const bf16* prepare(int64_t t, int64_t dim) {
        const bf16* tiles = kv_.value_tiles(t, dim);
        if (dim == 0)
            scores_.weigh(raw_ + t * kColumns, t, has_scales_ ? kv_.key_factors() + t : nullptr,
                          has_scales_ ? kv_.value_factors() + t : nullptr, weights_ + t * kColumns);
        return tiles;
    }

    const Split& split_;
    const int64_t first_, last_;  // tokens that are seen
    const int64_t dims_;
    const bool has_scales_;
    const bf16* q_;   // [dims / 32][kTile pairs of dimensions][kColumns]
    float* raw_;      // [kSplitTokens][kColumns]
    bf16* weights_;   // [kSplitTokens / kPairStep][kColumns][kPairStep]
    NarrowKv kv_;
    NarrowScores<kColumns> scores_;
};

template <int kColumns>
void attend_columns(const Split& split, const uint8_t* queries, uint8_t* scratch, const Partial& partial) {
    if (split.first_seen(0) >= split.last_seen(kColumns - 1)) {
        clear_columns(partial, 0, kTile, padded_dims(split.kv));
        return;
    }
    NarrowSplit<kColumns>(split, queries, scratch).attend(partial);
}

}  // namespace

int64_t narrow_scratch_bytes(const PagedKv& kv) {
    return kSplitTokens * kFewColumns * (4 + 2) + NarrowKv::scratch_bytes(kv);
}

void put_narrow_query(const PagedKv& kv, const float* row, int64_t column, int64_t columns, uint8_t* queries) {
    const int64_t dims = padded_dims(kv);
    const int width = narrow_columns(columns);
    alignas(64) bf16 words[kMaxHeadDim];
    KvTiles::put_query(kv, row, words);
    const __m512i places = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(width));
    uint32_t* to = reinterpret_cast<uint32_t*>(queries) + column;
    for (int64_t step = 0; step < dims / 32; ++step, to += kTile * width)
        _mm512_i32scatter_epi32(to, places, _mm512_load_si512(words + step * 32), 4);
}

void attend_narrow_split(const Split& split, const uint8_t* queries, uint8_t* scratch, const Partial& partial) {
    switch (narrow_columns(split.columns)) {
        case 4: return attend_columns<4>(split, queries, scratch, partial);
        case 8: return attend_columns<8>(split, queries, scratch, partial);
        default: return attend_columns<16>(split, queries, scratch, partial);
    }
}

}  // namespace tiercel::TIERCEL_ISA::tiled
#endif
