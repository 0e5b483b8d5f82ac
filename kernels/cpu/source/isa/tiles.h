// AMX: eight tiles of 16 rows by 64 bytes. A product of two adds [16, 32] x [32, 16] in bf16 to [16, 16] in fp32.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../isa.h"

namespace tiercel::TIERCEL_ISA {

// Configures this thread's tiles as eight full ones while it lives, and releases them then: a thread that keeps tiles
// pays for them at each context switch.
class Tiles {
public:
    Tiles() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } config;
        // GCC's intrinsic claims to read eight bytes only, so the others would not be stored.
        asm volatile("" : : "r"(&config) : "memory");
        _tile_loadconfig(&config);
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

// The unit that multiplies tiles takes some thousand cycles longer for its next work once it has had none for some five
// hundred (Sapphire Rapids). Code that works with vectors for longer makes a product now and then, which nobody reads:
// tiles 0, 4 and 6 must hold nothing that is needed.
inline void keep_awake() { _tile_dpbf16ps(0, 4, 6); }

}  // namespace tiercel::TIERCEL_ISA
