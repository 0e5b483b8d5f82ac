#include "attention.h"

#include <algorithm>

#include "rows.h"

namespace tiercel::TIERCEL_ISA {
namespace {

uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// The scale of a row whose largest magnitude has these bits, and what to divide by.
float divisor_for(uint32_t largest, bf16* scale) {
    const float ratio = float_of(largest) / 448.0f;
    const float truncated = float_of(bits_of(ratio) & 0xffff0000u);
    const float divisor = truncated < 0x1p-100f ? 0x1p-100f : truncated;
    *scale = divisor != divisor ? 0x7fc0 : static_cast<bf16>(bits_of(divisor) >> 16);
    return divisor;
}

// Below 2^-6 codes are multiples of 2^-9: those are the last bits of numbers near 2^14.
constexpr float kSmallBase = 16384.0f;
constexpr uint32_t kFirstNormal = 121u << 23, kOverflow = 0x43f00000u;

#if defined(TIERCEL_ISA_AVX2)
// kernels/kv_codec/e4m3.py to the bit. Plain loops, which the compiler makes vectors of.
void encode_e4m3(const float* __restrict row, int64_t count, uint8_t* __restrict codes, bf16* scale) {
    // Magnitudes order as their bits do, which also puts NaN on top.
    uint32_t largest = 0;
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t magnitude = bits_of(row[i]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
    }
    const float divisor = divisor_for(largest, scale);
    for (int64_t i = 0; i < count; ++i) {
        const float x = row[i] / divisor;
        const uint32_t sign = bits_of(x) >> 24 & 0x80u, magnitude = bits_of(x) & 0x7fffffffu;
        const uint32_t small = bits_of(float_of(magnitude) + kSmallBase) - bits_of(kSmallBase);
        const uint32_t odd = magnitude >> 20 & 1u;
        const uint32_t normal = (magnitude - (120u << 23) + 0x7ffffu + odd) >> 20;
        const uint32_t finite = magnitude < kFirstNormal ? small : normal;
        codes[i] = static_cast<uint8_t>(sign | (magnitude >= kOverflow ? 0x7fu : finite));
    }
}
#else
__mmask16 first_lanes(int64_t count) { return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1); }

// The codes of 16 quotients, a byte each; `signs` have theirs, that of zero too.
__m128i codes_of(__m512 x, __m512 signs) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
    const __m512 raised = _mm512_add_ps(_mm512_castsi512_ps(magnitude), _mm512_set1_ps(kSmallBase));
    const __m512i small = _mm512_sub_epi32(_mm512_castps_si512(raised), _mm512_castps_si512(_mm512_set1_ps(kSmallBase)));
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(magnitude, 20), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(odd, _mm512_add_epi32(magnitude, _mm512_set1_epi32(0x7ffff - (120 << 23))));
    __m512i code = _mm512_srli_epi32(rounded, 20);
    code = _mm512_mask_mov_epi32(code, _mm512_cmplt_epu32_mask(magnitude, _mm512_set1_epi32(kFirstNormal)), small);
    code = _mm512_mask_mov_epi32(code, _mm512_cmpge_epu32_mask(magnitude, _mm512_set1_epi32(kOverflow)),
                                 _mm512_set1_epi32(0x7f));
    // code | (the sign, shifted to a byte's)
    code = _mm512_ternarylogic_epi32(code, _mm512_srli_epi32(_mm512_castps_si512(signs), 24), _mm512_set1_epi32(0x80),
                                     0xf8);
    return _mm512_cvtepi32_epi8(code);
}

