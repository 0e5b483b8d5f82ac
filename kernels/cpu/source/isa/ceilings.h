// What the machine itself can do, to state a kernel's speed as a share of it.
#pragma once

#include <cstdint>

#include "../isa.h"
#include "../kernels.h"

namespace tiercel::TIERCEL_ISA {

// Streams over `bytes` of memory (choose several times the last-level cache) and spins in registers, on all threads.
void measure_ceilings(int64_t bytes, CeilingsResult* result);

}  // namespace tiercel::TIERCEL_ISA
