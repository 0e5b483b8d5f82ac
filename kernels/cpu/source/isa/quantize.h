// A row of activations in int8 with one scale, for products with int8 weights.
#pragma once

#include <cstdint>

#include "vec.h"

namespace tiercel::TIERCEL_ISA {

// q = round(x / scale), ties to even, with scale = max |x| / 127, which is returned: symmetric, so -128 never occurs. A
// row with an infinity or a NaN gets the scale NaN, and with it everything that is computed from it.
inline float quantize_row(const bf16* x, int64_t size, int8_t* q) {
    // Without its sign a bf16 orders like an integer, NaNs above all.
    const __m256i magnitude = _mm256_set1_epi16(0x7fff);
    __m256i highest = _mm256_setzero_si256();
    int64_t i = 0;
    for (; i + 16 <= size; i += 16) {
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
        highest = _mm256_max_epu16(highest, _mm256_and_si256(words, magnitude));
    }
    alignas(32) uint16_t lanes[16];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), highest);
    uint32_t most = 0;
    for (const uint16_t lane : lanes) most = lane > most ? lane : most;
    for (; i < size; ++i) most = (x[i] & 0x7fffu) > most ? (x[i] & 0x7fffu) : most;
    const uint32_t bits = most << 16;
    float limit;
    std::memcpy(&limit, &bits, 4);
    if (most >= 0x7f80 || limit < 1e-30f) {
        std::memset(q, 0, size);
        return most >= 0x7f80 ? __builtin_nanf("") : 0.0f;
    }
    const __m256 factor = _mm256_set1_ps(127.0f / limit);
    for (i = 0; i + 8 <= size; i += 8) {
        const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i)));
        const __m256 value = _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
        const __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(value, factor));
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(q + i), _mm_packs_epi16(words, words));
    }
    for (; i < size; ++i) {
        const uint32_t wide = static_cast<uint32_t>(x[i]) << 16;
        float value;
        std::memcpy(&value, &wide, 4);
        q[i] = static_cast<int8_t>(__builtin_nearbyintf(value * (127.0f / limit)));
    }
    return limit / 127.0f;
}

}  // namespace tiercel::TIERCEL_ISA
