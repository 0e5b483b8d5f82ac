// The library's C interface: picks the instruction set that this CPU has, forwards to its table.
#include <cstring>
#include <new>

#include <cpuid.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels.h"

namespace tiercel {
namespace {

// Linux hands out the tile registers' 8 KiB of state per process on request only (Documentation/arch/x86/xstate.rst).
bool request_tiles() {
    constexpr int kRequestXcompPerm = 0x1023;
    constexpr int kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestXcompPerm, kTileData) == 0;
}

bool has_amx() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;
    constexpr unsigned kAll = kAmxBf16 | kAmxTile | kAmxInt8;
    return (d & kAll) == kAll && request_tiles();
}

bool has_bf16() {
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("gfni");
}

// On Intel's it takes longer than widening and multiplying in fp32.
bool is_bf16_fast() { return !__builtin_cpu_is("intel"); }

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

bool has_avx2() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kF16c = 1u << 29;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
           (c & kF16c) != 0;
}

}  // namespace
}  // namespace tiercel

#pragma GCC visibility push(default)
extern "C" {

// The table of an instruction set: "" for the best that the CPU has, else at most the named one. Null: it has none of
// ours. The other functions take the table.
const tiercel::Kernels* tiercel_choose(const char* name) {
    using namespace tiercel;
    __builtin_cpu_init();
    const bool any = name[0] == '\0';
    const auto is = [&](const char* other) { return !std::strcmp(name, other); };
    const int limit = any || is("amx") ? 4 : is("avx512bf16") ? 3 : is("avx512") ? 2 : 1;
    if (limit >= 4 && has_avx512() && has_bf16() && has_amx()) return &amx::kernels();
    if (limit >= 3 && has_avx512() && has_bf16() && (limit == 3 || is_bf16_fast())) return &avx512bf16::kernels();
    if (limit >= 2 && has_avx512()) return &avx512::kernels();
    return has_avx2() ? &avx2::kernels() : nullptr;
}

const char* tiercel_name(const tiercel::Kernels* kernels) { return kernels->name; }

void tiercel_measure_ceilings(const tiercel::Kernels* kernels, int64_t bytes, tiercel::CeilingsResult* result) {
    kernels->measure_ceilings(bytes, result);
}

void tiercel_decoder_forward(
    const tiercel::Kernels* kernels, const tiercel::Decoder* model, const tiercel::PagedKv* kv,
    const tiercel::AttnBatch* batch, tiercel::AttnWork* work, const tiercel::DecoderStep* step,
    const tiercel::DecoderScratch* scratch) {
    kernels->decoder_forward(*model, *kv, *batch, *work, *step, *scratch);
}

void tiercel_decoder_logits(
    const tiercel::Kernels* kernels, const tiercel::Decoder* model, const float* hidden, int64_t num_rows,
    const tiercel::DecoderScratch* scratch, float* logits) {
    kernels->decoder_logits(*model, hidden, num_rows, *scratch, logits);
}

// The id of each row's largest logit, -1 where it is not finite.
void tiercel_best_ids(const tiercel::Kernels* kernels, const float* logits, int64_t num_rows, int64_t stride,
                      int64_t vocab_size, int64_t* ids) {
    kernels->best_ids(logits, num_rows, stride, vocab_size, ids);
}

// A work's owner uses it from one thread at a time, and frees it with the other function.
void tiercel_attention_new(const tiercel::Kernels*, tiercel::AttnWork** work) {
    *work = new (std::nothrow) tiercel::AttnWork;
}

void tiercel_attention_free(const tiercel::Kernels*, tiercel::AttnWork* work) { delete work; }

// `windows` are the distinct ones of the layers, 0 for none. Not `done`: there is no memory.
void tiercel_attention_prepare(
    const tiercel::Kernels* kernels, tiercel::AttnWork* work, const tiercel::PagedKv* kv, int64_t num_heads,
    int32_t exact, const tiercel::AttnBatch* batch, const int64_t* windows, int64_t num_windows, int32_t* done) {
    try {
        const tiercel::AttnShape shape = kernels->attention_shape(*kv, num_heads, exact != 0);
        work->prepare(shape, *batch, windows, num_windows, omp_get_max_threads());
        *done = 1;
    } catch (const std::bad_alloc&) {
        *done = 0;
    }
}

// `strides` are those of tokens and heads in q, k, v and out, in elements.
void tiercel_attention_layer(
    const tiercel::Kernels* kernels, tiercel::AttnWork* work, const tiercel::PagedKv* kv,
    const tiercel::AttnBatch* batch, int64_t layer, int64_t window, int32_t element, void* q, void* k, void* v,
    void* out, const int64_t* strides) {
    const auto heads = [&](void* data, int i) {
        return tiercel::Heads{data, strides[2 * i], strides[2 * i + 1], static_cast<tiercel::Element>(element)};
    };
    kernels->attention_layer(*kv, layer, window, *batch, *work, heads(q, 0), heads(k, 1), heads(v, 2), heads(out, 3));
}

// The step's K and V alone; `strides` are those of tokens and heads in k and v.
void tiercel_write_layer(
    const tiercel::Kernels* kernels, const tiercel::PagedKv* kv, const tiercel::AttnBatch* batch, int64_t layer,
    int32_t element, void* k, void* v, const int64_t* strides) {
    const auto type = static_cast<tiercel::Element>(element);
    kernels->write_layer(*kv, layer, *batch, {k, strides[0], strides[1], type}, {v, strides[2], strides[3], type});
}

// `runs` are [number][3]: the first row in the source, the first in the target, and how many.
void tiercel_copy_rows(const tiercel::Kernels* kernels, uint8_t* target, const uint8_t* source, int64_t row_bytes,
                       const int64_t* runs, int64_t number) {
    for (const int64_t* run = runs; run < runs + 3 * number; run += 3)
        kernels->stream_copy(target + run[1] * row_bytes, source + run[0] * row_bytes, run[2] * row_bytes);
}

}  // extern "C"
#pragma GCC visibility pop
