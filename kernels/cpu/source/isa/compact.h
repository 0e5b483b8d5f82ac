// Weights of bf16 in 12 bits, to the bit: the lower byte as it is, and a code of four bits for the upper one, sign and
// seven bits of the exponent, of which sixteen are nearly all that a matrix has (DFloat11, arXiv:2504.11651, codes all of
// the exponent, in a variable number of bits). A core makes whole weights of them in less time than memory takes to
// deliver the quarter that is saved. The few with another upper byte are patched.
//
// A step is 1024 lower bytes, those of two rows of a tile in turn, then 512 bytes of codes: those of four rows are 32
// words of four, of the second row, the fourth, the first and the third.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "panels.h"
#if defined(TIERCEL_ISA_AMX)
#include "tiles.h"
#endif

namespace tiercel::TIERCEL_ISA {

// A panel's steps, each made whole before the one before it is multiplied by, or while that is, so that products do not
// wait for it.
class CompactSteps {
public:
    // All steps between two calls of `begin` fit into the room, or four.
    enum class Room { kAll, kRing };

    CompactSteps(const PackedLinear& w, int64_t panel, uint8_t* room, Room size)
        : compact_(static_cast<const uint8_t*>(w.weight) + panel * panel_bytes(w)), room_(room),
          mask_(size == Room::kAll ? -1 : 3) {
        if (!is_compact(w)) return;
        table_ = _mm512_loadu_si512(w.upper_bytes);
        patch_ = w.patches + w.patch_starts[panel];
        last_patch_ = w.patches + w.patch_starts[panel + 1];
    }

    // So many steps follow, which are put into the room from its start on.
    void begin(int64_t num_steps) {
        made_ = read_ = 0;
        num_steps_ = num_steps;
        make();
    }

    // Before it is called again, all parts of the step after this one are to be made.
    const uint8_t* next() { return room_ + (read_++ & mask_) * kStepBytes; }

    static constexpr int64_t kParts = 4;
    void make_part(int64_t part) {
        if (made_ == num_steps_) return;
        constexpr int64_t kFours = kStepBytes / 256 / kParts;
        uint8_t* const whole = room_ + (made_ & mask_) * kStepBytes;
        for (int64_t four = part * kFours; four < (part + 1) * kFours; ++four) {
            const __m512i first = _mm512_load_si512(compact_ + four * 128);
            const __m512i second = _mm512_load_si512(compact_ + four * 128 + 64);
            const __m512i codes = _mm512_load_si512(compact_ + kStepBytes / 2 + four * 64);
            put(first, codes, whole + four * 256);
            put(second, _mm512_srli_epi16(codes, 4), whole + four * 256 + 128);
        }
        if (part == kParts - 1) end_step(whole);
    }
    void make() {
        for (int64_t part = 0; part < kParts; ++part) make_part(part);
    }

private:
    void end_step(uint8_t* whole) {
        ++made_;
        compact_ += kCompactStepBytes;
        first_weight_ += kStepBytes / 2;
        for (; patch_ < last_patch_ && patch_->weight < first_weight_; ++patch_) {
            const int64_t weight = patch_->weight - (first_weight_ - kStepBytes / 2);
            const uint16_t value = static_cast<uint16_t>(patch_->value);
            std::memcpy(whole + weight * 2, &value, 2);
        }
#if defined(TIERCEL_ISA_AMX)
        stores_before_tiles();
#endif
    }

    // Two rows of 32 weights: both bytes of each word are looked up, the lower one for the second row. The table is
    // repeated, so that what stands above a code does not matter.
    void put(__m512i lower, __m512i codes, uint8_t* whole) const {
        constexpr __mmask64 kUpper = 0xaaaaaaaaaaaaaaaa;
        const __m512i upper = _mm512_permutexvar_epi8(codes, table_);
        _mm512_store_si512(whole, _mm512_mask_blend_epi8(kUpper, lower, upper));
        _mm512_store_si512(whole + 64, _mm512_shldi_epi16(upper, lower, 8));
    }

    const uint8_t* compact_;
    __m512i table_ = {};
    const WeightPatch *patch_ = nullptr, *last_patch_ = nullptr;
    uint8_t* const room_;
    const int64_t mask_;
    int64_t first_weight_ = 0;  // of the panel, to be made next
    int64_t num_steps_ = 0, made_ = 0, read_ = 0;
};

}  // namespace tiercel::TIERCEL_ISA
