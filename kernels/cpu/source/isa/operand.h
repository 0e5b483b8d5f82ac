// What products read of activations: bf16 where that is multiplied, else fp32, which nobody has to widen for each panel.
#pragma once

#include "../paged_kv.h"
#include "vec.h"

namespace tiercel::TIERCEL_ISA {

#if defined(TIERCEL_BF16_PRODUCTS)
using Operand = bf16;
inline constexpr Element kOperand = Element::kBf16;
#else
using Operand = float;
inline constexpr Element kOperand = Element::kFp32;
#endif

inline void to_operand(float x, float* y) { *y = x; }

inline void to_operand(float x, bf16* y) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    *y = static_cast<bf16>(x != x ? (bits >> 16) | 0x40 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace tiercel::TIERCEL_ISA
