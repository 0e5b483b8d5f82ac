// C = A Wᵀ, with A and a packed W in bf16 and sums in fp32, or both in int8 with sums in int32 and a scale for each row of
// A and each output. All threads of a team work on one product.
//
// W [outputs, inputs] is stored as panels of 32 outputs. A panel is a run of steps over 32 inputs (64 of int8); a step is
// two tiles of 16 outputs; a tile is 16 rows, one for each pair of inputs (four of int8), of 16 outputs times those. That
// is what an AMX tile multiplies by, what widens to two fp32 vectors, of the even and the odd inputs, with a shift and a
// mask, and what VNNI's sums of four products read.
//
// A result does not depend, to the bit, on how many rows are computed with it: each is one chain of sums in the order
// of the inputs, on whichever path, or a sum of integers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../decoder.h"
#include "../team.h"
#include "vec.h"
#if defined(TIERCEL_ISA_AMX)
#include "tiles.h"
#endif

namespace tiercel::TIERCEL_ISA {

inline constexpr int64_t kPanel = 32;      // outputs
inline constexpr int64_t kRows = 32;       // rows of A that are computed together
inline constexpr int64_t kStepBytes = 2048;  // of a panel

// From one row of A to the next: a cache line more than the row, since rows a power of two apart share few cache sets.
inline int64_t row_stride(int64_t size) { return (size + 31) / 32 * 32 + 32; }

// Rows of A. Those up to the next multiple of 16 must be readable.
struct Rows {
    const void* data;
    int64_t stride_bytes;
    const float* scales;  // [rows] of int8; null: bf16

    Rows from(int64_t row) const {
        return {static_cast<const uint8_t*>(data) + row * stride_bytes, stride_bytes, scales ? scales + row : nullptr};
    }
};

// Lines of the weight that are fetched into the second cache meanwhile.
struct Ahead {
    const uint8_t* line;
    int64_t num_lines;
};

// c[32][32] = rows [0, num_rows) of A times one panel; rows beyond are undefined. With int8, `scales` and `sums` are the
// panel's.
void multiply_panel(const Rows& a, int64_t num_rows, const uint8_t* panel, int64_t num_inputs, float* c,
                    const Ahead& ahead);
void multiply_panel_int8(const Rows& a, int64_t num_rows, const uint8_t* panel, int64_t num_inputs,
                         const float* scales, const int32_t* sums, float* c, const Ahead& ahead);

// Calls done(row, first_output, c) for each row and panel, c being the panel's 32 sums with the bias added.
template <typename Done>
void multiply(const Rows& a, int64_t num_rows, const PackedLinear& w, Team& team, const Done& done) {
    constexpr int64_t kTasksPerThread = 8;
    // A block of A stays in the second cache while the panels, which come from further away, pass once for each block.
    const int64_t block_rows = w.num_inputs <= 2048 ? 256 : 128;
    const int64_t panels = w.num_outputs / kPanel, panel_bytes = kPanel * w.num_inputs * (w.scales ? 1 : 2);
    const int64_t blocks = (num_rows + block_rows - 1) / block_rows;
    const int64_t wanted = (kTasksPerThread * team.size + blocks - 1) / blocks;
    const int64_t groups = wanted < panels ? wanted : panels;
    team.share(blocks * groups, [&](int64_t task) {
        const int64_t first_row = task / groups * block_rows, group = task % groups;
        const int64_t last_row = std::min(first_row + block_rows, num_rows);
        alignas(64) float c[kRows * kPanel];
        for (int64_t panel = panels * group / groups; panel < panels * (group + 1) / groups; ++panel) {
            const uint8_t* weight = static_cast<const uint8_t*>(w.weight) + panel * panel_bytes;
            const float* bias = w.bias ? w.bias + panel * kPanel : nullptr;
            // The third cache is too slow to be waited for: the next panel comes nearer while this one is used. With
            // few rows there is no time for that, and the hardware follows the stream by itself.
            const int64_t passes = (last_row - first_row) / kRows;
            Ahead ahead{weight + panel_bytes, passes > 2 && panel + 1 < panels ? panel_bytes / 64 / passes : 0};
            for (int64_t row = first_row; row < last_row; row += kRows) {
                const int64_t rows = last_row - row < kRows ? last_row - row : kRows;
                if (w.scales)
                    multiply_panel_int8(a.from(row), rows, weight, w.num_inputs, w.scales + panel * kPanel,
                                        w.sums + panel * kPanel, c, ahead);
                else
                    multiply_panel(a.from(row), rows, weight, w.num_inputs, c, ahead);
                ahead.line += ahead.num_lines * 64;
                for (int64_t i = 0; i < rows; ++i) {
                    float* sums = c + i * kPanel;
                    if (bias)
                        for (int64_t j = 0; j < kPanel; j += Vec::kLanes)
                            (Vec::load(sums + j) + Vec::load(bias + j)).store(sums + j);
                    done(row + i, panel * kPanel, sums);
                }
            }
        }
    });
}

}  // namespace tiercel::TIERCEL_ISA
