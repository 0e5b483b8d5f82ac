// C = A Wᵀ, with a packed W in bf16, A as in operand.h and sums in fp32, or both in int8 with sums in int32 and a scale for
// each row of A and each output. All threads of a team work on one product.
//
// W [outputs, inputs] is stored as panels of 32 outputs. A panel is a run of steps over 32 inputs (64 of int8); a step is
// two tiles of 16 outputs; a tile is 16 rows, one for each pair of inputs (four of int8), of 16 outputs times those. That
// is what an AMX tile multiplies by, a row of it what a dot product of bf16 in vectors does and what VNNI's sums of four
// products read, and what widens to two fp32 vectors, of the even and the odd inputs, with a shift and a mask.
//
// A result does not depend, to the bit, on how many rows are computed with it: each is one chain of sums in the order
// of the inputs, on whichever path, or a sum of integers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../decoder.h"
#include "../team.h"
#include "operand.h"
#include "panel_reader.h"
#include "vec.h"
#include "weights_ahead.h"

namespace tiercel::TIERCEL_ISA {

// Rows of A that are computed together.
#if defined(TIERCEL_ISA_AVX512) || defined(TIERCEL_ISA_AVX512BF16)
inline constexpr int64_t kRows = 8;
#else
inline constexpr int64_t kRows = 32;
#endif
inline constexpr int64_t kBlockRows = 256; // rows of A that stay in the second cache, at most

// From one row of A to the next: a cache line more than the row, since rows a power of two apart share few cache sets.
inline int64_t row_stride(int64_t size) { return (size + 31) / 32 * 32 + 32; }

// Rows of A. Those up to the next multiple of 16 must be readable.
struct Rows {
    const void* data;
    int64_t stride_bytes;
    const float* scales;  // [rows] of int8; null: operands

    Rows from(int64_t row, int64_t byte) const {
        const auto* start = static_cast<const uint8_t*>(data) + row * stride_bytes + byte;
        return {start, stride_bytes, scales ? scales + row : nullptr};
    }
};

// Rows of sums in fp32 that a product goes to, 32 of each at a time. What is null is written to where the caller knows.
struct Output {
    float* data;
    int64_t stride;

    Output from(int64_t row, int64_t output) const { return {data ? data + row * stride + output : nullptr, stride}; }
};

// What is brought nearer meanwhile: as many weights as a panel has in all of its passes together, and the output's
// lines, which another thread had last, to be written.
struct Ahead {
    WeightsAhead* weights;  // null: none
    int64_t passes;
    bool is_first_pass;     // the one that reads the panel's weights
    int64_t step_bytes;     // of these
    Output output;
};

// c[kRows][32] = rows [0, num_rows) of A times one panel, or c + that where it `continues`; rows beyond are undefined. With
// int8 they are int32 before any scale, and `sums` are the panel's.
void multiply_panel(const Rows& a, int64_t num_rows, const PartWeights& weights, int64_t num_inputs, bool continues,
                    float* c, const Ahead& ahead);
void multiply_panel_int8(const Rows& a, int64_t num_rows, const uint8_t* panel, int64_t num_inputs, bool continues,
                         const int32_t* sums, float* c, const Ahead& ahead);

// A panel's sums for some rows, on their way to whoever asked for the product.
struct Sums {
    const Rows& a;
    const PackedLinear& w;
    int64_t first_row, num_rows, panel;
    float* c;

    template <typename Done>
    void finish(const Done& done) const {
        if (w.scales) scale();
        if (w.bias) add(w.bias + panel * kPanel);
        for (int64_t i = 0; i < num_rows; ++i) done(first_row + i, panel * kPanel, c + i * kPanel);
    }

private:
    static constexpr int kVecs = kPanel / Vec::kLanes;

    // Loaded once: for all that the compiler knows, every store might change them.
    struct Line {
        Vec parts[kVecs];
        explicit Line(const float* p) {
            for (int j = 0; j < kVecs; ++j) parts[j] = Vec::load(p + j * Vec::kLanes);
        }
    };

