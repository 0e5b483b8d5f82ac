// Powers of two of scores that are at most 0 (or -inf, which gives 0); a NaN stays one. The polynomials are minimax
// fits of the relative error, with 2^0 = 1 exactly.
#pragma once

#include "vec.h"

namespace tiercel::TIERCEL_ISA {

// Relative error 1e-7.
inline Vec exp2(Vec t) {
#if defined(TIERCEL_ISA_AVX2)
    const Vec lowest = Vec::of(-126.0f);  // below, `scale2` has no normal result
#else
    const Vec lowest = Vec::of(-200.0f);
#endif
    // In this order a NaN in t is what max gives.
    const Vec bounded = max(lowest, t);
    const Vec n = round(bounded);
    const Vec f = bounded - n;
    Vec p = Vec::of(1.5353362e-4f);
    p = fma(p, f, Vec::of(1.3398874e-3f));
    p = fma(p, f, Vec::of(9.6184374e-3f));
    p = fma(p, f, Vec::of(5.5503325e-2f));
    p = fma(p, f, Vec::of(2.4022648e-1f));
    p = fma(p, f, Vec::of(6.9314720e-1f));
    p = fma(p, f, Vec::of(1.0f));
    p = scale2(p, n);
#if defined(TIERCEL_ISA_AVX2)
    p.v = _mm256_andnot_ps(_mm256_cmp_ps(t.v, lowest.v, _CMP_LT_OQ), p.v);
#endif
    return p;
}

#if !defined(TIERCEL_ISA_AVX2)
// Relative error 1e-4, where half of what rounding to bf16 costs afterwards is 2e-3. Of any t: infinite from 128 on.
inline Vec exp2_for_bf16(Vec t) {
    const __m512 f = _mm512_reduce_ps(t.v, 0x09);  // t - floor(t)
    __m512 p = _mm512_set1_ps(0.07826797f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.22630768f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69542435f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return {_mm512_scalef_ps(p, t.v)};  // p * 2^floor(t)
}
#endif

}  // namespace tiercel::TIERCEL_ISA
