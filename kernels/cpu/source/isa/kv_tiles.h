// K and V of a split as products of bf16 take them: sixteen rows of K as a left operand, sixteen pairs of rows of V as
// right operands, for 64 dimensions at a time.
//
// What has to be widened is widened by instructions that work within 128-bit lanes, so dimensions come out in another
// order: Q is laid out in that of K's, and in_order() puts right what V's have made.
#pragma once

#include "attention_split.h"
#include "e4m3_pairs.h"
#include "row_words.h"

namespace tiercel::TIERCEL_ISA::tiled {

constexpr int64_t kTile = 16;                     // tokens or columns in a tile
constexpr int64_t kPairStep = 32;                 // tokens of a product P V
constexpr int64_t kTileWords = kTile * kPairStep; // of bf16
constexpr int64_t kValueDims = 64;                // of KvTiles::values()

inline bool is_fp8(const PagedKv& kv) { return kv.element == Element::kFp8E4m3; }

// Dimensions with padding: of K's rows in bf16, and of V's.
inline int64_t padded_dims(const PagedKv& kv) { return round_up(kv.head_dim, is_fp8(kv) ? 64 : 32); }

// Reads from memory as it is asked, and has `Split::ahead` advance.
class KvTiles {
public:
    explicit KvTiles(const Split& split);

    // Sixteen rows of bf16; a step is 32 dimensions.
    struct KeyTile {
        const bf16* data;
        int64_t stride_bytes, step_words;
    };
    // The tokens [t, t + kTile), t in steps of kTile, where they lie if they can be multiplied as they are, else in
    // `room`, [dims / 32][kTile][32]; what is beyond the split's count is anything.
    KeyTile keys(int64_t t, bf16* room) const;

    // Calls each(k, pairs) for the dwords k of the rows in keys(), ascending: a dword of each of the sixteen tokens. Of
    // codes and of words if the caller knows which they are.
    template <typename Each>
    [[gnu::always_inline]] inline void each_key_pair(int64_t t, const Each& each) const {
        if (is_fp8(split_.kv)) each_key_pair_of_codes(t, each);
        else each_key_pair_of_words(t, each);
    }
    template <typename Each>
    [[gnu::always_inline]] inline void each_key_pair_of_codes(int64_t t, const Each& each) const {
        const uint8_t* rows[kTile + 7];
        find_rows(false, t, kTile, rows);
        for (int64_t d = 0; d < dims_; d += 64) {
            split_.ahead->advance(kTile * 64 + 32);
            const __mmask64 mask = first_bytes(split_.kv.head_dim - d);
            const auto of_row = [&](int64_t k, __m512i pairs) __attribute__((always_inline)) { each(d / 2 + k, pairs); };
            tiled::each_key_pair(widener_, rows, d, mask, of_row);
        }
    }
    template <typename Each>
    [[gnu::always_inline]] inline void each_key_pair_of_words(int64_t t, const Each& each) const {
        alignas(64) bf16 room[kTile * kMaxHeadDim];
        const KeyTile tile = keys(t, room);
        for (int64_t step = 0; step < dims_ / 32; ++step) {
            const auto* row = reinterpret_cast<const uint8_t*>(tile.data + step * tile.step_words);
            __m512i pairs[kTile];
            for (int i = 0; i < kTile; ++i) pairs[i] = _mm512_loadu_si512(row + i * tile.stride_bytes);
            transpose16(pairs);
#pragma GCC unroll 16
            for (int i = 0; i < kTile; ++i) each(step * kTile + i, pairs[i]);
        }
    }

    // The rows of V of tokens [t, t + kTile) where they lie, each padded_dims() of bf16 behind the one before; null where
    // they have to be made.
    const uint8_t* values_in_place(int64_t t) const;

    // The tokens [t, t + kPairStep) and the dimensions [dim, dim + kValueDims), t in steps of kPairStep: four tiles, one
    // behind the other; finite numbers beyond the split's count.
    void values(int64_t t, int64_t dim, bf16* to) const;

    // Of FP8: calls each(i, pairs) for the sixteen pairs of tokens, four vectors of what is a row of each tile in values().
    template <typename Each>
    [[gnu::always_inline]] inline void each_value_pair(int64_t t, int64_t dim, const Each& each) const {
        const uint8_t* rows[kPairStep + 7];
        find_rows(true, t, kPairStep, rows);
        const __mmask64 mask = first_bytes(split_.kv.head_dim - dim);
        for (int64_t i = 0; i < kPairStep; i += 4) {
            split_.ahead->advance(4 * 64 + 8);
            const auto of_step = [&](int64_t k, const std::array<__m512i, 4>& pairs) __attribute__((always_inline)) {
                each(i / 2 + k, pairs);
            };
            tiled::each_value_pair(widener_, rows + i, dim, mask, of_step);
        }
    }

    // factors[t ...] = `unit` times the scales of tokens [t, t + number); nothing is written from the split's count on.
    void load_factors(bool is_value, int64_t t, int64_t number, float unit, float* factors) const;

    // A query's row, with zeros up to padded_dims(), in the order of keys().
    static void put_query(const PagedKv& kv, const float* row, bf16* words);

    // A result's values to the order of the head's dimensions.
    static void in_order(const PagedKv& kv, const float* from, float* to);

private:
    // The rows of tokens [t, t + number); some constant finite row beyond the count.
    void find_rows(bool is_value, int64_t t, int64_t number, const uint8_t** rows) const;

    const Split& split_;
    const int64_t dims_, row_bytes_;
    const bool in_place_;
    const int64_t token_bytes_;
    const E4m3Widener widener_;
};

}  // namespace tiercel::TIERCEL_ISA::tiled
