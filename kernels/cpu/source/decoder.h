// A decoder-only transformer as the caller describes it. Everything is owned by the caller and outlives the calls.
#pragma once

#include <cstdint>

#include "paged_kv.h"

namespace tiercel {

// A weight that has none of its matrix's sixteen upper bytes.
struct WeightPatch {
    int32_t weight;  // of the panel, in the order in which it is stored
    int32_t value;   // bf16
};

// y = x Wᵀ + b. W is bf16, whole or in 12 bits, or int8 with a scale for each output, packed by kernels/cpu/packing.py and
// compact.py: see isa/gemm.h.
struct PackedLinear {
    const void* weight;
    const uint8_t* upper_bytes;   // [64]: sixteen, four times, of weights in 12 bits; null: they are whole, or int8
    const WeightPatch* patches;   // panel by panel
    const int64_t* patch_starts;  // [panels + 1]
    const float* scales;   // [outputs padded to 32] of an int8 weight; null: bf16
    const int32_t* sums;   // [outputs padded to 32] of the int8 weights of each output; null: bf16
    const float* bias;     // [outputs padded to 32], or null
    int64_t num_inputs;    // padded to 32, of int8 weights to 64
    int64_t num_outputs;   // padded to 32
};

struct DecoderLayer {
    const float* input_norm;  // [hidden]
    const float* q_norm;      // [head_dim], or null
    const float* k_norm;
    const float* mlp_norm;    // [hidden]
    PackedLinear qkv;         // outputs: heads of q, of k, of v
    PackedLinear output;
    PackedLinear gate_up;     // each panel: 16 outputs of gate, then the same 16 of up
    PackedLinear down;
    int64_t window;           // tokens; 0: none
};

struct Decoder {
    int64_t num_layers;
    int64_t hidden_size;
    int64_t num_heads;
    int64_t num_kv_heads;
    int64_t head_dim;
    int64_t intermediate_size;
    int64_t vocab_size;
    float norm_eps;
    const DecoderLayer* layers;
    const float* final_norm;
    const uint16_t* embedding;  // bf16 [vocab, hidden]
    PackedLinear lm_head;
};

// What lies between the products. The rows that they read are of the type in isa/operand.h, four bytes a value at most,
// and have the row stride of isa/gemm.h, with zeros between them.
struct DecoderScratch {
    float* qkv;           // [tokens padded to 32, qkv outputs]
    void* attended;       // [tokens padded to 32, heads * head_dim]
    void* normed;         // [256 per thread, hidden]
    void* activated;      // [256 per thread, intermediate]
    int8_t* quantized;    // [256 per thread, quantized_stride], for int8 weights
    float* row_scales;    // [256 per thread]
    int64_t quantized_stride;
};

struct DecoderStep {
    int64_t num_tokens;
    const int32_t* token_ids;
    const int64_t* rope_rows;  // [tokens]: rows of the two tables below
    const float* cos;          // [rows, head_dim]
    const float* sin;          // [rows, head_dim], the first half negative
    float* hidden;             // [tokens, hidden]: the residual stream; the result
};

}  // namespace tiercel
