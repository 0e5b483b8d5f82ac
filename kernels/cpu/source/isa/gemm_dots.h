// One panel's products by dot products in vectors, whatever their values: a step is 64 bytes of each row and two tiles
// of the panel.
#pragma once

#include "dots.h"
#include "panel_steps.h"

namespace tiercel::TIERCEL_ISA {

static_assert(kRows == kDotRows);

// `first` are the panel's sums before any product, where it does not continue.
template <typename Dot, int kCount, typename Steps>
void multiply_dots(const Rows& rows, Steps& steps, int64_t num_steps, bool continues,
                   const typename Dot::Sum (&first)[2], float* c, const Ahead& ahead) {
    const auto* a = static_cast<const uint8_t*>(rows.data);
    Dots<Dot, kCount, 2> dots([&](int i, int j) { return continues ? Dot::load(c + i * kPanel + j * 16) : first[j]; });
    const StepsAhead weights(ahead);
    if (ahead.output.data)
        for (int i = 0; i < kCount; ++i)
            for (int j = 0; j < 2; ++j) __builtin_prefetch(ahead.output.data + i * ahead.output.stride + j * 16, 1);
    constexpr int64_t kQuarter = 4;  // of a step's dwords
    for (int64_t step = 0; step < num_steps; ++step, a += 64) {
        const uint8_t* panel = steps.next();
        weights.begin_step();
#pragma GCC unroll 4
        for (int64_t k = 0; k < 4; ++k) {
            dots.add(a + k * kQuarter * 4, rows.stride_bytes, panel + k * kQuarter * 64, kStepBytes / 2, kQuarter);
            steps.make_part(k);
            if (k < 3) weights.part();
        }
    }
    dots.end([&](int i, int j, typename Dot::Sum sum) { Dot::store(sum, c + i * kPanel + j * 16); });
}

template <typename Dot, typename Steps>
void multiply_dots(const Rows& rows, int64_t num_rows, Steps& steps, int64_t num_steps, bool continues,
                   const typename Dot::Sum (&first)[2], float* c, const Ahead& ahead) {
    with_rows(num_rows, [&](auto count) {
        multiply_dots<Dot, count.value>(rows, steps, num_steps, continues, first, c, ahead);
    });
}

}  // namespace tiercel::TIERCEL_ISA
