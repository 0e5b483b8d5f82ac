// A row of activations in int8 with one scale, for products with int8 weights.
#pragma once

#include <cstdint>

#include "operand.h"
#include "rows.h"

namespace tiercel::TIERCEL_ISA {

// What is added to a value, and taken off again by whoever multiplies: VNNI's first factor has no sign.
#if defined(TIERCEL_ISA_AVX512) || defined(TIERCEL_ISA_AVX512BF16)
inline constexpr int kQuantizedZero = 128;
#else
inline constexpr int kQuantizedZero = 0;
#endif

// Sixteen values of a row as bits of fp32, or eight where no more are left, and what a row's are rounded to.
#if defined(TIERCEL_ISA_AVX2)
struct Values {
    __m256i low, high;

    static Values zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    static Values load(const Operand* x, int64_t count) {
        const auto* row = reinterpret_cast<const uint8_t*>(x);
        const auto eight = [&](int64_t i) { return _mm256_castps_si256(load8<kOperand>(row, i)); };
        return {eight(0), count < 16 ? _mm256_setzero_si256() : eight(8)};
    }
    // Without its sign a float orders like an integer, NaNs above all.
    Values highest(Values other) const {
        const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
        return {_mm256_max_epu32(low, _mm256_and_si256(other.low, magnitude)),
                _mm256_max_epu32(high, _mm256_and_si256(other.high, magnitude))};
    }
    uint32_t most() const {
        alignas(32) uint32_t lanes[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_max_epu32(low, high));
        uint32_t most = 0;
        for (const uint32_t lane : lanes) most = lane > most ? lane : most;
        return most;
    }
    __m128i rounded(float factor) const {
        const auto whole = [&](__m256i x) {
            const __m256i y = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_castsi256_ps(x), _mm256_set1_ps(factor)));
            return _mm_packs_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
        };
        return _mm_packs_epi16(whole(low), whole(high));
    }
};
#else
struct Values {
    __m512i all;

    static Values zero() { return {_mm512_setzero_si512()}; }
    static Values load(const Operand* x, int64_t count) {
        const __mmask16 mask = count < 16 ? 0x00ff : 0xffff;
#if defined(TIERCEL_BF16_PRODUCTS)
        return {_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x)), 16)};
#else
        return {_mm512_maskz_loadu_epi32(mask, x)};
#endif
    }
    // Without its sign a float orders like an integer, NaNs above all.
    Values highest(Values other) const {
        return {_mm512_max_epu32(all, _mm512_and_si512(other.all, _mm512_set1_epi32(0x7fffffff)))};
    }
    uint32_t most() const { return _mm512_reduce_max_epu32(all); }
    __m128i rounded(float factor) const {
        const __m512 scaled = _mm512_mul_ps(_mm512_castsi512_ps(all), _mm512_set1_ps(factor));
        return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled));
    }
};
#endif

// q = round(x / scale), ties to even, with scale = max |x| / 127, which is returned: symmetric, so -128 never occurs. A
// row with an infinity or a NaN gets the scale NaN, and with it everything that is computed from it. `size` is a multiple
// of eight.
inline float quantize_row(const Operand* x, int64_t size, int8_t* q) {
    Values highest = Values::zero();
    for (int64_t i = 0; i < size; i += 16) highest = highest.highest(Values::load(x + i, size - i));
    const uint32_t most = highest.most();
    float limit;
    std::memcpy(&limit, &most, 4);
    const bool is_number = most < 0x7f800000u;
    const bool is_zero = is_number && limit < 1e-30f;
    const float factor = is_number && !is_zero ? 127.0f / limit : 0.0f;
    const __m128i zero = _mm_set1_epi8(static_cast<char>(kQuantizedZero));
    for (int64_t i = 0; i < size; i += 16) {
        const Values values = is_number ? Values::load(x + i, size - i) : Values::zero();
        const __m128i bytes = _mm_xor_si128(values.rounded(factor), zero);
        if (size - i >= 16) _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), bytes);
        else _mm_storel_epi64(reinterpret_cast<__m128i*>(q + i), bytes);
    }
    return !is_number ? __builtin_nanf("") : is_zero ? 0.0f : limit / 127.0f;
}

}  // namespace tiercel::TIERCEL_ISA
