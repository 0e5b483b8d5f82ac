// A row of activations in int8 with one scale, for products with int8 weights.
#pragma once

#include <cstdint>

#include "operand.h"
#include "rows.h"

namespace tiercel::TIERCEL_ISA {

// What is added to a value, and taken off again by whoever multiplies: VNNI's first factor has no sign.
#if defined(TIERCEL_ISA_AVX512)
inline constexpr int kQuantizedZero = 128;
#else
inline constexpr int kQuantizedZero = 0;
#endif

// q = round(x / scale), ties to even, with scale = max |x| / 127, which is returned: symmetric, so -128 never occurs. A
// row with an infinity or a NaN gets the scale NaN, and with it everything that is computed from it.
inline float quantize_row(const Operand* x, int64_t size, int8_t* q) {
    const auto* row = reinterpret_cast<const uint8_t*>(x);
    // Without its sign a float orders like an integer, NaNs above all. Sizes are multiples of eight.
    __m256i highest = _mm256_setzero_si256();
    for (int64_t i = 0; i < size; i += 8) {
        const __m256i bits = _mm256_castps_si256(load8<kOperand>(row, i));
        highest = _mm256_max_epu32(highest, _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff)));
    }
    alignas(32) uint32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), highest);
    uint32_t most = 0;
    for (const uint32_t lane : lanes) most = lane > most ? lane : most;
    float limit;
    std::memcpy(&limit, &most, 4);
    const bool is_number = most < 0x7f800000u;
    const bool is_zero = is_number && limit < 1e-30f;
    const __m256 factor = _mm256_set1_ps(is_number && !is_zero ? 127.0f / limit : 0.0f);
    const __m128i zero = _mm_set1_epi8(static_cast<char>(kQuantizedZero));
    for (int64_t i = 0; i < size; i += 8) {
        const __m256 value = is_number ? load8<kOperand>(row, i) : _mm256_setzero_ps();
        const __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(value, factor));
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(q + i), _mm_xor_si128(_mm_packs_epi16(words, words), zero));
    }
    return !is_number ? __builtin_nanf("") : is_zero ? 0.0f : limit / 127.0f;
}

}  // namespace tiercel::TIERCEL_ISA
