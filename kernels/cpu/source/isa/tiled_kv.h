// K and V of a split as AMX takes them: K as rows of bf16, which is the left operand of K Q^T; V with the rows of two
// tokens interleaved, which is the right operand of P V.
//
// FP8 codes are widened 64 at a time by instructions that work within 128-bit lanes, so the dimensions come out in
// another order: key() says which. Q is laid out in that order too, and results are put right at the end.
#pragma once

#include "attention_split.h"
#include "e4m3_widener.h"

namespace tiercel::TIERCEL_ISA::tiled {

constexpr int64_t kTile = 16;     // tokens or columns in a tile
constexpr int64_t kPairStep = 32; // tokens of a product P V
constexpr int64_t kKeyStep = 64;  // tokens whose scores are made at a time

inline bool is_fp8(const PagedKv& kv) { return kv.element == Element::kFp8E4m3; }

// Dimensions with padding: of K's rows in bf16, and of V's.
inline int64_t padded_dims(const PagedKv& kv) { return round_up(kv.head_dim, is_fp8(kv) ? 64 : 32); }

class TiledKv {
public:
    TiledKv(const Split& split, uint8_t* scratch);
    static int64_t scratch_bytes(const PagedKv& kv);

    // The tokens [step, step + kKeyStep) as rows of K, 16 to a tile; what is beyond the split's count is anything.
    void fetch_keys(int64_t step);
    const bf16* key_tile(int64_t t) const { return tiles_[t / kTile]; }
    int64_t key_stride_bytes() const { return dims_ * 2; }
    const float* key_factors() const { return key_factors_; }

    // The tokens [step, step + kPairStep) as 16 rows of pairs; zeros beyond the split's count.
    void fetch_values(int64_t step);
    const bf16* value_rows(int64_t step) const { return values_ + step * dims_; }
    int64_t value_stride_bytes() const { return dims_ * 4; }
    const float* value_factors() const { return value_factors_; }

private:
    // Memory is slow and pages are scattered, so the next group is brought to the second cache meanwhile, a row at a time:
    // K's groups of kKeyStep tokens come first, then V's, then those of the K that follows.
    void ask_ahead(int64_t group);
    void ask_for_row() {
        if (asked_ == num_ahead_) return;
        const uint8_t* row = ahead_[asked_++];
        for (int64_t i = 0; i < row_bytes_; i += 64) _mm_prefetch(reinterpret_cast<const char*>(row + i), _MM_HINT_T1);
    }
    template <Element kElement>
    void widen_keys(const uint8_t* rows, int64_t number, bf16* to);
    template <Element kElement>
    void widen_values(const uint8_t* even, const uint8_t* odd, bf16* to) const;

    const Split& split_;
    const int64_t dims_, row_bytes_, num_groups_;
    const bool in_place_;
    bf16* keys_;      // [kSplitTokens, dims]
    bf16* values_;    // [kSplitTokens / 2, dims, 2]
    float* key_factors_;
    float* value_factors_;
    const bf16** tiles_;
    const uint8_t* ahead_[kKeyStep];
    int64_t num_ahead_ = 0, asked_ = 0;
    uint32_t keys_fetched_ = 0, values_fetched_ = 0;
    E4m3Widener widener_;
};

}  // namespace tiercel::TIERCEL_ISA::tiled
