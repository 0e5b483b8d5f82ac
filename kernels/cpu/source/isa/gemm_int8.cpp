// The product of one panel in int8. Sums of integers are exact, so all paths give the same.
#if defined(TIERCEL_ISA_AMX)
#include "gemm_tiles.h"
#elif defined(TIERCEL_ISA_AVX2)
#include "gemm.h"
#else
#include "gemm_dots.h"
#include "quantize.h"
#endif

namespace tiercel::TIERCEL_ISA {
#if defined(TIERCEL_ISA_AMX)

void multiply_panel_int8(const Rows& rows, int64_t num_rows, const uint8_t* panel, int64_t num_inputs, bool continues,
                         const int32_t*, float* c, const Ahead& ahead) {
    const auto upper = [] {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
    };
    const auto lower = [] {
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    };
    PlainSteps steps(panel);
    multiply_tiles(rows, num_rows, steps, num_inputs / 64, continues, c, ahead, upper, lower);
}

#elif defined(TIERCEL_ISA_AVX2)

namespace {

// One row's next four values for all outputs of a vector; adds their products with the outputs' four weights each.
struct Four {
    __m256i value, magnitude;
    explicit Four(const int8_t* p) {
        int32_t both;
        std::memcpy(&both, p, 4);
        value = _mm256_set1_epi32(both);
        magnitude = _mm256_abs_epi8(value);
    }
    // The instruction wants one factor unsigned. No sum of two overflows, since neither holds -128.
    __m256i added(__m256i sum, const uint8_t* w) const {
        const __m256i weight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
        const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(weight, value));
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
};

constexpr int kRowsAtOnce = 4;
constexpr int kColumns = 2;  // vectors of outputs that are summed together
constexpr int kVecsPerTile = 16 / Vec::kLanes;
constexpr int64_t kVecsPerPanel = 2 * kVecsPerTile;

template <int kCount>
void multiply_rows(const int8_t* a, int64_t stride, const uint8_t* panel, int64_t num_inputs, int64_t column,
                   bool continues, float* c) {
    __m256i sums[kCount][kColumns];
    const uint8_t* tiles[kColumns];
    const auto place = [&](int i, int j) {
        return reinterpret_cast<__m256i*>(c + i * kPanel + (column + j) * Vec::kLanes);
    };
    for (int j = 0; j < kColumns; ++j) {
        const int64_t vec = column + j;
        tiles[j] = panel + vec / kVecsPerTile * (kStepBytes / 2) + vec % kVecsPerTile * Vec::kLanes * 4;
        for (int i = 0; i < kCount; ++i)
            sums[i][j] = continues ? _mm256_loadu_si256(place(i, j)) : _mm256_setzero_si256();
    }
    for (int64_t k = 0; k < num_inputs; k += 64) {
        for (int64_t four = 0; four < 16; ++four) {
            const int64_t offset = k / 64 * kStepBytes + four * 64;
            for (int i = 0; i < kCount; ++i) {
                const Four x(a + i * stride + k + four * 4);
                for (int j = 0; j < kColumns; ++j) sums[i][j] = x.added(sums[i][j], tiles[j] + offset);
            }
        }
    }
    for (int i = 0; i < kCount; ++i)
        for (int j = 0; j < kColumns; ++j) _mm256_storeu_si256(place(i, j), sums[i][j]);
}

}  // namespace

void multiply_panel_int8(const Rows& rows, int64_t num_rows, const uint8_t* panel, int64_t num_inputs, bool continues,
                         const int32_t*, float* c, const Ahead&) {
    const auto* a = static_cast<const int8_t*>(rows.data);
    const int64_t stride = rows.stride_bytes;
    for (int64_t column = 0; column < kVecsPerPanel; column += kColumns) {
        int64_t row = 0;
        for (; row + kRowsAtOnce <= num_rows; row += kRowsAtOnce)
            multiply_rows<kRowsAtOnce>(a + row * stride, stride, panel, num_inputs, column, continues, c + row * kPanel);
        for (; row < num_rows; ++row)
            multiply_rows<1>(a + row * stride, stride, panel, num_inputs, column, continues, c + row * kPanel);
    }
}

#else

void multiply_panel_int8(const Rows& rows, int64_t num_rows, const uint8_t* panel, int64_t num_inputs, bool continues,
                         const int32_t* sums, float* c, const Ahead& ahead) {
    // What each row has too much: 128 of all that an output is multiplied by.
    static_assert(kQuantizedZero == 1 << 7);
    Int8Dot::Sum first[2];
    for (int j = 0; j < 2; ++j)
        first[j] = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(_mm512_loadu_si512(sums + j * 16), 7));
    PlainSteps steps(panel);
    multiply_dots<Int8Dot>(rows, num_rows, steps, num_inputs / 64, continues, first, c, ahead);
}

#endif

}  // namespace tiercel::TIERCEL_ISA
