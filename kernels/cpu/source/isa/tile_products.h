// Products of a pair of tiles of columns and one chunk of tokens, cut into parts of four tile products, so that whoever has
// vectors to work on can strew them in. Sums are tiles 0 to 3, operands 4 to 7.
#pragma once

#include "packed_kv.h"
#include "tiles.h"

namespace tiercel::TIERCEL_ISA::tiled {

constexpr int64_t kPairColumns = 2 * kTile;
constexpr int64_t kChunkTokens = 128;
constexpr int64_t kChunkScores = kPairColumns * kChunkTokens + 16;

// A product starts from these: where tilezero clears a register, it waits for the product before it.
alignas(64) inline constexpr float kZeroTile[kTile * kTile] = {};

// Steps of kPairStep tokens of a chunk, [first, last).
struct Steps {
    int64_t first = 0, last = 0;
    int64_t number() const { return last - first; }
};

// Two products, made in turns: of one's four sums all parts come before the other's next four.
class PairProducts {
public:
    PairProducts(const bf16* queries, int64_t dims) : queries_(queries), dims_(dims) {}

    // scores [kPairColumns][kChunkTokens] = Q K^T.
    void start_keys(int64_t column, const PackedSplit& kv, int64_t chunk, Steps steps, float* scores) {
        query_ = queries_ + column * dims_;
        key_ = kv.keys(chunk + steps.first * kPairStep);
        scores_ = scores + steps.first * kPairStep;
        keys_left_ = steps.number() * (dims_ / 32);
    }

    // values [kPairColumns][dims] = or += P V. `weights` is [2][steps of the chunk][16 columns][kPairStep].
    void start_values(const bf16* weights, const PackedSplit& kv, int64_t chunk, Steps steps, bool is_first, float* values) {
        weight_ = weights + steps.first * kTile * kPairStep;
        value_ = kv.values(chunk + steps.first * kPairStep);
        values_ = values;
        steps_ = steps.number();
        values_left_ = steps_ * (dims_ / 32);
        is_first_ = is_first;
    }

    int64_t left() const { return keys_left_ + values_left_; }
    void part() {
        stores_before_tiles();
        if (dim_ > 0 || (step_ == 0 && keys_left_ > values_left_)) key_part();
        else value_part();
    }
    void finish() {
        if (made_ == nullptr) return;
        _tile_stored(0, made_, made_stride_ * 4);
        _tile_stored(1, made_ + kTile, made_stride_ * 4);
        _tile_stored(2, made_ + kTile * made_stride_, made_stride_ * 4);
        _tile_stored(3, made_ + kTile * made_stride_ + kTile, made_stride_ * 4);
        made_ = nullptr;
    }

private:
    void key_part() {
        if (dim_ == 0) {
            finish();
            _tile_loadd(0, kZeroTile, 64);
            _tile_loadd(1, kZeroTile, 64);
            _tile_loadd(2, kZeroTile, 64);
            _tile_loadd(3, kZeroTile, 64);
        }
        _tile_loadd(4, query_ + dim_, dims_ * 2);
        _tile_stream_loadd(6, key_ + dim_ * kTile, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(7, key_ + (dims_ + dim_) * kTile, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, query_ + kTile * dims_ + dim_, dims_ * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        --keys_left_;
        if ((dim_ += 32) < dims_) return;
        dim_ = 0;
        key_ += 2 * kTile * dims_;
        made_ = scores_;
        made_stride_ = kChunkTokens;
        scores_ += kPairStep;
    }
    void value_part() {
        if (step_ == 0) {
            finish();
            const int64_t stride = is_first_ ? 64 : dims_ * 4;
            _tile_loadd(0, is_first_ ? kZeroTile : values_, stride);
            _tile_loadd(1, is_first_ ? kZeroTile : values_ + kTile, stride);
            _tile_loadd(2, is_first_ ? kZeroTile : values_ + kTile * dims_, stride);
            _tile_loadd(3, is_first_ ? kZeroTile : values_ + kTile * dims_ + kTile, stride);
        }
        const bf16* rows = value_ + step_ * kPairStep * dims_;
        const bf16* weights = weight_ + step_ * kTile * kPairStep;
        _tile_loadd(4, weights, 64);
        _tile_stream_loadd(6, rows, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(7, rows + kTileWords, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, weights + kTile * kChunkTokens, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        --values_left_;
        if (++step_ < steps_) return;
        step_ = 0;
        value_ += 2 * kTileWords;
        made_ = values_;
        made_stride_ = dims_;
        values_ += 32;
    }

    const bf16* const queries_;
    const int64_t dims_;
    const bf16* query_ = nullptr;
    const bf16* key_ = nullptr;
    float* scores_ = nullptr;
    int64_t keys_left_ = 0, dim_ = 0;
    const bf16* weight_ = nullptr;
    const bf16* value_ = nullptr;
    float* values_ = nullptr;
    int64_t values_left_ = 0, steps_ = 0, step_ = 0;
    bool is_first_ = false;
    float* made_ = nullptr;  // in the tiles still
    int64_t made_stride_ = 0;
};

}  // namespace tiercel::TIERCEL_ISA::tiled
