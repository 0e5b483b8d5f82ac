// A panel's steps one after the other, and weights that are asked for meanwhile.
#pragma once

#include "gemm.h"

namespace tiercel::TIERCEL_ISA {

// Weights are asked for at the pace at which they are multiplied by; many lines not at once but between products, since
// a line that waits to be asked for holds up the loads behind it.
class StepsAhead {
public:
    explicit StepsAhead(const Ahead& ahead)
        : weights_(ahead.weights), bytes_read_(ahead.is_first_pass ? ahead.step_bytes : 0) {
        const int64_t wanted = ahead.step_bytes / 64 + kGain;
        const int64_t lines = weights_ == nullptr ? 0 : (wanted + ahead.passes - 1) / ahead.passes;
        part_ = lines < kFew ? 0 : lines / 4;
        first_ = lines - 3 * part_;
    }
    void begin_step() const {
        if (first_ == 0) return;
        weights_->read(bytes_read_);
        weights_->advance(first_);
    }
    // Three times in a step.
    void part() const {
        if (part_ > 0) weights_->advance(part_);
    }

private:
    static constexpr int64_t kFew = 12;
    static constexpr int64_t kGain = 4;  // lines more than are read, until there are enough on their way

    WeightsAhead* const weights_;
    const int64_t bytes_read_;
    int64_t first_, part_;
};

// Steps of a panel that are stored as products read them.
class PlainSteps {
public:
    explicit PlainSteps(const uint8_t* first) : next_(first) {}
    const uint8_t* next() {
        const uint8_t* step = next_;
        next_ += kStepBytes;
        return step;
    }
    void make_part(int64_t) {}
    void make() {}

private:
    const uint8_t* next_;
};

}  // namespace tiercel::TIERCEL_ISA
