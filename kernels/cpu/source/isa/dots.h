// Sums of dot products within dwords, two of bf16 or four of int8: rows of a left factor times vectors of a right one
// whose lanes are outputs. Each sum is one chain in the order of the dwords, however many rows and vectors there are.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../isa.h"

namespace tiercel::TIERCEL_ISA {

#if defined(TIERCEL_BF16_PRODUCTS)
struct Bf16Dot {
    using Sum = __m512;
    static Sum zero() { return _mm512_setzero_ps(); }
    static Sum load(const float* c) { return _mm512_loadu_ps(c); }
    static void store(Sum sum, float* c) { _mm512_storeu_ps(c, sum); }
    static Sum added(Sum sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
};
#endif

// a is unsigned. Sums are whole numbers that stand where floats will.
struct Int8Dot {
    using Sum = __m512i;
    static Sum zero() { return _mm512_setzero_si512(); }
    static Sum load(const float* c) { return _mm512_loadu_si512(c); }
    static void store(Sum sum, float* c) { _mm512_storeu_si512(c, sum); }
    static Sum added(Sum sum, __m512i a, __m512i b) { return _mm512_dpbusd_epi32(sum, a, b); }
};

constexpr int kDotRows = 8;  // as many as there are registers for, with two vectors

template <typename Dot, int kRows, int kVecs>
struct Dots {
    typename Dot::Sum sums[kRows][kVecs];

    template <typename Start>
    explicit Dots(const Start& start) {
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < kVecs; ++j) sums[i][j] = start(i, j);
    }
    // Row i of a begins `a_stride` bytes after the one before, vector j of b's dwords `b_stride`.
    void add(const uint8_t* a, int64_t a_stride, const uint8_t* b, int64_t b_stride, int64_t dwords) {
        for (int64_t k = 0; k < dwords; ++k) {
            std::array<__m512i, kVecs> right;
#pragma GCC unroll 4
            for (int j = 0; j < kVecs; ++j) right[j] = _mm512_loadu_si512(b + j * b_stride + k * 64);
            add_dword(a + k * 4, a_stride, right);
        }
    }
    // One dword of each row, times the next ones of b's vectors.
    void add_dword(const uint8_t* a, int64_t a_stride, const std::array<__m512i, kVecs>& right) {
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
            int32_t dword;
            std::memcpy(&dword, a + i * a_stride, 4);
            const __m512i left = _mm512_set1_epi32(dword);
#pragma GCC unroll 4
            for (int j = 0; j < kVecs; ++j) sums[i][j] = Dot::added(sums[i][j], left, right[j]);
        }
    }
    template <typename Done>
    void end(const Done& done) const {
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < kVecs; ++j) done(i, j, sums[i][j]);
    }
};

// Calls task with the number of rows, 1 to kDotRows, as a compile-time constant.
template <typename Task>
inline void with_rows(int64_t rows, const Task& task) {
    switch (rows) {
        case 1: return task(std::integral_constant<int, 1>{});
        case 2: return task(std::integral_constant<int, 2>{});
        case 3: return task(std::integral_constant<int, 3>{});
        case 4: return task(std::integral_constant<int, 4>{});
        case 5: return task(std::integral_constant<int, 5>{});
        case 6: return task(std::integral_constant<int, 6>{});
        case 7: return task(std::integral_constant<int, 7>{});
        default: return task(std::integral_constant<int, kDotRows>{});
    }
}

}  // namespace tiercel::TIERCEL_ISA
