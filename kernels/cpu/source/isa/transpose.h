#pragma once

#include <immintrin.h>

#include "../isa.h"

namespace tiercel::TIERCEL_ISA {

// Sixteen rows of sixteen 32-bit elements, in place.
inline void transpose16(__m512i rows[16]) {
    __m512i a[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        rows[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    // rows[4 g + c] lane L: column 4 L + c of rows 4 g .. 4 g + 3.
    for (int c = 0; c < 4; ++c) {
        const __m512i even_low = _mm512_shuffle_i32x4(rows[c], rows[4 + c], 0x88);
        const __m512i odd_low = _mm512_shuffle_i32x4(rows[c], rows[4 + c], 0xdd);
        const __m512i even_high = _mm512_shuffle_i32x4(rows[8 + c], rows[12 + c], 0x88);
        const __m512i odd_high = _mm512_shuffle_i32x4(rows[8 + c], rows[12 + c], 0xdd);
        a[c] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
        a[8 + c] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
        a[4 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
        a[12 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
    }
    for (int i = 0; i < 16; ++i) rows[i] = a[i];
}

}  // namespace tiercel::TIERCEL_ISA
