// K of a split as the right operand of Q K^T: pairs of dimensions by tokens. Made once for all columns of a unit.
#pragma once

#include "tiled_kv.h"

namespace tiercel::TIERCEL_ISA::tiled {

class PackedKeys {
public:
    PackedKeys(TiledKv& kv, const PagedKv& pages, uint8_t* memory);
    static int64_t scratch_bytes(const PagedKv& pages) { return kSplitTokens * padded_dims(pages) * 2; }

    // Make tiles of tokens [first, last), where they are not there; whole groups of kKeyStep.
    void fetch(int64_t first, int64_t last) {
        for (int64_t t = first / kKeyStep * kKeyStep; t < last; t += kKeyStep) {
            if (packed_ >> (t / kKeyStep) & 1) continue;
            packed_ |= 1u << (t / kKeyStep);
            pack(t);
        }
    }
    // [16 pairs][16 tokens][2] of tokens [t, t + 16) and stored dimensions [32 step, 32 step + 32).
    const bf16* tile(int64_t t, int64_t step) const { return tiles_ + t * dims_ + step * kTile * 32; }

private:
    void pack(int64_t t);

    TiledKv& kv_;
    const int64_t dims_;
    bf16* tiles_;
    uint32_t packed_ = 0;
};

}  // namespace tiercel::TIERCEL_ISA::tiled
