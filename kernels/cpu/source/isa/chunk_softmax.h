// What the ways to compute a split's softmax beside products of bf16 have in common, so that both give the same bits.
//
// Scores are weighed by chunks of tokens, relative to a base: the column's highest score so far, or one that is lower by up
// to kHeadroom. A base that is raised costs a pass over what has been added up (online softmax, arXiv:1805.02867), so it
// is raised only beyond that: exponents of up to kHeadroom do no harm in fp32 and bf16. Chunks lie at fixed positions of
// the sequence, and a column's base follows from its own scores alone.
#pragma once

#include "attention_split.h"
#include "exp2.h"

namespace tiercel::TIERCEL_ISA::tiled {

constexpr int64_t kChunkTokens = 128;
constexpr float kHeadroom = 8.0f;  // to the base of 2, as scores are

// The base after a chunk with these highest scores.
inline Vec raised_base(Vec base, Vec highest) {
    const __mmask16 raised = _mm512_cmp_ps_mask(highest.v, (base + Vec::of(kHeadroom)).v, _CMP_GT_OQ);
    return {_mm512_mask_blend_ps(raised, base.v, highest.v)};
}

inline bool any_differs(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_OQ) != 0; }

// values [column][dims] of sixteen columns or fewer, times a factor each.
inline void scale_columns(const float* factors, int64_t columns, int64_t dims, float* values) {
    for (int64_t column = 0; column < columns; ++column, values += dims)
        for (int64_t d = 0; d < dims; d += Vec::kLanes)
            (Vec::load(values + d) * Vec::of(factors[column])).store(values + d);
}

}  // namespace tiercel::TIERCEL_ISA::tiled
