// Codes of E4M3 as products of bf16 take them, made in registers: pairs of K's dimensions by tokens, pairs of V's tokens by
// dimensions. What takes shuffles is done with codes where it can be, which are half as many bytes. What is called with
// the pairs keeps sums in registers, so all of it is inlined into the caller.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <array>

#include "e4m3_widener.h"
#include "transpose.h"

namespace tiercel::TIERCEL_ISA::tiled {

// A code that is plain, and in every element's type a finite number.
constexpr uint8_t kAnyCode = 0x38;

// 64 codes of a row; what the mask leaves out is any plain code.
inline __m512i load_codes(const uint8_t* codes, __mmask64 mask) {
    if (mask == ~0ull) return _mm512_loadu_si512(codes);
    return _mm512_mask_loadu_epi8(_mm512_set1_epi8(kAnyCode), mask, codes);
}

// Calls each(k, pairs) for the 32 dwords k, ascending, of 64 dimensions of sixteen tokens of K as KvTiles::put_query() orders
// them: a dword of each token, two bf16.
template <typename Each>
[[gnu::always_inline]] inline void each_key_pair(const E4m3Widener& widener, const uint8_t* const* rows, int64_t dim,
                                                 __mmask64 mask, const Each& each) {
    __m512i codes[16], least = _mm512_set1_epi8(-1);
    for (int i = 0; i < 16; ++i) {
        codes[i] = load_codes(rows[i] + dim, mask);
        E4m3Widener::look_at(codes[i], least);
    }
    transpose16(codes);
    // Four dimensions are a dword of codes: the first two, and the other two, each code twice.
    const __m512i dwords = _mm512_broadcast_i32x4(_mm_set_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0));
    const __m512i first = _mm512_or_si512(dwords, _mm512_set1_epi32(0x01010000));
    const __m512i second = _mm512_or_si512(dwords, _mm512_set1_epi32(0x03030202));
    const auto all = [&](const auto& words) __attribute__((always_inline)) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half)
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) {
                const __m512i four = codes[i / 2 * 4 + half * 2 + i % 2];
                each(half * 16 + 2 * i, words(_mm512_shuffle_epi8(four, first)));
                each(half * 16 + 2 * i + 1, words(_mm512_shuffle_epi8(four, second)));
            }
    };
    if (E4m3Widener::all_plain(least)) all([](__m512i twice) { return E4m3Widener::plain_words(twice); });
    else all([&](__m512i twice) { return widener.words(twice); });
}

// 64 dimensions of four rows of V: calls each(i, pairs) for its two pairs of rows, four vectors of sixteen dimensions.
template <typename Each>
[[gnu::always_inline]] inline void each_value_pair(const E4m3Widener& widener, const uint8_t* const* rows, int64_t dim,
                                                   __mmask64 mask, const Each& each) {
    __m512i codes[4], least = _mm512_set1_epi8(-1);
    for (int i = 0; i < 4; ++i) {
        codes[i] = load_codes(rows[i] + dim, mask);
        E4m3Widener::look_at(codes[i], least);
    }
    const bool plain = E4m3Widener::all_plain(least);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
        std::array<__m512i, 4> pairs;
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
            const __m512i both = j ? _mm512_unpackhi_epi8(codes[2 * i], codes[2 * i + 1])
                                   : _mm512_unpacklo_epi8(codes[2 * i], codes[2 * i + 1]);
            __m512i low, high;
            if (plain) E4m3Widener::plain_bytes(both, low, high);
            else widener.bytes(both, low, high);
            pairs[2 * j] = _mm512_unpacklo_epi8(low, high);
            pairs[2 * j + 1] = _mm512_unpackhi_epi8(low, high);
        }
        each(i, pairs);
    }
}

}  // namespace tiercel::TIERCEL_ISA::tiled
