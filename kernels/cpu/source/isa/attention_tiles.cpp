#include "../isa.h"

#if defined(TIERCEL_ISA_AMX)
#include "attention_tiles.h"
#include "attention_wide.h"
#include "exp2.h"
#include "tiled_kv.h"
#include "tiles.h"
#include "transpose.h"

namespace tiercel::TIERCEL_ISA::tiled {
namespace {

constexpr int64_t kTileFloats = kTile * kTile;
constexpr int64_t kTileWords = kTile * kPairStep;

// A product starts from these: where tilezero clears a register, it waits for the product before it.
alignas(64) constexpr float kZeros[kTileFloats] = {};

struct Scratch {
    float* scores;   // [kSplitTokens][kTile]
    bf16* weights;   // [kSplitTokens / kPairStep][kTile][kPairStep]
};
constexpr int64_t kNarrowScratchBytes = kSplitTokens * kTile * (4 + 2);

// scores = K Q^T for 64 tokens and one tile of columns.
void multiply_keys(const TiledKv& kv, int64_t step, int64_t num_steps, const bf16* q, float* scores) {
    const bf16* k[4];
    for (int i = 0; i < 4; ++i) k[i] = kv.key_tile(step + i * kTile);
    const int64_t stride = kv.key_stride_bytes();
    _tile_loadd(0, kZeros, 64);
    _tile_loadd(1, kZeros, 64);
    _tile_loadd(2, kZeros, 64);
    _tile_loadd(3, kZeros, 64);
    for (int64_t i = 0; i < num_steps; ++i) {
        _tile_loadd(4, q + i * kTileWords, 64);
        _tile_loadd(5, k[0] + i * 32, stride);
        _tile_loadd(6, k[1] + i * 32, stride);
        _tile_dpbf16ps(0, 5, 4);
        _tile_dpbf16ps(1, 6, 4);
        _tile_loadd(5, k[2] + i * 32, stride);
        _tile_loadd(6, k[3] + i * 32, stride);
        _tile_dpbf16ps(2, 5, 4);
        _tile_dpbf16ps(3, 6, 4);
    }
    float* to = scores + step * kTile;
    _tile_stored(0, to, 64);
    _tile_stored(1, to + kTileFloats, 64);
    _tile_stored(2, to + 2 * kTileFloats, 64);
    _tile_stored(3, to + 3 * kTileFloats, 64);
}

// True if these 16 columns see all of tokens [first, last).
bool all_seen(const Split& split, int64_t column, int64_t first, int64_t last) {
    return split.low[column + kTile - 1] <= static_cast<float>(split.start + first) &&
           static_cast<float>(split.start + last) <= split.high[column];
}

// The highest of `highest` and of the scaled scores of tokens [first, last) that are seen.
Vec highest_score(const Split& split, const float* factors, int64_t column, int64_t first, int64_t last, Vec highest,
                  const float* scores) {
    if (all_seen(split, column, first, last)) {
        for (int64_t t = first; t < last; ++t)
            highest = max(Vec::load(scores + t * kTile) * Vec::of(factors[t]), highest);  // so a NaN is left out
        return highest;
    }
    const Vec low = Vec::load(split.low + column), high = Vec::load(split.high + column);
    for (int64_t t = first; t < last; ++t) {
        const Vec position = Vec::of(static_cast<float>(split.start + t));
        highest = max(seen_or_hidden(Vec::load(scores + t * kTile) * Vec::of(factors[t]), position, low, high), highest);
    }
    return highest;
}

// The sum of exponentials is sixteen sums, of the tokens with the same place in sixteen, and then a tree of them: in
// whatever way a column is computed, its sum is the same to the bit.
struct Sums {
    Vec by_place[kTile];

