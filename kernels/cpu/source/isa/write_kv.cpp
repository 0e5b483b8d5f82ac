#include "attention.h"
#include "rows.h"

namespace tiercel::TIERCEL_ISA {
namespace {

uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// kernels/kv_codec/e4m3.py to the bit. Plain loops, which the compiler makes vectors of.
void encode_e4m3(const float* __restrict row, int64_t count, uint8_t* __restrict codes, bf16* scale) {
    // Magnitudes order as their bits do, which also puts NaN on top.
    uint32_t largest = 0;
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t magnitude = bits_of(row[i]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
    }
    const float ratio = float_of(largest) / 448.0f;
    const float truncated = float_of(bits_of(ratio) & 0xffff0000u);
    const float divisor = truncated < 0x1p-100f ? 0x1p-100f : truncated;
    const bool is_nan = divisor != divisor;
    *scale = is_nan ? 0x7fc0 : static_cast<bf16>(bits_of(divisor) >> 16);
    for (int64_t i = 0; i < count; ++i) {
        const float x = row[i] / divisor;
        const uint32_t sign = bits_of(x) >> 24 & 0x80u, magnitude = bits_of(x) & 0x7fffffffu;
        // Below 2^-6 codes are multiples of 2^-9: those are the last bits of numbers near 2^14.
        const uint32_t small = bits_of(float_of(magnitude) + 16384.0f) - bits_of(16384.0f);
        const uint32_t odd = magnitude >> 20 & 1u;
        const uint32_t normal = (magnitude - (120u << 23) + 0x7ffffu + odd) >> 20;
        const uint32_t finite = magnitude < (121u << 23) ? small : normal;
        codes[i] = static_cast<uint8_t>(sign | (magnitude >= 0x43f00000u ? 0x7fu : finite));
    }
}

}  // namespace

void write_kv(const PagedKv& kv, int64_t layer, const int64_t* write_slots, int64_t first, int64_t last,
              const Heads& k, const Heads& v) {
    alignas(64) float row[kMaxHeadDim];
    for (int64_t token = first; token < last; ++token) {
        const int64_t block = write_slots[token] / kv.block_size, offset = write_slots[token] % kv.block_size;
        for (int64_t is_value = 0; is_value < 2; ++is_value) {
            const Heads& heads = is_value ? v : k;
            for (int64_t head = 0; head < kv.kv_heads; ++head) {
                uint8_t* page = kv.page(block, layer, is_value, head);
                uint8_t* to = page + offset * kv.head_dim * element_bytes(kv.element);
                const uint8_t* from = heads_row(heads, token, head);
                if (heads.element == kv.element) {
                    std::memcpy(to, from, static_cast<size_t>(kv.head_dim * element_bytes(kv.element)));
                    continue;
                }
                load_row(from, heads.element, kv.head_dim, row);
                if (kv.element != Element::kFp8E4m3) {
                    store_row(row, kv.element, kv.head_dim, to);
                    continue;
                }
                encode_e4m3(row, kv.head_dim, to, reinterpret_cast<bf16*>(page + kv.scales_offset_bytes) + offset);
            }
        }
    }
}

}  // namespace tiercel::TIERCEL_ISA
