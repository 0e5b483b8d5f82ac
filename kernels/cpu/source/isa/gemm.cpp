#include "../isa.h"

#if defined(TIERCEL_ISA_AMX)
#include "gemm_tiles.h"
#elif defined(TIERCEL_BF16_PRODUCTS)
#include "gemm_dots.h"
#else
#include "gemm.h"
#endif

namespace tiercel::TIERCEL_ISA {

#if defined(TIERCEL_ISA_AMX)

void multiply_panel(const Rows& rows, int64_t num_rows, const PartWeights& weights, int64_t num_inputs, bool continues,
                    float* c, const Ahead& ahead) {
    const auto upper = [] {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
    };
    const auto lower = [] {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    };
    if (weights.compact) {
        multiply_tiles(rows, num_rows, *weights.compact, num_inputs / 32, continues, c, ahead, upper, lower);
    } else {
        PlainSteps steps(weights.whole);
        multiply_tiles(rows, num_rows, steps, num_inputs / 32, continues, c, ahead, upper, lower);
    }
}

#elif defined(TIERCEL_BF16_PRODUCTS)

void multiply_panel(const Rows& rows, int64_t num_rows, const PartWeights& weights, int64_t num_inputs, bool continues,
                    float* c, const Ahead& ahead) {
    const Bf16Dot::Sum zeros[2] = {Bf16Dot::zero(), Bf16Dot::zero()};
    if (weights.compact) {
        multiply_dots<Bf16Dot>(rows, num_rows, *weights.compact, num_inputs / 32, continues, zeros, c, ahead);
    } else {
        PlainSteps steps(weights.whole);
        multiply_dots<Bf16Dot>(rows, num_rows, steps, num_inputs / 32, continues, zeros, c, ahead);
    }
}

#else

namespace {

// The even and the odd inputs of `Vec::kLanes` outputs, widened.
struct Pair {
    Vec even, odd;
#if defined(TIERCEL_ISA_AVX2)
    explicit Pair(const uint8_t* p) {
        const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        even = {_mm256_castsi256_ps(_mm256_slli_epi32(both, 16))};
        odd = {_mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
    }
#else
    explicit Pair(const uint8_t* p) {
        const __m512i both = _mm512_loadu_si512(p);
        even = {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16))};
        odd = {_mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
    }
#endif
};

// Rows that are summed together, as many as there are registers for: each needs as many sums as there are columns.
#if defined(TIERCEL_ISA_AVX2)
constexpr int kRowsAtOnce = 4;
#else
constexpr int kRowsAtOnce = 8;
#endif
constexpr int kColumns = 2;                             // vectors of outputs that are summed together
constexpr int kVecsPerTile = 16 / Vec::kLanes;
constexpr int64_t kVecsPerPanel = 2 * kVecsPerTile;

template <int kCount>
void multiply_rows(const Operand* a, int64_t a_stride, const uint8_t* panel, int64_t num_inputs, int64_t column,
                   bool continues, float* c) {
    Vec sums[kCount][kColumns];
    for (int i = 0; i < kCount; ++i)
        for (int j = 0; j < kColumns; ++j)
            sums[i][j] = continues ? Vec::load(c + i * kPanel + (column + j) * Vec::kLanes) : Vec::zero();
    const uint8_t* tiles[kColumns];
    for (int j = 0; j < kColumns; ++j) {
        const int64_t vec = column + j;
        tiles[j] = panel + vec / kVecsPerTile * (kStepBytes / 2) + vec % kVecsPerTile * Vec::kLanes * 4;
    }
    for (int64_t k = 0; k < num_inputs; k += 32) {
        for (int64_t pair = 0; pair < 16; ++pair) {
            const int64_t offset = k / 32 * kStepBytes + pair * 64;
            const Pair w[kColumns] = {Pair(tiles[0] + offset), Pair(tiles[1] + offset)};
            for (int i = 0; i < kCount; ++i) {
                const float* x = a + i * a_stride + k + pair * 2;
                const Vec even = Vec::of(x[0]), odd = Vec::of(x[1]);
                for (int j = 0; j < kColumns; ++j)
                    sums[i][j] = fma(odd, w[j].odd, fma(even, w[j].even, sums[i][j]));
            }
        }
    }
    for (int i = 0; i < kCount; ++i)
        for (int j = 0; j < kColumns; ++j) sums[i][j].store(c + i * kPanel + (column + j) * Vec::kLanes);
}

}  // namespace

void multiply_panel(const Rows& rows, int64_t num_rows, const PartWeights& weights, int64_t num_inputs, bool continues,
                    float* c, const Ahead&) {
    const uint8_t* const panel = weights.whole;
    const auto* a = static_cast<const Operand*>(rows.data);
    const int64_t a_stride = rows.stride_bytes / static_cast<int64_t>(sizeof(Operand));
    for (int64_t column = 0; column < kVecsPerPanel; column += kColumns) {
        int64_t row = 0;
        for (; row + kRowsAtOnce <= num_rows; row += kRowsAtOnce)
            multiply_rows<kRowsAtOnce>(a + row * a_stride, a_stride, panel, num_inputs, column, continues,
                             c + row * kPanel);
        for (; row + 4 <= num_rows; row += 4)
            multiply_rows<4>(a + row * a_stride, a_stride, panel, num_inputs, column, continues,
                             c + row * kPanel);
        for (; row < num_rows; ++row)
            multiply_rows<1>(a + row * a_stride, a_stride, panel, num_inputs, column, continues,
                             c + row * kPanel);
    }
}

#endif

}  // namespace tiercel::TIERCEL_ISA
