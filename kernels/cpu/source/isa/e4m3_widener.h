// E4M3 to bf16.
#pragma once

#include <immintrin.h>

#include "vec.h"

namespace tiercel::TIERCEL_ISA::tiled {

// Exactly. Nearly all codes are an affine map of their bits (gf2p8affineqb): the exponent's upper bits are copies of its
// first or of its inverse. Denormals and NaN are not, and products take denormals of bf16 for zero, so that no sum of bits
// would do for them either: who meets one takes the bytes from a table.
class E4m3Widener {
public:
    E4m3Widener();

    // Two bytes of 64 codes, from the table.
    void bytes(__m512i codes, __m512i& low, __m512i& high) const {
        low = _mm512_permutex2var_epi8(low_[0], codes, low_[1]);
        const __m512i magnitude = _mm512_permutex2var_epi8(high_[0], codes, high_[1]);
        // magnitude | (codes & sign)
        high = _mm512_ternarylogic_epi64(magnitude, codes, _mm512_set1_epi8(-128), 0xf8);
    }

    // The same for codes that are plain.
    static void plain_bytes(__m512i codes, __m512i& low, __m512i& high) {
        low = _mm512_gf2p8affine_epi64_epi8(codes, _mm512_set1_epi64(kLowMap), 0);
        high = _mm512_gf2p8affine_epi64_epi8(codes, _mm512_set1_epi64(kHighMap), kHighInverted);
    }

    // The bf16 of codes each of which is there twice, side by side.
    __m512i words(__m512i twice) const {
        __m512i low, high;
        bytes(twice, low, high);
        return _mm512_mask_mov_epi8(low, kUpperBytes, high);
    }
    static __m512i plain_words(__m512i twice) {
        const __m512i low = _mm512_gf2p8affine_epi64_epi8(twice, _mm512_set1_epi64(kLowMap), 0);
        return _mm512_mask_gf2p8affine_epi64_epi8(low, kUpperBytes, twice, _mm512_set1_epi64(kHighMap), kHighInverted);
    }

    // Keeps in `least` what all_plain() asks for.
    static void look_at(__m512i codes, __m512i& least) {
        least = _mm512_min_epu8(least, _mm512_add_epi8(_mm512_add_epi8(codes, codes), _mm512_set1_epi8(2)));
    }
    // 2 code + 2 without the sign: up to 16 for zero and the denormals, 0 for NaN.
    static bool all_plain(__m512i least) { return _mm512_cmple_epu8_mask(least, _mm512_set1_epi8(16)) == 0; }

    // 64 floats of what rows of V with interleaved bytes have made, to the order of the dimensions.
    static void in_order(const float* from, float* to);

private:
    // A map's byte 7 - i is the mask of the code's bits that make bit i. Code: seeeemmm. bf16: s, e3, four times not e3,
    // e2, e1; e0, m2, m1, m0, 0000.
    static constexpr long long kHighMap = 0x1020404040404080, kLowMap = 0x01020408;
    static constexpr int kHighInverted = 0x3c;
    static constexpr __mmask64 kUpperBytes = 0xaaaaaaaaaaaaaaaa;
    __m512i low_[2], high_[2];
};

}  // namespace tiercel::TIERCEL_ISA::tiled
