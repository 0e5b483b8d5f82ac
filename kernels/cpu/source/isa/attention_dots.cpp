#include "../isa.h"

#if defined(TIERCEL_BF16_PRODUCTS) && !defined(TIERCEL_ISA_AMX)
#include "attention_bf16.h"
#include "dots.h"
#include "streamed_kv.h"
#include "wide_softmax.h"

namespace tiercel::TIERCEL_ISA::tiled {
namespace {

static_assert(kChunkTokens == PagesAhead::kPartTokens, "K and V are read in the order in which they are asked for");

constexpr int kCodeRows = 4;  // with four vectors each, as many as there are registers for

constexpr int64_t kScratchFloats = kTile * kChunkTokens + WideSoftmax<true>::kFloats;

template <bool kScaled, typename Kv>
class DotSplit {
public:
    DotSplit(const Split& split, Kv kv, const bf16* queries, uint8_t* memory, const Partial& partial)
        : split_(split), kv_(kv), queries_(reinterpret_cast<const uint8_t*>(queries)), partial_(partial),
          dims_(padded_dims(split.kv)), scores_(reinterpret_cast<float*>(memory)),
          softmax_(split, kv_.key_factors(), kv_.value_factors(), scores_ + kTile * kChunkTokens),
          weights_(reinterpret_cast<bf16*>(scores_ + kScratchFloats)) {}

    void run() {
        const Pieces pieces(split_, partial_, dims_);
        for (Piece piece = pieces.next({}); piece.is_there(); piece = pieces.next(piece)) {
            if (!piece.all_seen) attend<true>(piece, piece.steps);
            else if (piece.steps.number() < kChunkSteps) attend<false>(piece, piece.steps);
            else attend<false>(piece, {0, kChunkSteps});
        }
    }

private:
    template <bool kMasked>
    void attend(const Piece& piece, Steps steps) {
        const int64_t columns = std::min(kTile, split_.columns - piece.column);
        float* values = partial_.values + piece.column * dims_;
        if constexpr (Kv::kIsStreamed) {
            if (columns <= kDotRows) with_rows(columns, [&](auto rows) { multiply_rows_of_keys<rows.value>(piece); });
            else multiply_keys(piece, columns);
        } else {
            multiply_keys(piece, columns);
        }
        if (piece.is_first) softmax_.begin();
        for (int64_t i = 0; i < columns; ++i) softmax_.template look_at<kMasked>(piece, steps, scores_, i);
        if (softmax_.raise_base(piece)) scale_columns(softmax_.factors(), columns, dims_, values);
        kv_.load_value_factors(piece.chunk + steps.first * kPairStep, piece.chunk + steps.last * kPairStep);
        for (int64_t i = 0; i < columns; ++i) softmax_.template weigh<kMasked>(piece, steps, scores_, i, weights_);
        if constexpr (Kv::kIsStreamed) {
            for (int64_t step = steps.first; step < steps.last; ++step)
                add_step(piece, columns, step, piece.is_first && step == steps.first, values);
        } else {
            for (int64_t dim = 0; dim < dims_; dim += kValueDims)
                add_values(piece, columns, steps, dim, piece.is_first, values + dim);
        }
        if (piece.is_last) softmax_.end(piece, partial_);
    }

    // scores [columns][kChunkTokens] = Q K^T.
    void multiply_keys(const Piece& piece, int64_t columns) {
        for (int64_t step = piece.steps.first; step < piece.steps.last; ++step) {
            const auto* keys = reinterpret_cast<const uint8_t*>(kv_.keys(piece.chunk + step * kPairStep));
            for (int64_t first = 0; first < columns; first += kDotRows)
                with_rows(std::min<int64_t>(columns - first, kDotRows), [&](auto rows) {
                    Dots<Bf16Dot, rows.value, 2> dots([](int, int) { return Bf16Dot::zero(); });
                    const uint8_t* queries = queries_ + (piece.column + first) * dims_ * 2;
                    dots.add(queries, dims_ * 2, keys, kTile * dims_ * 2, dims_ / 2);
                    float* scores = scores_ + first * kChunkTokens + step * kPairStep;
                    dots.end([&](int i, int j, __m512 sum) {
                        _mm512_store_ps(scores + i * kChunkTokens + j * kTile, sum);
                    });
                });
        }
    }

