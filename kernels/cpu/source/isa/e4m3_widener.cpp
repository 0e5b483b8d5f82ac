#include "../isa.h"

#if defined(TIERCEL_BF16_PRODUCTS)
#include "e4m3_widener.h"

namespace tiercel::TIERCEL_ISA::tiled {
namespace {

// The bf16 of each code without its sign.
struct E4m3Table {
    alignas(64) uint8_t low[128] = {}, high[128] = {};

    constexpr E4m3Table() {
        for (int code = 0; code < 128; ++code) {
            int exponent = code >> 3, fraction = (code & 7) << 4;
            int bits = 0;
            if (code == 127) {
                bits = 0x7fc0;
            } else if (code != 0) {
                if (exponent == 0) {
                    for (exponent = 1; fraction < 128; --exponent) fraction *= 2;
                    fraction -= 128;
                }
                bits = (exponent - 7 + 127) << 7 | fraction;
            }
            low[code] = static_cast<uint8_t>(bits & 255);
            high[code] = static_cast<uint8_t>(bits >> 8);
        }
    }
};
constexpr E4m3Table kE4m3;

}  // namespace

E4m3Widener::E4m3Widener() {
    for (int i = 0; i < 2; ++i) {
        low_[i] = _mm512_load_si512(kE4m3.low + 64 * i);
        high_[i] = _mm512_load_si512(kE4m3.high + 64 * i);
    }
}

void E4m3Widener::in_order(const float* from, float* to) {
    // Vector j has the dimensions 16 L + 4 j + (0..3) in its lane L of four floats.
    __m512 lanes[4];
    for (int j = 0; j < 4; ++j) lanes[j] = _mm512_loadu_ps(from + 16 * j);
    const __m512 a = _mm512_shuffle_f32x4(lanes[0], lanes[1], 0x44), b = _mm512_shuffle_f32x4(lanes[2], lanes[3], 0x44);
    const __m512 c = _mm512_shuffle_f32x4(lanes[0], lanes[1], 0xee), d = _mm512_shuffle_f32x4(lanes[2], lanes[3], 0xee);
    _mm512_storeu_ps(to, _mm512_shuffle_f32x4(a, b, 0x88));
    _mm512_storeu_ps(to + 16, _mm512_shuffle_f32x4(a, b, 0xdd));
    _mm512_storeu_ps(to + 32, _mm512_shuffle_f32x4(c, d, 0x88));
    _mm512_storeu_ps(to + 48, _mm512_shuffle_f32x4(c, d, 0xdd));
}

}  // namespace tiercel::TIERCEL_ISA::tiled
#endif
