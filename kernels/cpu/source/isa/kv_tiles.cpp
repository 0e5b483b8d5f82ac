#include "../isa.h"

#if defined(TIERCEL_BF16_PRODUCTS)
#include "kv_tiles.h"

namespace tiercel::TIERCEL_ISA::tiled {
namespace {

struct AnyRow {
    alignas(64) uint8_t bytes[kMaxHeadDim * 4];
    constexpr AnyRow() : bytes() {
        for (uint8_t& byte : bytes) byte = kAnyCode;
    }
};
constexpr AnyRow kAnyRow;

// 64 dimensions of four rows of K, as two tiles' rows.
void widen_keys(const E4m3Widener& widener, const uint8_t* const* rows, int64_t dim, __mmask64 mask, bf16* to) {
    __m512i codes[4], least = _mm512_set1_epi8(-1);
    for (int i = 0; i < 4; ++i) {
        codes[i] = load_codes(rows[i] + dim, mask);
        E4m3Widener::look_at(codes[i], least);
    }
    const bool plain = E4m3Widener::all_plain(least);
    for (int i = 0; i < 4; ++i) {
        __m512i low, high;
        if (plain) E4m3Widener::plain_bytes(codes[i], low, high);
        else widener.bytes(codes[i], low, high);
        _mm512_store_si512(to + i * 32, _mm512_unpacklo_epi8(low, high));
        _mm512_store_si512(to + kTileWords + i * 32, _mm512_unpackhi_epi8(low, high));
    }
}

// 32 dimensions of two rows of V, as a row of two tiles.
inline void put_pairs(__m512i even, __m512i odd, bf16* to) {
    _mm512_store_si512(to, _mm512_unpacklo_epi16(even, odd));
    _mm512_store_si512(to + kTileWords, _mm512_unpackhi_epi16(even, odd));
}

}  // namespace

KvTiles::KvTiles(const Split& split)
    : split_(split), dims_(padded_dims(split.kv)), row_bytes_(split.kv.head_dim * element_bytes(split.kv.element)),
      in_place_(split.kv.element == Element::kBf16 && split.kv.head_dim == dims_ && split.kv.block_size % kTile == 0),
      token_bytes_(row_bytes_ + (is_fp8(split.kv) ? 2 : 0)) {}

void KvTiles::find_rows(bool is_value, int64_t t, int64_t number, const uint8_t** rows) const {
    const int64_t last = std::min(t + number, split_.count);
    const __m512i first_eight = _mm512_mullo_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi64(row_bytes_));
    split_.runs(is_value, t, last, [&](const uint8_t* page, int64_t offset, int64_t from, int64_t count) {
        // Whole vectors: what is written too far is overwritten by the next run, or lies behind the rows.
        __m512i eight = _mm512_add_epi64(_mm512_set1_epi64(reinterpret_cast<long long>(page + offset * row_bytes_)), first_eight);
        for (int64_t i = 0; i < count; i += 8) {
            _mm512_storeu_si512(rows + from - t + i, eight);
            eight = _mm512_add_epi64(eight, _mm512_set1_epi64(8 * row_bytes_));
        }
    });
    for (int64_t i = std::max<int64_t>(0, last - t); i < number; ++i) rows[i] = kAnyRow.bytes;
}

void KvTiles::load_factors(bool is_value, int64_t t, int64_t number, float unit, float* factors) const {
    split_.runs(is_value, t, std::min(t + number, split_.count),
                [&](const uint8_t* page, int64_t offset, int64_t from, int64_t count) {
        const uint8_t* scales = page + split_.kv.scales_offset_bytes + 2 * offset;
        for (int64_t i = 0; i < count; i += 16) {
            const __mmask16 mask = static_cast<__mmask16>(first_words(std::min<int64_t>(16, count - i)));
            const __m512 scale = _mm512_castsi512_ps(
                _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, scales + 2 * i)), 16));
            // NaN where usable_scale() gives one.
            const __mmask16 usable = _mm512_cmp_ps_mask(scale, _mm512_set1_ps(255.0f), _CMP_LE_OQ);
            const __m512 checked = _mm512_mask_blend_ps(usable, _mm512_set1_ps(__builtin_nanf("")), scale);
            _mm512_mask_storeu_ps(factors + from + i, mask, _mm512_mul_ps(_mm512_set1_ps(unit), checked));
        }
    });
}

