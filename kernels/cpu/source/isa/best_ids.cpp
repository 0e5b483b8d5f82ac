#include "best_ids.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace tiercel::TIERCEL_ISA {
namespace {

// Of a row at a time, so that what is found in it is still in the first cache.
constexpr int64_t kBlock = 2048;
constexpr int32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000;

int32_t bits_of(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

// Integers in the order of the floats; -0 is 0.
int32_t key_of(float x) {
    const int32_t bits = bits_of(x + 0.0f);
    return bits ^ (bits >> 31 & kMagnitude);
}

struct Most {
    int32_t key = std::numeric_limits<int32_t>::min(), magnitude = 0;
};

Most most_of(const float* x, int64_t count) {
    int32_t key = std::numeric_limits<int32_t>::min(), magnitude = 0;
#pragma omp simd reduction(max : key, magnitude)
    for (int64_t i = 0; i < count; ++i) {
        key = std::max(key, key_of(x[i]));
        magnitude = std::max(magnitude, bits_of(x[i]) & kMagnitude);
    }
    return {key, magnitude};
}

int64_t best_id(const float* x, int64_t count) {
    Most most;
    int64_t block = 0;
    for (int64_t first = 0; first < count; first += kBlock) {
        const Most own = most_of(x + first, std::min(kBlock, count - first));
        most.magnitude = std::max(most.magnitude, own.magnitude);
        if (own.key <= most.key) continue;
        most.key = own.key;
        block = first;
    }
    const bool is_nan = most.magnitude > kInfinity, is_finite = most.key < kInfinity && most.key > ~kInfinity;
    if (is_nan || !is_finite) return -1;
    int64_t id = block;
    while (key_of(x[id]) != most.key) ++id;
    return id;
}

}  // namespace

void best_ids(const float* x, int64_t num_rows, int64_t stride, int64_t count, int64_t* ids) {
#pragma omp parallel for if (num_rows > 1)
    for (int64_t row = 0; row < num_rows; ++row) ids[row] = best_id(x + row * stride, count);
}

}  // namespace tiercel::TIERCEL_ISA
