// Copies of what nobody here reads again soon: past the caches, which keep what those who compute are using.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace tiercel::TIERCEL_ISA {

// The ranges do not overlap. On the calling thread alone; all is visible to others on return.
void stream_copy(uint8_t* target, const uint8_t* source, int64_t bytes);

}  // namespace tiercel::TIERCEL_ISA