// kernels/kv_codec/e4m3.py to the bit.
void encode_e4m3(const float* __restrict row, int64_t count, uint8_t* __restrict codes, bf16* scale) {
    // Magnitudes order as their bits do, which also puts NaN on top.
    __m512i most = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += 16) {
        const __m512i bits = _mm512_maskz_loadu_epi32(first_lanes(count - i), row + i);
        most = _mm512_max_epu32(most, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    const float divisor = divisor_for(_mm512_reduce_max_epu32(most), scale);
    const __m512 by = _mm512_set1_ps(divisor), inverse = _mm512_set1_ps(1.0f / divisor);
    // A product with the inverse and one correction is the quotient, rounded right (Markstein's theorem), where nothing
    // under- or overflows; a division takes five times as long.
    const bool is_usual = divisor > 0x1p-60f && divisor < 0x1p60f;
    const auto encoded = [&](__m512 x) {
        const __m512 near = _mm512_mul_ps(x, inverse);
        if (is_usual) return codes_of(_mm512_fmadd_ps(_mm512_fnmadd_ps(near, by, x), inverse, near), x);
        const __m512 quotient = _mm512_div_ps(x, by);
        return codes_of(quotient, quotient);
    };
    int64_t i = 0;
    for (; i + 64 <= count; i += 64) {
        __m512i line = _mm512_castsi128_si512(encoded(_mm512_loadu_ps(row + i)));
        line = _mm512_inserti32x4(line, encoded(_mm512_loadu_ps(row + i + 16)), 1);
        line = _mm512_inserti32x4(line, encoded(_mm512_loadu_ps(row + i + 32)), 2);
        line = _mm512_inserti32x4(line, encoded(_mm512_loadu_ps(row + i + 48)), 3);
        _mm512_storeu_si512(codes + i, line);
    }
    for (; i < count; i += 16) {
        const __mmask16 lanes = first_lanes(count - i);
        _mm_mask_storeu_epi8(codes + i, lanes, encoded(_mm512_maskz_loadu_ps(lanes, row + i)));
    }
}
#endif

}  // namespace

void write_kv(const PagedKv& kv, int64_t layer, const int64_t* write_slots, int64_t first, int64_t last,
              const Heads& k, const Heads& v) {
    alignas(64) float row[kMaxHeadDim];
    for (int64_t token = first; token < last; ++token) {
        const int64_t block = write_slots[token] / kv.block_size, offset = write_slots[token] % kv.block_size;
        for (int64_t is_value = 0; is_value < 2; ++is_value) {
            const Heads& heads = is_value ? v : k;
            for (int64_t head = 0; head < kv.kv_heads; ++head) {
                uint8_t* page = kv.page(block, layer, is_value, head);
                uint8_t* to = page + offset * kv.head_dim * element_bytes(kv.element);
                const uint8_t* from = heads_row(heads, token, head);
                if (heads.element == kv.element) {
                    std::memcpy(to, from, static_cast<size_t>(kv.head_dim * element_bytes(kv.element)));
                    continue;
                }
                const bool is_fp32 = heads.element == Element::kFp32;
                if (!is_fp32) load_row(from, heads.element, kv.head_dim, row);
                const float* values = is_fp32 ? reinterpret_cast<const float*>(from) : row;
                if (kv.element != Element::kFp8E4m3) {
                    store_row(values, kv.element, kv.head_dim, to);
                    continue;
                }
                encode_e4m3(values, kv.head_dim, to, reinterpret_cast<bf16*>(page + kv.scales_offset_bytes) + offset);
            }
        }
    }
}

void write_step(const PagedKv& kv, int64_t layer, const AttnBatch& batch, const Heads& k, const Heads& v, Team& team) {
    constexpr int64_t kTokens = 8;  // written at a time
    const int64_t num_tokens = batch.query_starts[batch.num_rows];
    team.share((num_tokens + kTokens - 1) / kTokens, [&](int64_t i) {
        write_kv(kv, layer, batch.write_slots, i * kTokens, std::min((i + 1) * kTokens, num_tokens), k, v);
    });
}

void write_layer(const PagedKv& kv, int64_t layer, const AttnBatch& batch, const Heads& k, const Heads& v) {
    TeamState state(omp_get_max_threads());
#pragma omp parallel
    {
        Team team(state);
        write_step(kv, layer, batch, k, v, team);
    }
}

}  // namespace tiercel::TIERCEL_ISA
