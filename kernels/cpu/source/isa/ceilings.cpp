#include "ceilings.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>

#include <omp.h>
#include <sys/mman.h>

#include "vec.h"
#if defined(TIERCEL_ISA_AMX)
#include "tiles.h"
#elif !defined(TIERCEL_ISA_AVX2)
#include "dots.h"
#endif

namespace tiercel::TIERCEL_ISA {
namespace {

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The best of some runs of `work(thread, threads)` on all threads: other work only ever slows one down.
template <typename Work>
double best_seconds(int rounds, const Work& work) {
    double best = 1e30;
    for (int round = 0; round < rounds; ++round) {
        double start = 0;
#pragma omp parallel
        {
#pragma omp barrier
#pragma omp master
            start = seconds();
#pragma omp barrier
            work(omp_get_thread_num(), omp_get_num_threads());
        }
        const double taken = seconds() - start;
        if (taken < best) best = taken;
    }
    return best;
}

// Keeps the compiler from dropping a result that nobody reads.
void keep(float x) { asm volatile("" : : "x"(x)); }

double fp32_flops() {
    constexpr int kChains = 12;
    constexpr int64_t kSteps = 1 << 20;
    int num_threads = 1;
    const double taken = best_seconds(5, [&](int thread, int threads) {
        if (thread == 0) num_threads = threads;
        Vec sums[kChains];
        for (auto& sum : sums) sum = Vec::of(1.0f + static_cast<float>(thread));
        const Vec factor = Vec::of(0.999f), added = Vec::of(1e-6f);
        for (int64_t i = 0; i < kSteps; ++i)
            for (auto& sum : sums) sum = fma(sum, factor, added);
        Vec total = Vec::zero();
        for (const auto& sum : sums) total = total + sum;
        keep(total.sum());
    });
    return 2.0 * Vec::kLanes * kChains * kSteps * num_threads / taken;
}

#if defined(TIERCEL_ISA_AMX)
template <typename Product>
double tile_ops(double ops_per_product, const Product& product) {
    constexpr int64_t kSteps = 1 << 18;
    int num_threads = 1;
    const double taken = best_seconds(5, [&](int thread, int threads) {
        if (thread == 0) num_threads = threads;
        alignas(64) char tiles[4][1024] = {};
        Tiles configured;
        for (int64_t i = 0; i < kSteps; ++i) {
            _tile_loadd(4, tiles[0], 64);
            _tile_loadd(5, tiles[1], 64);
            _tile_loadd(6, tiles[2], 64);
            _tile_loadd(7, tiles[3], 64);
            product();
        }
        _tile_zero(0);
    });
    return 4 * ops_per_product * kSteps * num_threads / taken;
}
#elif !defined(TIERCEL_ISA_AVX2)
template <typename Dot>
double dot_ops(double ops_per_dot) {
    constexpr int kChains = 12;
    constexpr int64_t kSteps = 1 << 20;
    int num_threads = 1;
    const double taken = best_seconds(5, [&](int thread, int threads) {
        if (thread == 0) num_threads = threads;
        typename Dot::Sum sums[kChains];
        for (auto& sum : sums) sum = Dot::zero();
        __m512i factor = _mm512_set1_epi32(thread);
        for (int64_t i = 0; i < kSteps; ++i) {
            asm volatile("" : "+v"(factor));
            for (auto& sum : sums) sum = Dot::added(sum, factor, factor);
        }
        for (const auto& sum : sums) asm volatile("" : : "v"(sum));
    });
    return ops_per_dot * kChains * kSteps * num_threads / taken;
}
#endif

struct Release {
    void operator()(char* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<char, Release>;

// In huge pages where the kernel has them, as weights and blocks are.
Buffer buffer(int64_t bytes) {
    constexpr int64_t kHugePage = 2 << 20;
    const size_t rounded = static_cast<size_t>((bytes + kHugePage - 1) / kHugePage * kHugePage);
    void* memory = std::aligned_alloc(kHugePage, rounded);
#if defined(MADV_HUGEPAGE)
    madvise(memory, rounded, MADV_HUGEPAGE);
#endif
    return Buffer(static_cast<char*>(memory));
}

// As far as a reader asks ahead for lines, which is faster than to wait for the hardware to see the stream.
constexpr int64_t kAheadFloats = 4096;

}  // namespace

void measure_ceilings(int64_t bytes, CeilingsResult* result) {
    const int64_t lines = bytes / 64;
    const Buffer from(buffer(lines * 64)), to(buffer(lines * 64));
    auto part = [&](int thread, int threads) {
        const int64_t first = lines * thread / threads, last = lines * (thread + 1) / threads;
        return std::pair<int64_t, int64_t>(first * 64, (last - first) * 64);
    };
    best_seconds(1, [&](int thread, int threads) {
        const auto [start, size] = part(thread, threads);
        std::memset(from.get() + start, 1, size);
        std::memset(to.get() + start, 1, size);
    });
    const double read = best_seconds(5, [&](int thread, int threads) {
        const auto [start, size] = part(thread, threads);
        const float* p = reinterpret_cast<const float*>(from.get() + start);
        const float* end = p + size / 4;
        Vec sums[4] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
        for (; p + 4 * Vec::kLanes <= end; p += 4 * Vec::kLanes) {
            for (int64_t i = 0; i < 4 * Vec::kLanes; i += 16)
                _mm_prefetch(reinterpret_cast<const char*>(p + kAheadFloats + i), _MM_HINT_T1);
            for (int i = 0; i < 4; ++i) sums[i] = sums[i] + Vec::load(p + i * Vec::kLanes);
        }
        keep((sums[0] + sums[1] + sums[2] + sums[3]).sum());
    });
    const double copied = best_seconds(5, [&](int thread, int threads) {
        const auto [start, size] = part(thread, threads);
        std::memcpy(to.get() + start, from.get() + start, size);
    });
    *result = {};
    result->read_bytes_per_s = lines * 64 / read;
    result->copy_bytes_per_s = lines * 64 / copied;
    result->fp32_flops_per_s = fp32_flops();
#if defined(TIERCEL_ISA_AMX)
    result->bf16_flops_per_s = tile_ops(2.0 * 16 * 16 * 32, [] {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    });
    result->int8_ops_per_s = tile_ops(2.0 * 16 * 16 * 64, [] {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    });
#elif !defined(TIERCEL_ISA_AVX2)
#if defined(TIERCEL_BF16_PRODUCTS)
    result->bf16_flops_per_s = dot_ops<Bf16Dot>(2.0 * 32);
#endif
    result->int8_ops_per_s = dot_ops<Int8Dot>(2.0 * 64);
#endif
}

}  // namespace tiercel::TIERCEL_ISA
