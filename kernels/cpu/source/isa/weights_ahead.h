// Memory is slow, and idle while a thread does anything but read weights: those of its next products are on their way to
// its second cache meanwhile, from one product to the next.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "panels.h"

namespace tiercel::TIERCEL_ISA {

// A thread's place in the weights that it is to read, which are its share of each product in turn: up to there they are
// asked for.
class WeightsAhead {
public:
    // Nothing is ahead.
    WeightsAhead() = default;
    // `products` are in the order in which they are made, and outlive this.
    WeightsAhead(const PackedLinear* const* products, int64_t num_products, int64_t thread, int64_t threads)
        : products_(products), num_products_(num_products), thread_(thread), threads_(threads) {
        if (num_products > 0) start(0);
    }

    // The thread goes on with this product. Another thread may have taken its share's end.
    void begin(int64_t number) {
        if (number >= num_products_) return;
        lead_ = 0;
        for (int64_t before = number; before < number_; ++before) lead_ += bytes(before);
        lead_ += line_ - first_;
        if (number_ < number || lead_ > 2 * kMost) {
            start(number);
            lead_ = 0;
        }
    }

    // It reads so many bytes now.
    void read(int64_t bytes) {
        lead_ -= bytes;
        if (lead_ >= 0) return;
        // Too late to ask for these.
        line_ = std::min(end_, line_ - lead_);
        lead_ = 0;
    }

    // Asks for some more lines, unless enough are on their way.
    void advance(int64_t lines) {
        if (lead_ >= kMost) return;
        while (lines > 0) {
            if (line_ >= end_ && !next_product()) return;
            const uint8_t* const end = std::min(end_, line_ + lines * 64);
            const uint8_t* line = line_;
            for (; line < end; line += 64) _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T1);
            lines -= (line - line_) / 64;
            lead_ += line - line_;
            line_ = line;
        }
    }

private:
    // Some times what memory delivers in its latency, so that it is not idle in a short phase, and little of the second
    // cache, where rows are kept.
    static constexpr int64_t kMost = 32 << 10;

    Panels share(int64_t number) const { return Panels::of(*products_[number], thread_, threads_); }
    int64_t bytes(int64_t number) const { return share(number).count() * panel_bytes(*products_[number]); }

    void start(int64_t number) {
        const PackedLinear& w = *products_[number];
        number_ = number;
        line_ = first_ = static_cast<const uint8_t*>(w.weight) + share(number).first * panel_bytes(w);
        end_ = line_ + bytes(number);
    }

    bool next_product() {
        if (number_ + 1 >= num_products_) return false;
        start(number_ + 1);
        return line_ < end_;
    }

    const PackedLinear* const* products_ = nullptr;
    int64_t num_products_ = 0, number_ = 0;
    int64_t thread_ = 0, threads_ = 1;
    int64_t lead_ = 0;                // bytes that are asked for and not yet read
    const uint8_t* first_ = nullptr;  // of the share
    const uint8_t* line_ = nullptr;   // to be asked for next
    const uint8_t* end_ = nullptr;
};

}  // namespace tiercel::TIERCEL_ISA
