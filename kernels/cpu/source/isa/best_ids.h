// Greedy choices.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace tiercel::TIERCEL_ISA {

// The index of the largest of each row's `count` floats, the lowest among equals; -1 where it is not finite, or any is NaN.
void best_ids(const float* x, int64_t num_rows, int64_t stride, int64_t count, int64_t* ids);

}  // namespace tiercel::TIERCEL_ISA
