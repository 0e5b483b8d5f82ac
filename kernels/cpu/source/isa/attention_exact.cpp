#include "attention_exact.h"

#include "exp2.h"

namespace tiercel::TIERCEL_ISA::exact {
namespace {

constexpr int64_t kStep = 32;  // tokens fetched at a time

// Columns side by side in a block's vectors.
int64_t block_columns(int64_t columns) { return columns <= Vec::kLanes ? Vec::kLanes : 2 * Vec::kLanes; }

struct Scratch {
    float* keys;    // [kSplitTokens, value_floats]
    float* values;  // the same
    float* scores;  // [kSplitTokens, block columns]
    float* key_factors;
    float* value_factors;
    const float** key_rows;
    const float** value_rows;

    Scratch(uint8_t* memory, int64_t width) {
        keys = reinterpret_cast<float*>(memory);
        values = keys + kSplitTokens * width;
        scores = values + kSplitTokens * width;
        key_factors = scores + kSplitTokens * 2 * Vec::kLanes;
        value_factors = key_factors + kSplitTokens;
        key_rows = reinterpret_cast<const float**>(value_factors + kSplitTokens);
        value_rows = key_rows + kSplitTokens;
    }
};

void fetch(const Split& split, bool is_value, int64_t first, int64_t last, bool in_place, int64_t width, float* to,
           const float** rows) {
    const PagedKv& kv = split.kv;
    with_element(kv.element, [&](auto tag) {
        constexpr Element element = tag.value;
        const int64_t row_bytes = kv.head_dim * element_bytes(element);
        split.runs(is_value, first, last, [&](const uint8_t* page, int64_t offset, int64_t t, int64_t number) {
            for (int64_t i = 0; i < number; ++i) {
                const uint8_t* from = page + (offset + i) * row_bytes;
                if (in_place) {
                    rows[t + i] = reinterpret_cast<const float*>(from);
                    continue;
                }
                float* row = to + (t + i) * width;
                for (int64_t d = 0; d < kv.head_dim; d += 8) _mm256_storeu_ps(row + d, load8<element>(from, d));
                for (int64_t d = kv.head_dim; d < width; d += 8) _mm256_storeu_ps(row + d, _mm256_setzero_ps());
                rows[t + i] = row;
            }
        });
    });
}

// scores[t] = q . key_rows[t] for four tokens.
template <int kVecs>
void multiply_keys(const float* const* key_rows, const float* queries, int64_t head_dim, float* scores) {
    Vec sums[4][kVecs];
    for (auto& token : sums)
        for (Vec& sum : token) sum = Vec::zero();
    for (int64_t d = 0; d < head_dim; ++d) {
        Vec q[kVecs];
        for (int j = 0; j < kVecs; ++j) q[j] = Vec::load(queries + (d * kVecs + j) * Vec::kLanes);
        for (int i = 0; i < 4; ++i) {
            const Vec k = Vec::of(key_rows[i][d]);
            for (int j = 0; j < kVecs; ++j) sums[i][j] = fma(k, q[j], sums[i][j]);
        }
    }
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < kVecs; ++j) sums[i][j].store(scores + (i * kVecs + j) * Vec::kLanes);
}

// values[c][..] = sum over t of weights[t][c] * value_rows[t][..], for kColumns columns and kVecs vectors.
template <int kColumns, int kVecs>
void add_values(const float* const* value_rows, int64_t d, const float* weights, int64_t weight_stride, int64_t first,
                int64_t last, float* values, int64_t value_stride) {
    Vec sums[kColumns][kVecs];
    for (auto& column : sums)
        for (Vec& sum : column) sum = Vec::zero();
    for (int64_t t = first; t < last; ++t) {
        Vec v[kVecs];
        for (int j = 0; j < kVecs; ++j) v[j] = Vec::load(value_rows[t] + d + j * Vec::kLanes);
        for (int c = 0; c < kColumns; ++c) {
            const Vec weight = Vec::of(weights[t * weight_stride + c]);
            for (int j = 0; j < kVecs; ++j) sums[c][j] = fma(weight, v[j], sums[c][j]);
        }
    }
    for (int c = 0; c < kColumns; ++c)
        for (int j = 0; j < kVecs; ++j) sums[c][j].store(values + c * value_stride + d + j * Vec::kLanes);
}

template <int kColumns>
void add_values(const Scratch& scratch, const float* weights, int64_t weight_stride, int64_t first, int64_t last,
                float* values, int64_t width) {
    int64_t d = 0;
    for (; d + 2 * Vec::kLanes <= width; d += 2 * Vec::kLanes)
        add_values<kColumns, 2>(scratch.value_rows, d, weights, weight_stride, first, last, values, width);
    for (; d < width; d += Vec::kLanes)
        add_values<kColumns, 1>(scratch.value_rows, d, weights, weight_stride, first, last, values, width);
}

template <int kVecs>
void attend_split(const Split& split, const float* queries, const Scratch& scratch, const Partial& partial) {
    constexpr int64_t kBlock = kVecs * Vec::kLanes;
    const PagedKv& kv = split.kv;
    const int64_t width = value_floats(kv);
    const bool has_scales = kv.element == Element::kFp8E4m3;
    const bool keys_in_place = kv.element == Element::kFp32;
    const bool values_in_place = keys_in_place && kv.head_dim == width;
    const float key_unit = split.score_scale * (has_scales ? kFp8Unit : 1.0f), value_unit = has_scales ? kFp8Unit : 1.0f;
    uint32_t keys_fetched = 0, values_fetched = 0;
    for (int64_t block = 0; block < split.columns; block += kBlock) {
        const int64_t last_column = std::min(block + kBlock, split.columns);
        const int64_t first = split.first_seen(block) / kStep * kStep, last = split.last_seen(last_column - 1);
        if (first >= last) {
            clear_columns(partial, block, last_column, width);
            continue;
        }
        Vec low[kVecs], high[kVecs], highest[kVecs], sums[kVecs];
        for (int j = 0; j < kVecs; ++j) {
            low[j] = Vec::load(split.low + block + j * Vec::kLanes);
            high[j] = Vec::load(split.high + block + j * Vec::kLanes);
            highest[j] = Vec::of(kNoScore);
            sums[j] = Vec::zero();
        }
        for (int64_t step = first; step < last; step += kStep) {
            const int64_t end = std::min(step + kStep, split.count);
            if (!(keys_fetched >> (step / kStep) & 1)) {
                keys_fetched |= 1u << (step / kStep);
                fetch(split, false, step, end, keys_in_place, width, scratch.keys, scratch.key_rows);
                for (int64_t t = end; t < step + kStep; ++t) scratch.key_rows[t] = scratch.key_rows[step];
                if (has_scales) split.load_factors(false, step, end, key_unit, scratch.key_factors);
                else std::fill_n(scratch.key_factors + step, kStep, key_unit);
            }
            for (int64_t t = step; t < std::min(step + kStep, last); t += 4)
                multiply_keys<kVecs>(scratch.key_rows + t, queries + block * kv.head_dim, kv.head_dim,
                                     scratch.scores + t * kBlock);
            for (int64_t t = step; t < std::min(step + kStep, last); ++t) {
                const Vec factor = Vec::of(scratch.key_factors[t]);
                const Vec position = Vec::of(static_cast<float>(split.start + t));
                for (int j = 0; j < kVecs; ++j) {
                    float* score = scratch.scores + t * kBlock + j * Vec::kLanes;
                    const Vec s = seen_or_hidden(Vec::load(score) * factor, position, low[j], high[j]);
                    highest[j] = max(s, highest[j]);  // in this order a NaN is left out
                    s.store(score);
                }
            }
        }
        for (int64_t step = first; step < last; step += kStep) {
            const int64_t end = std::min(step + kStep, split.count);
            if (!(values_fetched >> (step / kStep) & 1)) {
                values_fetched |= 1u << (step / kStep);
                fetch(split, true, step, end, values_in_place, width, scratch.values, scratch.value_rows);
                if (has_scales) split.load_factors(true, step, end, value_unit, scratch.value_factors);
                else std::fill_n(scratch.value_factors + step, kStep, 1.0f);
            }
            for (int64_t t = step; t < std::min(end, last); ++t) {
                const Vec factor = Vec::of(scratch.value_factors[t]);
                for (int j = 0; j < kVecs; ++j) {
                    float* score = scratch.scores + t * kBlock + j * Vec::kLanes;
                    const Vec p = exp2(Vec::load(score) - highest[j]);
                    sums[j] = sums[j] + p;
                    (p * factor).store(score);
                }
            }
        }
        for (int j = 0; j < kVecs; ++j) {
            highest[j].store(partial.highest + block + j * Vec::kLanes);
            sums[j].store(partial.sums + block + j * Vec::kLanes);
        }
        int64_t column = block;
        for (; column + 4 <= last_column; column += 4)
            add_values<4>(scratch, scratch.scores + column - block, kBlock, first, last,
                          partial.values + column * width, width);
        for (; column < last_column; ++column)
            add_values<1>(scratch, scratch.scores + column - block, kBlock, first, last,
                          partial.values + column * width, width);
    }
}

}  // namespace

int64_t value_floats(const PagedKv& kv) { return round_up(kv.head_dim, 16); }

int64_t query_bytes(const PagedKv& kv) { return kMaxColumns * kv.head_dim * 4; }

int64_t scratch_bytes(const PagedKv& kv) {
    return kSplitTokens * ((2 * value_floats(kv) + 2 * Vec::kLanes + 2) * 4 + 2 * 8);
}

void put_query(const PagedKv& kv, const float* row, int64_t column, int64_t columns, uint8_t* queries) {
    const int64_t width = block_columns(columns);
    float* to = reinterpret_cast<float*>(queries) + column / width * width * kv.head_dim + column % width;
    for (int64_t d = 0; d < kv.head_dim; ++d) to[d * width] = row[d];
}

void attend_split(const Split& split, const uint8_t* queries, uint8_t* memory, const Partial& partial) {
    const Scratch scratch(memory, value_floats(split.kv));
    const float* q = reinterpret_cast<const float*>(queries);
    if (split.columns <= Vec::kLanes) attend_split<1>(split, q, scratch, partial);
    else attend_split<2>(split, q, scratch, partial);
}

}  // namespace tiercel::TIERCEL_ISA::exact
