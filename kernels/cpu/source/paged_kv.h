// What attention reads and writes, as kernels/attention/pages.py and kernels/attention/protocol.py describe it.
#pragma once

#include <cstdint>

namespace tiercel {

enum class Element : int32_t { kFp32 = 0, kBf16 = 1, kFp16 = 2, kFp8E4m3 = 3 };

struct PagedKv {
    uint8_t* data;
    int64_t block_bytes;
    int64_t layer_bytes;
    int64_t page_bytes;
    int64_t scales_offset_bytes;  // in a page; fp8 only
    int32_t block_size;
    int32_t head_dim;
    int32_t kv_heads;
    Element element;

    uint8_t* page(int64_t block, int64_t layer, int64_t is_value, int64_t head) const {
        return data + block * block_bytes + layer * layer_bytes + (is_value * kv_heads + head) * page_bytes;
    }
};

// Rows are in batch order; a row's new tokens are [query_starts[i], query_starts[i + 1]).
struct AttnBatch {
    int64_t num_rows;
    const int32_t* query_starts;  // [rows + 1]
    const int32_t* context_lens;  // [rows], the new tokens included
    const int32_t* block_table;   // [rows, table_stride]
    int64_t table_stride;
    const int64_t* write_slots;   // [tokens]: block * block_size + offset
};

// [tokens, heads, head_dim], the last dimension contiguous; strides in elements. fp32, bf16 or fp16.
struct Heads {
    void* data;
    int64_t token_stride;
    int64_t head_stride;
    Element element;
};

}  // namespace tiercel