    // The same for a few columns, of K that is turned around in registers.
    template <int kRows>
    void multiply_rows_of_keys(const Piece& piece) {
        for (int64_t t = piece.steps.first * kPairStep; t < piece.steps.last * kPairStep; t += kTile) {
            const uint8_t* queries = queries_ + piece.column * dims_ * 2;
            Dots<Bf16Dot, kRows, 1> dots([](int, int) { return Bf16Dot::zero(); });
            const auto add = [&](int64_t k, __m512i pairs) __attribute__((always_inline)) {
                dots.add_dword(queries + k * 4, dims_ * 2, {pairs});
            };
            kv_.each_key_pair(piece.chunk + t, add);
            dots.end([&](int i, int, __m512 sum) { _mm512_store_ps(scores_ + i * kChunkTokens + t, sum); });
        }
    }

    // values [columns][dims] = or += P V of a step's tokens.
    void add_step(const Piece& piece, int64_t columns, int64_t step, bool is_first, float* values) {
        const int64_t t = piece.chunk + step * kPairStep;
        if constexpr (kScaled) {
            if (columns <= kCodeRows) {
                with_rows(columns, [&](auto rows) {
                    if constexpr (rows.value <= kCodeRows) add_codes<rows.value>(t, step, is_first, values);
                });
                return;
            }
        }
        const uint8_t* first_rows = kv_.value_rows(t);
        const uint8_t* last_rows = first_rows ? kv_.value_rows(t + kTile) : nullptr;
        if (last_rows == nullptr) {
            for (int64_t dim = 0; dim < dims_; dim += kValueDims)
                add_values(piece, columns, {step, step + 1}, dim, is_first, values + dim);
            return;
        }
        const auto* weights = reinterpret_cast<const uint8_t*>(weights_ + step * kTile * kPairStep);
        for (int64_t first = 0; first < columns; first += kDotRows)
            with_rows(std::min<int64_t>(columns - first, kDotRows), [&](auto rows) {
                float* to = values + first * dims_;
                const uint8_t* from = weights + first * kPairStep * 2;
                int64_t dim = 0;
                if constexpr (rows.value <= 4)
                    for (; dim + 64 <= dims_; dim += 64)
                        add_rows<rows.value, 2>(first_rows, last_rows, dim, from, is_first, to + dim);
                for (; dim < dims_; dim += 32)
                    add_rows<rows.value, 1>(first_rows, last_rows, dim, from, is_first, to + dim);
            });
    }

    // The same of FP8, for a few columns, whose V is widened in registers.
    template <int kRows>
    void add_codes(int64_t t, int64_t step, bool is_first, float* values) const {
        for (int64_t dim = 0; dim < dims_; dim += kValueDims, values += kValueDims) {
            Dots<Bf16Dot, kRows, 4> dots([&](int i, int j) {
                return is_first ? Bf16Dot::zero() : _mm512_load_ps(values + i * dims_ + j * kTile);
            });
            const auto* weights = reinterpret_cast<const uint8_t*>(weights_ + step * kTile * kPairStep);
            const auto add = [&](int64_t k, const std::array<__m512i, 4>& pairs) __attribute__((always_inline)) {
                dots.add_dword(weights + k * 4, kPairStep * 2, pairs);
            };
            kv_.each_value_pair(t, dim, add);
            dots.end([&](int i, int j, __m512 sum) { _mm512_store_ps(values + i * dims_ + j * kTile, sum); });
        }
    }

    // The same of 32 kVecs dimensions, of rows of V whose pairs are put side by side in registers.
    template <int kRows, int kVecs>
    void add_rows(const uint8_t* first_rows, const uint8_t* last_rows, int64_t dim, const uint8_t* weights,
                  bool is_first, float* values) const {
        Dots<Bf16Dot, kRows, 2 * kVecs> dots([&](int i, int j) {
            return is_first ? Bf16Dot::zero() : _mm512_load_ps(values + i * dims_ + j * kTile);
        });
        for (const uint8_t* rows : {first_rows, last_rows}) {
            const uint8_t* row = rows + dim * 2;
#pragma GCC unroll 2
            for (int64_t i = 0; i < kTile; i += 2, row += dims_ * 4, weights += 4) {
                std::array<__m512i, 2 * kVecs> pairs;
#pragma GCC unroll 2
                for (int j = 0; j < kVecs; ++j) {
                    const __m512i even = _mm512_loadu_si512(row + j * 64);
                    const __m512i odd = _mm512_loadu_si512(row + dims_ * 2 + j * 64);
                    pairs[2 * j] = _mm512_unpacklo_epi16(even, odd);
                    pairs[2 * j + 1] = _mm512_unpackhi_epi16(even, odd);
                }
                dots.add_dword(weights, kPairStep * 2, pairs);
            }
        }
        dots.end([&](int i, int j, __m512 sum) { _mm512_store_ps(values + i * dims_ + j * kTile, sum); });
    }

