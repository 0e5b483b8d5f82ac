// Products of one tile of columns and one chunk of tokens, cut into parts of two tile products, so that whoever has
// vectors to work on can strew them in. A part leaves nothing in the tile registers but its sums: those of QueryKeys are
// 2 and 3, those of WeightValues 0 and 1; 4 to 7 are operands.
#pragma once

#include "packed_kv.h"
#include "tiles.h"
#include "wide_softmax.h"

namespace tiercel::TIERCEL_ISA::tiled {

constexpr int64_t kChunkScores = kTile * kChunkTokens + 16;

// A product starts from these: where tilezero clears a register, it waits for the product before it.
alignas(64) inline constexpr float kZeroTile[kTile * kTile] = {};

// scores [16 columns][kChunkTokens] = Q K^T.
class QueryKeys {
public:
    QueryKeys() = default;
    QueryKeys(const bf16* queries, const PackedSplit& kv, int64_t chunk, Steps steps, int64_t dims, float* scores)
        : query_(queries), key_(kv.keys(chunk + steps.first * kPairStep)), scores_(scores + steps.first * kPairStep),
          dims_(dims), left_(steps.number() * (dims / 32)) {}

    int64_t left() const { return left_; }
    void part() {
        stores_before_tiles();
        if (dim_ == 0) {
            finish();
            _tile_loadd(2, kZeroTile, 64);
            _tile_loadd(3, kZeroTile, 64);
        }
        _tile_loadd(5, query_ + dim_, dims_ * 2);
        _tile_stream_loadd(6, key_ + dim_ * kTile, 64);
        _tile_stream_loadd(7, key_ + (dims_ + dim_) * kTile, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        --left_;
        if ((dim_ += 32) < dims_) return;
        dim_ = 0;
        key_ += 2 * kTile * dims_;
        made_ = scores_;
        scores_ += kPairStep;
    }
    void finish() {
        if (made_ == nullptr) return;
        _tile_stored(2, made_, kChunkTokens * 4);
        _tile_stored(3, made_ + kTile, kChunkTokens * 4);
        made_ = nullptr;
    }

private:
    const bf16* query_ = nullptr;
    const bf16* key_ = nullptr;
    float* scores_ = nullptr;
    float* made_ = nullptr;  // in the registers still
    int64_t dims_ = 0, left_ = 0, dim_ = 0;
};

// values [16 columns][dims] = or += P V.
class WeightValues {
public:
    WeightValues() = default;
    // `weights` is [steps of the chunk][16 columns][kPairStep].
    WeightValues(const bf16* weights, const PackedSplit& kv, int64_t chunk, Steps steps, int64_t dims, bool is_first,
                 float* values)
        : weight_(weights + steps.first * kTile * kPairStep), value_(kv.values(chunk + steps.first * kPairStep)),
          values_(values), dims_(dims), steps_(steps.number()), left_(steps_ * (dims / 32)), is_first_(is_first) {}

    int64_t left() const { return left_; }
    void part() {
        stores_before_tiles();
        if (step_ == 0) {
            finish();
            const int64_t stride = is_first_ ? 64 : dims_ * 4;
            _tile_loadd(0, is_first_ ? kZeroTile : values_, stride);
            _tile_loadd(1, is_first_ ? kZeroTile : values_ + kTile, stride);
        }
        const bf16* rows = value_ + step_ * kPairStep * dims_;
        _tile_loadd(4, weight_ + step_ * kTile * kPairStep, 64);
        _tile_stream_loadd(6, rows, 64);
        _tile_stream_loadd(7, rows + kTileWords, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        --left_;
        if (++step_ < steps_) return;
        step_ = 0;
        value_ += 2 * kTileWords;
        made_ = values_;
        values_ += 32;
    }
    void finish() {
        if (made_ == nullptr) return;
        _tile_stored(0, made_, dims_ * 4);
        _tile_stored(1, made_ + kTile, dims_ * 4);
        made_ = nullptr;
    }

private:
    const bf16* weight_ = nullptr;
    const bf16* value_ = nullptr;
    float* values_ = nullptr;
    float* made_ = nullptr;  // in the registers still
    int64_t dims_ = 0, steps_ = 0, left_ = 0, step_ = 0;
    bool is_first_ = false;
};

}  // namespace tiercel::TIERCEL_ISA::tiled