    void scale() const {
        const Line outputs(w.scales + panel * kPanel);
        const float* rows = a.scales + first_row;
        for (int64_t i = 0; i < num_rows; ++i) {
            float* sums = c + i * kPanel;
            const Vec row = Vec::of(rows[i]);
            for (int j = 0; j < kVecs; ++j)
                (Vec::of_integers(sums + j * Vec::kLanes) * (row * outputs.parts[j])).store(sums + j * Vec::kLanes);
        }
    }

    void add(const float* bias) const {
        const Line outputs(bias);
        for (int64_t i = 0; i < num_rows; ++i) {
            float* sums = c + i * kPanel;
            for (int j = 0; j < kVecs; ++j)
                (Vec::load(sums + j * Vec::kLanes) + outputs.parts[j]).store(sums + j * Vec::kLanes);
        }
    }
};

// Rows [first_row, last_row), at most kBlockRows, times one panel.
template <typename Done>
void multiply_block(const Rows& a, int64_t first_row, int64_t last_row, const PackedLinear& w, int64_t panel,
                    const Output& output, WeightsAhead* weights_ahead, const Done& done) {
    const int64_t value_bytes = w.scales ? 1 : 2, operand_bytes = w.scales ? 1 : sizeof(Operand);
    // A part of a panel stays in the first cache while the block's rows pass; where they pass a few times only, with
    // what it is made of.
    const int64_t passes = (last_row - first_row + kRows - 1) / kRows;
    const int64_t part_bytes = is_compact(w) && passes <= 3 ? kPartBytes / 2 : kPartBytes;
    const int64_t part = passes == 1 ? w.num_inputs : part_bytes / value_bytes;
    const int64_t kept_rows = part < w.num_inputs ? kPanel : 0;
    alignas(64) float c[kBlockRows * kPanel];
    Ahead ahead{weights_ahead, passes, true, step_bytes(w), {}};
    PanelReader reader(w, panel, passes);
    for (int64_t input = 0; input < w.num_inputs; input += part) {
        const int64_t inputs = std::min(part, w.num_inputs - input);
        for (int64_t row = first_row; row < last_row; row += kRows) {
            const Sums sums{a, w, row, std::min(last_row - row, kRows), panel, c + (row - first_row) * kept_rows};
            const Rows rows = a.from(row, input * operand_bytes);
            const bool is_last = input + inputs == w.num_inputs;
            ahead.is_first_pass = row == first_row;
            const PartWeights weights = reader.part(input, inputs, ahead.is_first_pass);
            ahead.output = is_last ? output.from(row, panel * kPanel) : Output{};
            if (w.scales)
                multiply_panel_int8(rows, sums.num_rows, weights.whole, inputs, input > 0, w.sums + panel * kPanel, sums.c,
                                    ahead);
            else
                multiply_panel(rows, sums.num_rows, weights, inputs, input > 0, sums.c, ahead);
            if (is_last) sums.finish(done);
        }
    }
}

// Calls done(row, first_output, c) for each row and panel, c being the panel's 32 sums with the bias added; `output` is
// where it puts them. Each thread has neighbouring panels, so that it knows what it reads next; `weights` stand there.
template <typename Done>
void multiply(const Rows& a, int64_t num_rows, const PackedLinear& w, Team& team, const Output& output,
              WeightsAhead& weights, const Done& done) {
    // A block of A stays in the second cache while the panels, which come from further away, pass once for each block.
    const int64_t block_rows = w.num_inputs <= 2048 ? kBlockRows : 128;
    const int64_t blocks = (num_rows + block_rows - 1) / block_rows;
    const auto panels = [&](int64_t thread) { return Panels::of(w, thread, team.size); };
#if defined(TIERCEL_ISA_AMX)
    const RowTiles tiles(w.scales ? kRows : num_rows);  // int8 gains nothing
#endif
    team.share_own([&](int64_t thread) { return blocks * panels(thread).count(); }, [&](int64_t owner, int64_t task) {
        const Panels share = panels(owner);
        const int64_t first_row = task / share.count() * block_rows;
        // What is taken from another thread was not asked for here.
        WeightsAhead* ahead = owner == team.thread ? &weights : nullptr;
        multiply_block(a, first_row, std::min(first_row + block_rows, num_rows), w, share.first + task % share.count(),
                       output, ahead, done);
    });
}

}  // namespace tiercel::TIERCEL_ISA
