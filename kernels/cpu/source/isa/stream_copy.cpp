#include "stream_copy.h"

#include <immintrin.h>

#include <cstring>

namespace tiercel::TIERCEL_ISA {
namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kPage = 4096;
constexpr int64_t kPages = 4;  // at once: the hardware fetches ahead within each, and does so better than instructions
constexpr int64_t kLines = 4;

void copy_line(uint8_t* target, const uint8_t* source) {
#if defined(TIERCEL_ISA_AVX2)
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + 32));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(target), low);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(target + 32), high);
#else
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target), _mm512_loadu_si512(source));
#endif
}

}  // namespace

void stream_copy(uint8_t* target, const uint8_t* source, int64_t bytes) {
    const int64_t misaligned = -reinterpret_cast<intptr_t>(target) & (kLine - 1);
    const int64_t head = misaligned < bytes ? misaligned : bytes;
    std::memcpy(target, source, static_cast<size_t>(head));
    int64_t i = head;
    for (; i + kPages * kPage <= bytes; i += kPages * kPage)
        for (int64_t line = 0; line < kPage; line += kLines * kLine)
            for (int64_t page = 0; page < kPages * kPage; page += kPage)
                for (int64_t j = 0; j < kLines * kLine; j += kLine)
                    copy_line(target + i + page + line + j, source + i + page + line + j);
    for (; i + kLine <= bytes; i += kLine) copy_line(target + i, source + i);
    _mm_sfence();
    std::memcpy(target + i, source + i, static_cast<size_t>(bytes - i));
}

}  // namespace tiercel::TIERCEL_ISA
