// K and V of a split as products of bf16 take them: sixteen rows of K as a left operand, sixteen pairs of rows of V as
// right operands, for 64 dimensions at a time.
//
// What has to be widened is widened by instructions that work within 128-bit lanes, so dimensions come out in another
// order: Q is laid out in that of K's, and in_order() puts right what V's have made.
#pragma once

#include "attention_split.h"
#include "e4m3_widener.h"

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

    // The rows of V of tokens [t, t + kTile) where they lie, each padded_dims() of bf16 behind the one before; null where
    // they have to be made.
    const uint8_t* values_in_place(int64_t t) const;

    // The tokens [t, t + kPairStep) and the dimensions [dim, dim + kValueDims), t in steps of kPairStep: four tiles, one
    // behind the other; finite numbers beyond the split's count.
    void values(int64_t t, int64_t dim, bf16* to) const;

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
