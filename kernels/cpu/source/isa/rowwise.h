// What a decoder does to single rows between its products, in fp32.
#pragma once

#include <cmath>
#include <cstdint>

#include "exp2.h"
#include "operand.h"
#include "vec.h"

namespace tiercel::TIERCEL_ISA {

// e^x by 2^n * e^r, |r| <= ln 2 / 2, with the polynomial of Cephes' expf: within 2 units of the last place.
inline Vec exp(Vec x) {
    // Below, 2^n is denormal; above, infinite.
    x = max(min(x, Vec::of(88.0f)), Vec::of(-87.0f));
    const Vec n = round(x * Vec::of(1.44269504f));
    const Vec r = fma(n, Vec::of(2.12194440e-4f), fma(n, Vec::of(-0.693359375f), x));
    Vec p = Vec::of(1.9875691500e-4f);
    p = fma(p, r, Vec::of(1.3981999507e-3f));
    p = fma(p, r, Vec::of(8.3334519073e-3f));
    p = fma(p, r, Vec::of(4.1665795894e-2f));
    p = fma(p, r, Vec::of(1.6666665459e-1f));
    p = fma(p, r, Vec::of(5.0000001201e-1f));
    return scale2(fma(p, r * r, r + Vec::of(1.0f)), n);
}

// 1 / sqrt(mean(x²) + eps). `size` is a multiple of 8.
inline float inverse_rms(const float* x, int64_t size, float eps) {
    Vec sum = Vec::zero();
    int64_t i = 0;
    for (; i + Vec::kLanes <= size; i += Vec::kLanes) {
        const Vec value = Vec::load(x + i);
        sum = fma(value, value, sum);
    }
    float total = sum.sum();
    for (; i < size; ++i) total += x[i] * x[i];
    return 1.0f / std::sqrt(total / static_cast<float>(size) + eps);
}

inline void widen(const bf16* x, int64_t size, float* y) {
    int64_t i = 0;
    for (; i + Vec::kLanes <= size; i += Vec::kLanes) Vec::load(x + i).store(y + i);
    for (; i < size; ++i) {
        const uint32_t bits = static_cast<uint32_t>(x[i]) << 16;
        std::memcpy(y + i, &bits, 4);
    }
}

// y = weight * x / rms(x) (arXiv:1910.07467).
inline void rms_norm(const float* x, const float* weight, float eps, int64_t size, Operand* y) {
    const float factor = inverse_rms(x, size, eps);
    int64_t i = 0;
    for (; i + Vec::kLanes <= size; i += Vec::kLanes)
        (Vec::load(x + i) * Vec::of(factor) * Vec::load(weight + i)).store(y + i);
    for (; i < size; ++i) to_operand(x[i] * factor * weight[i], y + i);
}

inline void rms_norm_in_place(float* x, const float* weight, float eps, int64_t size) {
    const float factor = inverse_rms(x, size, eps);
    int64_t i = 0;
    for (; i + Vec::kLanes <= size; i += Vec::kLanes)
        (Vec::load(x + i) * Vec::of(factor) * Vec::load(weight + i)).store(x + i);
    for (; i < size; ++i) x[i] = x[i] * factor * weight[i];
}

// x * cos + swap_halves(x) * sin (arXiv:2104.09864), sin's first half being negative.
inline void rotate(float* x, const float* cos, const float* sin, int64_t head_dim) {
    const int64_t half = head_dim / 2;
    int64_t i = 0;
    for (; i + Vec::kLanes <= half; i += Vec::kLanes) {
        const Vec low = Vec::load(x + i), high = Vec::load(x + half + i);
        fma(high, Vec::load(sin + i), low * Vec::load(cos + i)).store(x + i);
        fma(low, Vec::load(sin + half + i), high * Vec::load(cos + half + i)).store(x + half + i);
    }
    for (; i < half; ++i) {
        const float low = x[i], high = x[half + i];
        x[i] = low * cos[i] + high * sin[i];
        x[half + i] = high * cos[half + i] + low * sin[half + i];
    }
}

// silu(gate) * up for 16 of each (SwiGLU, arXiv:2002.05202).
inline void silu_mul(const float* gate, const float* up, Operand* y) {
#if defined(TIERCEL_BF16_PRODUCTS)
    // What is rounded to bf16 next, with an error of up to 2e-3, is computed to 2e-4.
    const Vec g = Vec::load(gate), t = exp2_for_bf16(g * Vec::of(-1.44269504f));
    const Vec inverse{_mm512_rcp14_ps((Vec::of(1.0f) + t).v)};
    (g * Vec::load(up) * inverse).store(y);
#else
    for (int i = 0; i < 16; i += Vec::kLanes) {
        const Vec g = Vec::load(gate + i);
        (g * reciprocal(Vec::of(1.0f) + exp(Vec::zero() - g)) * Vec::load(up + i)).store(y + i);
    }
#endif
}

}  // namespace tiercel::TIERCEL_ISA