KvTiles::KeyTile KvTiles::keys(int64_t t, bf16* room) const {
    const int64_t count = split_.kv.head_dim;
    const uint8_t* rows[kTile + 7];
    if (in_place_) {
        // Pages are whole tiles, and splits start with one; a tile's tokens beyond the count are in the page.
        split_.ahead->advance(kTile * token_bytes_);
        find_rows(false, t, 1, rows);
        return {reinterpret_cast<const bf16*>(rows[0]), dims_ * 2, 32};
    }
    find_rows(false, t, kTile, rows);
    with_element(split_.kv.element, [&](auto tag) {
        if constexpr (tag.value == Element::kFp8E4m3) {
            for (int64_t d = 0; d < dims_; d += 64) {
                const __mmask64 mask = first_bytes(count - d);
                for (int64_t i = 0; i < kTile; i += 4) {
                    split_.ahead->advance(4 * 64 + 8);
                    widen_keys(widener_, rows + i, d, mask, room + d * kTile + i * 32);
                }
            }
        } else {
            for (int64_t i = 0; i < kTile; ++i) {
                split_.ahead->advance(token_bytes_);
                for (int64_t d = 0; d < dims_; d += 32)
                    _mm512_store_si512(room + d * kTile + i * 32, words_of<tag.value>(rows[i], d, count));
            }
        }
    });
    return {room, 64, kTileWords};
}

const uint8_t* KvTiles::values_in_place(int64_t t) const {
    if (!in_place_ || t + kTile > split_.count) return nullptr;
    split_.ahead->advance(kTile * token_bytes_);
    const uint8_t* rows[1 + 7];
    find_rows(true, t, 1, rows);
    return rows[0];
}

void KvTiles::values(int64_t t, int64_t dim, bf16* to) const {
    if (is_fp8(split_.kv)) {
        each_value_pair(t, dim, [&](int64_t i, const std::array<__m512i, 4>& pairs) {
            for (int j = 0; j < 4; ++j) _mm512_store_si512(to + j * kTileWords + i * 32, pairs[j]);
        });
        return;
    }
    const int64_t count = split_.kv.head_dim;
    const uint8_t* rows[kPairStep + 7];
    find_rows(true, t, kPairStep, rows);
    with_element(split_.kv.element, [&](auto tag) {
        if constexpr (tag.value == Element::kFp8E4m3) {
            return;
        } else if (tag.value == Element::kBf16 && count - dim >= kValueDims) {
            for (int64_t i = 0; i < kPairStep; i += 2) {
                split_.ahead->advance(4 * 64);
                const uint8_t *even = rows[i] + 2 * dim, *odd = rows[i + 1] + 2 * dim;
                put_pairs(_mm512_loadu_si512(even), _mm512_loadu_si512(odd), to + i / 2 * 32);
                put_pairs(_mm512_loadu_si512(even + 64), _mm512_loadu_si512(odd + 64), to + 2 * kTileWords + i / 2 * 32);
            }
        } else {
            const int64_t last = std::min(dim + kValueDims, dims_);
            for (int64_t d = dim; d < last; d += 32)
                for (int64_t i = 0; i < kPairStep; i += 2) {
                    split_.ahead->advance(64 * element_bytes(tag.value));
                    const __m512i even = words_of<tag.value>(rows[i], d, count);
                    const __m512i odd = words_of<tag.value>(rows[i + 1], d, count);
                    put_pairs(even, odd, to + (d - dim) / 16 * kTileWords + i / 2 * 32);
                }
        }
    });
}

void KvTiles::put_query(const PagedKv& kv, const float* row, bf16* words) {
    const int64_t dims = padded_dims(kv);
    const auto words_at = [&](int64_t d) {
        return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(row + d + 16), _mm512_loadu_ps(row + d));
    };
    if (!is_fp8(kv)) {
        for (int64_t d = 0; d < dims; d += 32) _mm512_store_si512(words + d, words_at(d));
        return;
    }
    // The first eight of every sixteen, then the others.
    for (int64_t d = 0; d < dims; d += 64) {
        const __m512i low = words_at(d), high = words_at(d + 32);
        _mm512_store_si512(words + d, _mm512_shuffle_i32x4(low, high, 0x88));
        _mm512_store_si512(words + d + 32, _mm512_shuffle_i32x4(low, high, 0xdd));
    }
}

void KvTiles::in_order(const PagedKv& kv, const float* from, float* to) {
    const int64_t dims = padded_dims(kv);
    if (is_fp8(kv)) {
        for (int64_t d = 0; d < dims; d += 64) E4m3Widener::in_order(from + d, to + d);
        return;
    }
    // The first tile of two has, four by four, every other four dimensions.
    const __m512i low = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0), high = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
    for (int64_t d = 0; d < dims; d += 32) {
        const __m512d a = _mm512_castps_pd(_mm512_loadu_ps(from + d)), b = _mm512_castps_pd(_mm512_loadu_ps(from + d + 16));
        _mm512_storeu_pd(to + d, _mm512_permutex2var_pd(a, low, b));
        _mm512_storeu_pd(to + d + 16, _mm512_permutex2var_pd(a, high, b));
    }
}

}  // namespace tiercel::TIERCEL_ISA::tiled
#endif
