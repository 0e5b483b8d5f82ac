// Attention over paged K and V of any type, for decode and prefill alike.
#pragma once

#include "../attention_work.h"
#include "../isa.h"
#include "../kernels.h"
#include "../paged_kv.h"
#include "../team.h"

namespace tiercel::TIERCEL_ISA {

constexpr int64_t kMaxHeadDim = 512;

// What to prepare a step's AttnWork with. `exact`: products and sums in fp32; else of bf16, with sums in fp32, where the
// instruction set has them.
AttnShape attention_shape(const PagedKv& kv, int64_t num_heads, bool exact);

// Cast, or quantise as kernels/kv_codec/e4m3.py says, and store tokens [first, last) of a layer. Any thread, no
// synchronisation inside.
void write_kv(const PagedKv& kv, int64_t layer, const int64_t* write_slots, int64_t first, int64_t last,
              const Heads& k, const Heads& v);

// out = softmax(q K^T / sqrt(head_dim) + mask) V, masked to be causal and, unless 0, to the last `window` tokens. Called by all
// threads of a team, with a barrier before (K and V are written, the loop's counter is reset) and after. On amx each
// thread holds a `Tiles`.
void attend(const PagedKv& kv, int64_t layer, int64_t window, const AttnBatch& batch, AttnWork& work,
            const Heads& q, const Heads& out, Team& team);

// A step's K and V of a layer, by all threads of a team; no barrier at the end. And in a parallel region of their own.
void write_step(const PagedKv& kv, int64_t layer, const AttnBatch& batch, const Heads& k, const Heads& v, Team& team);
void write_layer(const PagedKv& kv, int64_t layer, const AttnBatch& batch, const Heads& k, const Heads& v);

// A layer: write_kv and attend in a parallel region of their own.
void attention_layer(const PagedKv& kv, int64_t layer, int64_t window, const AttnBatch& batch,
                     AttnWork& work, const Heads& q, const Heads& k, const Heads& v, const Heads& out);

}  // namespace tiercel::TIERCEL_ISA