    Sums() {
        for (Vec& sum : by_place) sum = Vec::zero();
    }
    Vec total() const {
        Vec sums[kTile];
        std::copy_n(by_place, kTile, sums);
        for (int64_t half = kTile / 2; half > 0; half /= 2)
            for (int64_t i = 0; i < half; ++i) sums[i] = sums[i] + sums[i + half];
        return sums[0];
    }
};

// Scores of 32 tokens from `first` on to weights, as a tile with a row per column.
void weigh(const Split& split, const TiledKv& kv, int64_t column, int64_t first, const float* scores, Vec highest,
           Sums& sums, bf16* weights) {
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                                6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const float* key_factors = kv.key_factors() + first;
    const float* value_factors = kv.value_factors() + first;
    const bool seen = all_seen(split, column, first, first + kPairStep);
    const Vec low = Vec::load(split.low + column), high = Vec::load(split.high + column);
    const auto weight = [&](int64_t t) {
        Vec score = fma(Vec::load(scores + t * kTile), Vec::of(key_factors[t]), Vec::zero() - highest);
        if (!seen) score = seen_or_hidden(score, Vec::of(static_cast<float>(split.start + first + t)), low, high);
        const Vec weight = exp2_for_bf16(score);
        sums.by_place[t % kTile] = sums.by_place[t % kTile] + weight;
        return weight * Vec::of(value_factors[t]);
    };
    __m512i pairs[kTile];
    keep_awake();
#pragma GCC unroll 16
    for (int i = 0; i < kTile; ++i) {
        const Vec even = weight(2 * i), odd = weight(2 * i + 1);
        pairs[i] = _mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh(odd.v, even.v));
    }
    transpose16(pairs);
    for (int i = 0; i < kTile; ++i) _mm512_store_si512(weights + i * kPairStep, pairs[i]);
}

// values = P V for tokens [first, last) and one tile of columns, kTiles tiles of dimensions.
template <int kTiles>
void multiply_values(const TiledKv& kv, int64_t first, int64_t last, int64_t dim, const bf16* weights, float* values,
                     int64_t width) {
    static_assert(kTiles == 2 || kTiles == 4);
    const int64_t stride = kv.value_stride_bytes();
    _tile_loadd(0, kZeros, 64);
    _tile_loadd(1, kZeros, 64);
    if constexpr (kTiles == 4) {
        _tile_loadd(2, kZeros, 64);
        _tile_loadd(3, kZeros, 64);
    }
    for (int64_t t = first; t < last; t += kPairStep) {
        const bf16* rows = kv.value_rows(t) + 2 * dim;
        _tile_loadd(4, weights + t / kPairStep * kTileWords, 64);
        _tile_loadd(5, rows, stride);
        _tile_loadd(6, rows + 32, stride);
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 6);
        if constexpr (kTiles == 4) {
            _tile_loadd(5, rows + 64, stride);
            _tile_loadd(6, rows + 96, stride);
            _tile_dpbf16ps(2, 4, 5);
            _tile_dpbf16ps(3, 4, 6);
        }
    }
    _tile_stored(0, values + dim, width * 4);
    _tile_stored(1, values + dim + 16, width * 4);
    if constexpr (kTiles == 4) {
        _tile_stored(2, values + dim + 32, width * 4);
        _tile_stored(3, values + dim + 48, width * 4);
    }
}

// At most 16 columns.
void attend_narrow(const Split& split, TiledKv& kv, const bf16* queries, const Scratch& scratch, const Partial& partial) {
    const int64_t dims = padded_dims(split.kv), num_steps = dims / 32;
    const int64_t first = split.first_seen(0) / kKeyStep * kKeyStep, last = split.last_seen(kTile - 1);
    if (first >= last) {
        clear_columns(partial, 0, kTile, dims);
        return;
    }
    Vec highest = Vec::of(kNoScore);
    for (int64_t step = first; step < last; step += kKeyStep) {
        kv.fetch_keys(step);
        multiply_keys(kv, step, num_steps, queries, scratch.scores);
        highest = highest_score(split, kv.key_factors(), 0, step, step + kKeyStep, highest, scratch.scores);
    }
    Sums sums;
    for (int64_t step = first; step < last; step += kPairStep) {
        kv.fetch_values(step);
        weigh(split, kv, 0, step, scratch.scores + step * kTile, highest, sums,
              scratch.weights + step / kPairStep * kTileWords);
    }
    highest.store(partial.highest);
    sums.total().store(partial.sums);
    int64_t dim = 0;
    for (; dim + 64 <= dims; dim += 64) multiply_values<4>(kv, first, last, dim, scratch.weights, partial.values, dims);
    if (dim < dims) multiply_values<2>(kv, first, last, dim, scratch.weights, partial.values, dims);
}

