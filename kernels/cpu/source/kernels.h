// What each instruction set implements: one table of functions, chosen once by dispatch.cpp.
#pragma once

#include <cstdint>

#include "attention_work.h"
#include "decoder.h"
#include "paged_kv.h"

namespace tiercel {

struct CeilingsResult {
    double read_bytes_per_s;     // streaming read, all threads
    double copy_bytes_per_s;     // bytes copied, not bytes moved
    double fp32_flops_per_s;     // fused multiply-add in registers
    double bf16_flops_per_s;     // AMX tiles from L1, else dot products in registers; 0 without either
    double int8_ops_per_s;       // likewise
};

struct Kernels {
    const char* name;
    void (*measure_ceilings)(int64_t bytes, CeilingsResult* result);
    void (*decoder_forward)(
        const Decoder& model, const PagedKv& kv, const AttnBatch& batch, AttnWork& work, const DecoderStep& step,
        const DecoderScratch& scratch);
    void (*decoder_logits)(
        const Decoder& model, const float* hidden, int64_t num_rows, const DecoderScratch& scratch, float* logits);
    void (*best_ids)(const float* x, int64_t num_rows, int64_t stride, int64_t count, int64_t* ids);
    AttnShape (*attention_shape)(const PagedKv& kv, int64_t num_heads, bool exact);
    void (*attention_layer)(const PagedKv& kv, int64_t layer, int64_t window, const AttnBatch& batch,
                            AttnWork& work, const Heads& q, const Heads& k, const Heads& v, const Heads& out);
    void (*write_layer)(const PagedKv& kv, int64_t layer, const AttnBatch& batch, const Heads& k, const Heads& v);
    void (*stream_copy)(uint8_t* target, const uint8_t* source, int64_t bytes);
};

namespace avx2 { const Kernels& kernels(); }
namespace avx512 { const Kernels& kernels(); }
namespace avx512bf16 { const Kernels& kernels(); }
namespace amx { const Kernels& kernels(); }

}  // namespace tiercel