    // values [columns][kValueDims or what is left] = or += P V.
    void add_values(const Piece& piece, int64_t columns, Steps steps, int64_t dim, bool is_first, float* values) {
        const int64_t t = piece.chunk + steps.first * kPairStep;
        const auto* tiles = reinterpret_cast<const uint8_t*>(kv_.value_tiles(t, dim));
        const int64_t num_tiles = std::min(dims_ - dim, kValueDims) / kTile;
        for (int64_t first = 0; first < columns; first += kDotRows)
            with_rows(std::min<int64_t>(columns - first, kDotRows), [&](auto rows) {
                constexpr int kVecs = rows.value <= 4 ? 4 : 2;
                const auto* weights = reinterpret_cast<const uint8_t*>(weights_ + first * kPairStep);
                for (int64_t tile = 0; tile < num_tiles; tile += kVecs) {
                    const uint8_t* from = tiles + tile * kTileWords * 2;
                    float* to = values + first * dims_ + tile * kTile;
                    if (num_tiles - tile >= kVecs) add<rows.value, kVecs>(steps, weights, from, is_first, to);
                    else add<rows.value, 2>(steps, weights, from, is_first, to);
                }
            });
    }

    template <int kRows, int kVecs>
    void add(Steps steps, const uint8_t* weights, const uint8_t* tiles, bool is_first, float* values) const {
        Dots<Bf16Dot, kRows, kVecs> dots([&](int i, int j) {
            return is_first ? Bf16Dot::zero() : _mm512_load_ps(values + i * dims_ + j * kTile);
        });
        for (int64_t step = steps.first; step < steps.last; ++step, tiles += kPairStep * dims_ * 2)
            dots.add(weights + step * kTile * kPairStep * 2, kPairStep * 2, tiles, kTileWords * 2, kPairStep / 2);
        dots.end([&](int i, int j, __m512 sum) { _mm512_store_ps(values + i * dims_ + j * kTile, sum); });
    }

    const Split& split_;
    Kv kv_;
    const uint8_t* const queries_;  // [columns][dims] of bf16
    const Partial& partial_;
    const int64_t dims_;
    float* const scores_;           // [16 columns][kChunkTokens]
    WideSoftmax<kScaled> softmax_;
    bf16* const weights_;           // [steps of a chunk][16 columns][kPairStep]
};

constexpr int64_t kPieceBytes = kScratchFloats * 4 + kWeightWords * 2;

template <bool kIsFp8>
void attend(const Split& split, PackedSplits& packed, const bf16* queries, uint8_t* scratch, const Partial& partial) {
    if (split.columns <= kFewColumns) {
        using Kv = StreamedKv<kIsFp8>;
        return DotSplit<kIsFp8, Kv>(split, Kv(split, scratch + kPieceBytes), queries, scratch, partial).run();
    }
    const int64_t first = split.first_seen(0), last = split.last_seen(split.columns - 1);
    PackedSplit& kv = packed.place_of(split);
    if (first < last) kv.fetch(split, first, last);
    DotSplit<kIsFp8, KeptKv>(split, KeptKv(kv), queries, scratch, partial).run();
}

}  // namespace

int64_t value_floats(const PagedKv& kv) { return padded_dims(kv); }

int64_t query_bytes(const PagedKv& kv) { return kMaxColumns * padded_dims(kv) * 2; }

int64_t scratch_bytes(const PagedKv& kv) { return kPieceBytes + StreamedKv<true>::bytes(kv); }

void put_query(const PagedKv& kv, const float* row, int64_t column, int64_t, uint8_t* queries) {
    KvTiles::put_query(kv, row, reinterpret_cast<bf16*>(queries) + column * padded_dims(kv));
}

void attend_split(const Split& split, PackedSplits& packed, const uint8_t* queries, uint8_t* scratch,
                  const Partial& partial) {
    const bf16* words = reinterpret_cast<const bf16*>(queries);
    if (is_fp8(split.kv)) attend<true>(split, packed, words, scratch, partial);
    else attend<false>(split, packed, words, scratch, partial);
}

void in_order(const PagedKv& kv, const float* from, float* to) { KvTiles::in_order(kv, from, to); }

}  // namespace tiercel::TIERCEL_ISA::tiled
#endif
