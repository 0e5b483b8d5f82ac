// Rows of one head's elements of any type: to and from fp32, and to the pages' own types.
#pragma once

#include "../paged_kv.h"
#include "vec.h"

namespace tiercel::TIERCEL_ISA {

constexpr int64_t element_bytes(Element element) {
    return element == Element::kFp32 ? 4 : element == Element::kFp8E4m3 ? 1 : 2;
}

// Element i of a head's row of one token, as bytes.
inline uint8_t* heads_row(const Heads& heads, int64_t token, int64_t head) {
    return static_cast<uint8_t*>(heads.data) +
           (token * heads.token_stride + head * heads.head_stride) * element_bytes(heads.element);
}

// An E4M3 byte shifted into fp16, sign to sign and exponent to the end of the exponent, is the same number times
// 2^-8, subnormals included; only the codes of NaN become 480 * 2^-8, and are put right. What is read is kFp8Unit too
// small, and whoever multiplies by the scale makes up for it.
constexpr float kFp8Unit = 256.0f;

inline __m256 widen_e4m3(__m128i codes) {
    const __m128i words = _mm_cvtepi8_epi16(codes);  // the sign is copied upwards
    const __m128i magnitude = _mm_and_si128(_mm_slli_epi16(words, 7), _mm_set1_epi16(0x3f80));
    const __m128i sign = _mm_and_si128(words, _mm_set1_epi16(static_cast<short>(0x8000)));
    const __m128i is_nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x3f80));
    return _mm256_cvtph_ps(_mm_or_si128(_mm_or_si128(magnitude, sign), is_nan));
}

// Eight elements from `index` on, a multiple of eight. FP8 without its scale, kFp8Unit too small.
template <Element kElement>
inline __m256 load8(const uint8_t* row, int64_t index) {
    if constexpr (kElement == Element::kFp32) {
        return _mm256_loadu_ps(reinterpret_cast<const float*>(row) + index);
    } else if constexpr (kElement == Element::kFp8E4m3) {
        return widen_e4m3(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + index)));
    } else {
        const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 2 * index));
        if constexpr (kElement == Element::kFp16) return _mm256_cvtph_ps(words);
        else return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
    }
}

// Round to nearest, ties to even; a NaN stays one, denormals too.
inline __m128i to_bf16(__m256 values) {
    const __m256i bits = _mm256_castps_si256(values);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    rounded = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q)));
    rounded = _mm256_srli_epi32(rounded, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}

template <Element kElement>
inline void store8(uint8_t* row, int64_t index, __m256 values) {
    static_assert(kElement != Element::kFp8E4m3, "FP8 needs the whole row's scale");
    if constexpr (kElement == Element::kFp32) {
        _mm256_storeu_ps(reinterpret_cast<float*>(row) + index, values);
    } else {
        const __m128i words = kElement == Element::kFp16
                                  ? _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
                                  : to_bf16(values);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(row + 2 * index), words);
    }
}

// Calls task with the element as a compile-time constant.
template <typename Task>
inline void with_element(Element element, const Task& task) {
    switch (element) {
        case Element::kFp32: return task(std::integral_constant<Element, Element::kFp32>{});
        case Element::kBf16: return task(std::integral_constant<Element, Element::kBf16>{});
        case Element::kFp16: return task(std::integral_constant<Element, Element::kFp16>{});
        case Element::kFp8E4m3: return task(std::integral_constant<Element, Element::kFp8E4m3>{});
    }
}

inline void load_row(const uint8_t* row, Element element, int64_t count, float* into) {
    with_element(element, [&](auto tag) {
        int64_t i = 0;
#if !defined(TIERCEL_ISA_AVX2)
        // Whole vectors, as they will be read: a load waits long for the two stores of its halves.
        for (; i + 16 <= count; i += 16) {
            const __m512 low = _mm512_castps256_ps512(load8<tag.value>(row, i));
            _mm512_storeu_ps(into + i, _mm512_insertf32x8(low, load8<tag.value>(row, i + 8), 1));
        }
#endif
        for (; i < count; i += 8) _mm256_storeu_ps(into + i, load8<tag.value>(row, i));
    });
}

// `element` is none of FP8's.
inline void store_row(const float* from, Element element, int64_t count, uint8_t* row) {
    with_element(element, [&](auto tag) {
        if constexpr (tag.value != Element::kFp8E4m3)
            for (int64_t i = 0; i < count; i += 8) store8<tag.value>(row, i, _mm256_loadu_ps(from + i));
    });
}

// The usable scale of a token's stored bfloat16, as kernels/kv_codec/e4m3.py has it: NaN where the row holds no number.
inline float usable_scale(bf16 stored) {
    const uint32_t bits = static_cast<uint32_t>(stored) << 16;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return scale <= 255.0f ? scale : __builtin_nanf("");
}

}  // namespace tiercel::TIERCEL_ISA
