// C = A Wᵀ with A in bf16 and W in bf16, packed; sums in fp32. All threads of a team work on one product.
//
// W [outputs, inputs] is stored as panels of 32 outputs. A panel is a run of steps over 32 inputs; a step is two tiles of
// 16 outputs; a tile is 16 rows, one for each pair of inputs, of 16 outputs times that pair. That is what an AMX tile
// multiplies by, and what widens to two fp32 vectors, of the even and the odd inputs, with a shift and a mask.
//
// A result does not depend, to the bit, on how many rows are computed with it: each is one chain of sums in the order
// of the inputs, on whichever path.
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
inline constexpr int64_t kStep = 32 * 32;  // bf16 values of a panel for 32 inputs

// From one row of A to the next: a cache line more than the row, since rows a power of two apart share few cache sets.
inline int64_t row_stride(int64_t size) { return (size + 31) / 32 * 32 + 32; }

// c[32][32] = rows [0, num_rows) of A times one panel; rows beyond are undefined. Rows of A up to the next multiple of
// 16 must be readable. Meanwhile `num_lines` cache lines from `ahead` on are fetched into the second cache.
void multiply_panel(const bf16* a, int64_t a_stride, int64_t num_rows, const bf16* panel, int64_t num_inputs, float* c,
                    const bf16* ahead, int64_t num_lines);

// Calls done(row, first_output, c) for each row and panel, c being the panel's 32 sums with the bias added.
template <typename Done>
void multiply(const bf16* a, int64_t a_stride, int64_t num_rows, const PackedLinear& w, Team& team, const Done& done) {
    constexpr int64_t kTasksPerThread = 8;
    // A block of A stays in the second cache while the panels, which come from further away, pass once for each block.
    const int64_t block_rows = w.num_inputs <= 2048 ? 256 : 128;
    const int64_t panels = w.num_outputs / kPanel;
    const int64_t blocks = (num_rows + block_rows - 1) / block_rows;
    const int64_t wanted = (kTasksPerThread * team.size + blocks - 1) / blocks;
    const int64_t groups = wanted < panels ? wanted : panels;
    team.share(blocks * groups, [&](int64_t task) {
        const int64_t first_row = task / groups * block_rows, group = task % groups;
        const int64_t last_row = std::min(first_row + block_rows, num_rows);
        alignas(64) float c[kRows * kPanel];
        for (int64_t panel = panels * group / groups; panel < panels * (group + 1) / groups; ++panel) {
            const bf16* weight = w.weight + panel * kPanel * w.num_inputs;
            const float* bias = w.bias ? w.bias + panel * kPanel : nullptr;
            // The third cache is too slow to be waited for: the next panel comes nearer while this one is used. With
            // few rows there is no time for that, and the hardware follows the stream by itself.
            const int64_t passes = (last_row - first_row) / kRows;
            const int64_t ahead_lines = passes > 2 && panel + 1 < panels ? w.num_inputs / passes : 0;
            const bf16* ahead = weight + kPanel * w.num_inputs;
            for (int64_t row = first_row; row < last_row; row += kRows) {
                const int64_t rows = last_row - row < kRows ? last_row - row : kRows;
                multiply_panel(a + row * a_stride, a_stride, rows, weight, w.num_inputs, c, ahead, ahead_lines);
                ahead += ahead_lines * 32;
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
