#include "../isa.h"

#if defined(TIERCEL_ISA_AMX)
#include "row_words.h"
#include "tiled_kv.h"
#include "tiles.h"

namespace tiercel::TIERCEL_ISA::tiled {
namespace {

// How far ahead memory is asked for, in groups of kKeyStep tokens.
constexpr int64_t kGroupsAhead = 1;

}  // namespace

TiledKv::TiledKv(const Split& split, uint8_t* scratch)
    : split_(split), dims_(padded_dims(split.kv)), row_bytes_(split.kv.head_dim * element_bytes(split.kv.element)),
      num_groups_(round_up(split.count, kKeyStep) / kKeyStep),
      in_place_(split.kv.element == Element::kBf16 && split.kv.head_dim == dims_ && split.kv.block_size % kTile == 0) {
    keys_ = reinterpret_cast<bf16*>(scratch);
    values_ = keys_ + kSplitTokens * dims_;
    key_factors_ = reinterpret_cast<float*>(values_ + kSplitTokens * dims_);
    value_factors_ = key_factors_ + kSplitTokens;
    tiles_ = reinterpret_cast<const bf16**>(value_factors_ + kSplitTokens);
    const int64_t first = split.first_seen(0) / kKeyStep;
    for (int64_t group = first; group < first + kGroupsAhead; ++group) ask_ahead(group);
}

int64_t TiledKv::scratch_bytes(const PagedKv& kv) {
    return kSplitTokens * (padded_dims(kv) * 4 + 2 * 4) + round_up(kSplitTokens / kTile * 8, 64);
}

void TiledKv::ask_ahead(int64_t group) {
    while (asked_ < num_ahead_) ask_for_row();
    num_ahead_ = asked_ = 0;
    const bool is_value = group >= num_groups_ && group < 2 * num_groups_;
    const bool is_next = group >= 2 * num_groups_;
    const int64_t first = is_next ? split_.count + (group - 2 * num_groups_) * kKeyStep
                                  : (group - (is_value ? num_groups_ : 0)) * kKeyStep;
    const int64_t last = std::min(first + kKeyStep, is_next ? split_.count + split_.following : split_.count);
    split_.runs(is_value, first, last, [&](const uint8_t* page, int64_t offset, int64_t, int64_t number) {
        for (int64_t i = 0; i < number; ++i) ahead_[num_ahead_++] = page + (offset + i) * row_bytes_;
        if (is_fp8(split_.kv))
            _mm_prefetch(reinterpret_cast<const char*>(page + split_.kv.scales_offset_bytes + 2 * offset), _MM_HINT_T0);
    });
}

template <Element kElement>
void TiledKv::widen_keys(const uint8_t* rows, int64_t number, bf16* to) {
    const int64_t count = split_.kv.head_dim;
    for (int64_t i = 0; i < number; ++i, rows += row_bytes_, to += dims_) {
        if (i % 8 == 0) keep_awake();
        ask_for_row();
        if constexpr (kElement == Element::kFp8E4m3) {
            for (int64_t d = 0; d < dims_; d += 64)
                widener_.key(_mm512_maskz_loadu_epi8(first_bytes(count - d), rows + d), to + d);
        } else {
            for (int64_t d = 0; d < dims_; d += 32) _mm512_store_si512(to + d, words_of<kElement>(rows, d, count));
        }
    }
}

template <Element kElement>
void TiledKv::widen_values(const uint8_t* even, const uint8_t* odd, bf16* to) const {
    const int64_t count = split_.kv.head_dim;
    if constexpr (kElement == Element::kFp8E4m3) {
        for (int64_t d = 0; d < dims_; d += 64) {
            const __mmask64 mask = first_bytes(count - d);
            widener_.value_pair(_mm512_maskz_loadu_epi8(mask, even + d),
                                odd ? _mm512_maskz_loadu_epi8(mask, odd + d) : _mm512_setzero_si512(), to + 2 * d);
        }
    } else {
        const __m512i lower = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38,
                                               6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
        const __m512i upper = _mm512_add_epi16(lower, _mm512_set1_epi16(16));
        for (int64_t d = 0; d < dims_; d += 32) {
            const __m512i a = words_of<kElement>(even, d, count);
            const __m512i b = odd ? words_of<kElement>(odd, d, count) : _mm512_setzero_si512();
            _mm512_store_si512(to + 2 * d, _mm512_permutex2var_epi16(a, lower, b));
            _mm512_store_si512(to + 2 * d + 32, _mm512_permutex2var_epi16(a, upper, b));
        }
    }
}

void TiledKv::fetch_keys(int64_t step) {
    if (keys_fetched_ >> (step / kKeyStep) & 1) return;
    keys_fetched_ |= 1u << (step / kKeyStep);
    const int64_t last = std::min(step + kKeyStep, split_.count);
    ask_ahead(step / kKeyStep + kGroupsAhead);
    for (int64_t t = step; t < step + kKeyStep; t += kTile) tiles_[t / kTile] = keys_ + t * dims_;
    if (is_fp8(split_.kv)) split_.load_factors(false, step, last, split_.score_scale, key_factors_);
    else std::fill_n(key_factors_ + step, kKeyStep, split_.score_scale);
    with_element(split_.kv.element, [&](auto tag) {
        split_.runs(false, step, last, [&](const uint8_t* page, int64_t offset, int64_t t, int64_t number) {
            const uint8_t* rows = page + offset * row_bytes_;
            if (in_place_) {
                // Pages are whole tiles, and splits start with one; a tile's tokens beyond the count are in the page.
                for (int64_t i = 0; i < number; i += kTile)
                    tiles_[(t + i) / kTile] = reinterpret_cast<const bf16*>(rows + i * row_bytes_);
                return;
            }
            widen_keys<tag.value>(rows, number, keys_ + t * dims_);
        });
    });
}

void TiledKv::fetch_values(int64_t step) {
    if (values_fetched_ >> (step / kPairStep) & 1) return;
    values_fetched_ |= 1u << (step / kPairStep);
    const int64_t last = std::min(step + kPairStep, split_.count);
    if (step % kKeyStep == 0) ask_ahead(num_groups_ + step / kKeyStep + kGroupsAhead);
    std::fill_n(value_factors_ + step, kPairStep, 0.0f);
    if (is_fp8(split_.kv)) split_.load_factors(true, step, last, 1.0f, value_factors_);
    else std::fill_n(value_factors_ + step, last - step, 1.0f);
    const uint8_t* rows[kPairStep] = {};
    split_.runs(true, step, last, [&](const uint8_t* page, int64_t offset, int64_t t, int64_t number) {
        for (int64_t i = 0; i < number; ++i) rows[t + i - step] = page + (offset + i) * row_bytes_;
    });
    with_element(split_.kv.element, [&](auto tag) {
        bf16* to = values_ + step * dims_;
        for (int64_t i = 0; i < kPairStep; i += 2, to += 2 * dims_) {
            if (i % 8 == 0) keep_awake();
            ask_for_row();
            ask_for_row();
            if (rows[i]) widen_values<tag.value>(rows[i], rows[i + 1], to);
            else std::memset(to, 0, static_cast<size_t>(dims_ * 4));
        }
    });
}

}  // namespace tiercel::TIERCEL_ISA::tiled
#endif
