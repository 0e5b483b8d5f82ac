// Elements of a row of K or V as tiles multiply them: bf16.
#pragma once

#include <algorithm>
#include <type_traits>

#include "rows.h"

namespace tiercel::TIERCEL_ISA::tiled {

inline __mmask64 first_bytes(int64_t count) { return count >= 64 ? ~0ull : (1ull << count) - 1; }
inline __mmask32 first_words(int64_t count) { return count >= 32 ? ~0u : (1u << count) - 1; }

// 32 elements from `index` on as bf16, zeros from `count` on. Not for FP8.
template <Element kElement>
inline __m512i words_of(const uint8_t* row, int64_t index, int64_t count) {
    if constexpr (kElement == Element::kBf16) {
        if (count - index >= 32) return _mm512_loadu_si512(row + 2 * index);
        return _mm512_maskz_loadu_epi16(first_words(count - index), row + 2 * index);
    } else {
        alignas(64) bf16 words[32] = {};
        for (int64_t i = 0; i < std::min<int64_t>(32, count - index); i += 8)
            _mm_store_si128(reinterpret_cast<__m128i*>(words + i), to_bf16(load8<kElement>(row, index + i)));
        return _mm512_load_si512(words);
    }
}

}  // namespace tiercel::TIERCEL_ISA::tiled