// Sixteen rows of queries, in place, to tiles [dims / 32][16 pairs of dimensions][16 columns], as the right operand.
void pack_queries(const PagedKv& kv, bf16* tile) {
    alignas(64) bf16 rows[kTile * kMaxHeadDim];
    const int64_t dims = padded_dims(kv);
    std::memcpy(rows, tile, static_cast<size_t>(kTile * dims * 2));
    for (int64_t step = 0; step < dims / 32; ++step) {
        __m512i pairs[kTile];
        for (int column = 0; column < kTile; ++column) {
            const bf16* row = rows + column * dims;
            if (!is_fp8(kv)) {
                pairs[column] = _mm512_load_si512(row + step * 32);
                continue;
            }
            // The order of E4m3Widener::key: every other eight of 64.
            const __m512i a = _mm512_load_si512(row + step / 2 * 64), b = _mm512_load_si512(row + step / 2 * 64 + 32);
            pairs[column] = step % 2 ? _mm512_shuffle_i32x4(a, b, 0xdd) : _mm512_shuffle_i32x4(a, b, 0x88);
        }
        transpose16(pairs);
        for (int i = 0; i < kTile; ++i) _mm512_store_si512(tile + step * kTileWords + i * 32, pairs[i]);
    }
}

}  // namespace

int64_t value_floats(const PagedKv& kv) { return padded_dims(kv); }

int64_t query_bytes(const PagedKv& kv) { return kMaxColumns * padded_dims(kv) * 2; }

int64_t scratch_bytes(const PagedKv& kv) {
    return std::max(kNarrowScratchBytes, wide_scratch_bytes(kv)) + TiledKv::scratch_bytes(kv);
}

void put_query(const PagedKv& kv, const float* row, int64_t column, int64_t columns, uint8_t* queries) {
    const int64_t dims = padded_dims(kv);
    bf16* tile = reinterpret_cast<bf16*>(queries) + column / kTile * kTile * dims;
    bf16* words = tile + column % kTile * dims;
    for (int64_t d = 0; d < kv.head_dim; d += 8)
        _mm_store_si128(reinterpret_cast<__m128i*>(words + d), to_bf16(_mm256_loadu_ps(row + d)));
    if (column % kTile < kTile - 1 && column < columns - 1) return;
    if (columns <= kTile) pack_queries(kv, tile);
    else order_queries(kv, tile);
}

void attend_split(const Split& split, const uint8_t* queries, uint8_t* memory, const Partial& partial) {
    TiledKv kv(split, memory);
    memory += TiledKv::scratch_bytes(split.kv);
    const bf16* q = reinterpret_cast<const bf16*>(queries);
    if (split.columns > kTile) return attend_wide(split, kv, q, memory, partial);
    const Scratch scratch{reinterpret_cast<float*>(memory), reinterpret_cast<bf16*>(memory + kSplitTokens * kTile * 4)};
    attend_narrow(split, kv, q, scratch, partial);
}

void in_order(const PagedKv& kv, const float* from, float* to) {
    const int64_t dims = padded_dims(kv);
    if (!is_fp8(kv)) {
        std::memcpy(to, from, static_cast<size_t>(kv.head_dim * 4));
        return;
    }
    for (int64_t d = 0; d < dims; d += 64) E4m3Widener::in_order(from + d, to + d);
}

}  // namespace tiercel::TIERCEL_ISA::tiled
#endif
