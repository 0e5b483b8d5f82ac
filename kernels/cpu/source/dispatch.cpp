// The library's C interface: picks the instruction set that this CPU has, forwards to its table.
#include <cstring>

#include <cpuid.h>
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
    return (d & kAll) == kAll && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vnni") && request_tiles();
}

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_avx2() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kF16c = 1u << 29;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
           (c & kF16c) != 0;
}

const Kernels* chosen = nullptr;

}  // namespace
}  // namespace tiercel

#pragma GCC visibility push(default)
extern "C" {

// Choose an instruction set: "" for the best that the CPU has, else at most the named one. Null: it has none of ours.
const char* tiercel_choose(const char* name) {
    using namespace tiercel;
    __builtin_cpu_init();
    const bool any = name[0] == '\0';
    const int limit = any || !std::strcmp(name, "amx") ? 3 : !std::strcmp(name, "avx512") ? 2 : 1;
    chosen = nullptr;
    if (limit >= 3 && has_avx512() && has_amx()) chosen = &amx::kernels();
    else if (limit >= 2 && has_avx512()) chosen = &avx512::kernels();
    else if (has_avx2()) chosen = &avx2::kernels();
    return chosen ? chosen->name : nullptr;
}

void tiercel_measure_ceilings(int64_t bytes, tiercel::CeilingsResult* result) {
    tiercel::chosen->measure_ceilings(bytes, result);
}

}  // extern "C"
#pragma GCC visibility pop
