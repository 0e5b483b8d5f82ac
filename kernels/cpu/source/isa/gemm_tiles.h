// One panel's products in AMX tiles, whatever their values: a step is 64 bytes of each row and two tiles of the panel.
#pragma once

#include "panel_steps.h"

namespace tiercel::TIERCEL_ISA {

// `upper()` adds the products of tile 4 with 6 and 7 to tiles 0 and 1, `lower()` those of tile 5 to 2 and 3. The caller's
// thread has its tiles configured.
template <typename Steps, typename Upper, typename Lower>
void multiply_tiles(const Rows& rows, int64_t num_rows, Steps& steps, int64_t num_steps, bool continues,
                    float* c, const Ahead& ahead, const Upper& upper, const Lower& lower) {
    const auto* a = static_cast<const uint8_t*>(rows.data);
    const int64_t stride = rows.stride_bytes, c_stride = kPanel * 4;
    if (continues) {
        _tile_loadd(0, c, c_stride);
        _tile_loadd(1, c + 16, c_stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
    }
    const StepsAhead weights(ahead);
    if (num_rows <= 16) {
        for (int64_t step = 0; step < num_steps; ++step) {
            const uint8_t* panel = steps.next();
            steps.make();
            weights.begin_step();
            _tile_loadd(4, a + 64 * step, stride);
            weights.part();
            _tile_loadd(6, panel, 64);
            weights.part();
            _tile_loadd(7, panel + kStepBytes / 2, 64);
            weights.part();
            upper();
        }
    } else {
        if (continues) {
            _tile_loadd(2, c + 16 * kPanel, c_stride);
            _tile_loadd(3, c + 16 * kPanel + 16, c_stride);
        } else {
            _tile_zero(2);
            _tile_zero(3);
        }
        const int64_t rows_per_step = (num_rows + num_steps - 1) / num_steps;
        const float* output = ahead.output.data;
        int64_t rows_left = output ? num_rows : 0;
        for (int64_t step = 0; step < num_steps; ++step) {
            const uint8_t* panel = steps.next();
            steps.make();
            weights.begin_step();
            for (int64_t row = std::min(rows_per_step, rows_left); row > 0; --row, output += ahead.output.stride) {
                __builtin_prefetch(output, 1);
                __builtin_prefetch(output + 16, 1);
            }
            rows_left -= rows_per_step;
            // Rows need not stay in the first cache, so that the panel does, for the next rows.
            _tile_stream_loadd(4, a + 64 * step, stride);
            weights.part();
            _tile_loadd(6, panel, 64);
            _tile_loadd(7, panel + kStepBytes / 2, 64);
            weights.part();
            upper();
            _tile_stream_loadd(5, a + 16 * stride + 64 * step, stride);
            weights.part();
            lower();
        }
        _tile_stored(2, c + 16 * kPanel, c_stride);
        _tile_stored(3, c + 16 * kPanel + 16, c_stride);
    }
    _tile_stored(0, c, c_stride);
    _tile_stored(1, c + 16, c_stride);
}

}  // namespace tiercel::TIERCEL_ISA
