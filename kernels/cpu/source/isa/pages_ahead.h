// Memory is slow and pages are scattered: what a thread reads next is brought to its second cache meanwhile.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "../attention_work.h"
#include "../isa.h"

namespace tiercel::TIERCEL_ISA {

class PagesAhead {
public:
    // The tokens [first, last) of some K/V heads of a row, read split by split, head by head and in parts of kPartTokens: K,
    // then V. Empty without blocks.
    struct Stretch {
        const PagedKv* kv = nullptr;
        const int32_t* blocks = nullptr;
        int64_t layer = 0, head = 0, num_heads = 0, first = 0, last = 0;
    };

    // The thread begins to read `now`, and will go on with `next`.
    void begin(const Stretch& now, const Stretch& next);

    // So many bytes of it are read, in small steps that let other memory traffic through.
    void advance(int64_t bytes) {
        credit_ += bytes;
        while (credit_ > 0) {
            if (line_ >= end_ && !next_page()) return;
            const uint8_t* end = std::min(end_, line_ + credit_);
            const uint8_t* line = line_;
            for (; line < end; line += 64) _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T1);
            credit_ -= std::min(line, end_) - line_;
            line_ = line;
        }
    }

#if defined(TIERCEL_ISA_AMX)
    static constexpr int64_t kPartTokens = kSplitTokens;
#else
    static constexpr int64_t kPartTokens = 128;
#endif

private:
    void start(const Stretch& stretch);
    void start_part(int64_t first);
    bool next_page();  // false if there is none

    Stretch stretch_, next_;
    int64_t split_ = 0, first_ = 0, last_ = 0, token_ = 0;  // the split's start; of the part; the next page's
    int64_t head_ = 0;
    bool is_value_ = false;
    const uint8_t* line_ = nullptr;  // of the page
    const uint8_t* end_ = nullptr;
    int64_t credit_ = 0;             // bytes to ask for; below 0 what was asked for already
};

}  // namespace tiercel::TIERCEL_ISA
