// A panel's weights, part by part, in the way in which products read them.
#pragma once

#include <cstdint>

#include "panels.h"
#if defined(TIERCEL_BF16_PRODUCTS)
#include "compact.h"
#endif

namespace tiercel::TIERCEL_ISA {

inline constexpr int64_t kPartBytes = 1152;  // of an output's inputs, such that a panel's fit into the first cache
static_assert(kPartBytes % 128 == 0, "half a part shall be whole steps");

#if !defined(TIERCEL_BF16_PRODUCTS)
class CompactSteps;  // there are none
#endif

// The weights of some of a panel's inputs.
struct PartWeights {
    const uint8_t* whole;
    CompactSteps* compact;  // to be made whole first; null: they are
};

// Once for each pass of rows over a part, all passes over one part before the next part.
class PanelReader {
public:
    PanelReader(const PackedLinear& w, int64_t panel, [[maybe_unused]] int64_t passes)
        : w_(w), panel_(static_cast<const uint8_t*>(w.weight) + panel * panel_bytes(w))
#if defined(TIERCEL_BF16_PRODUCTS)
          , compact_(w, panel, room_, passes == 1 ? CompactSteps::Room::kRing : CompactSteps::Room::kAll)
#endif
    {}
    PanelReader(const PanelReader&) = delete;
    PanelReader& operator=(const PanelReader&) = delete;

    PartWeights part(int64_t first_input, [[maybe_unused]] int64_t num_inputs, [[maybe_unused]] bool is_first_pass) {
        const int64_t step_inputs = w_.scales ? 64 : 32;
#if defined(TIERCEL_BF16_PRODUCTS)
        if (is_compact(w_)) {
            if (!is_first_pass) return {room_, nullptr};
            compact_.begin(num_inputs / step_inputs);
            return {nullptr, &compact_};
        }
#endif
        return {panel_ + first_input / step_inputs * kStepBytes, nullptr};
    }

private:
    const PackedLinear& w_;
    const uint8_t* const panel_;
#if defined(TIERCEL_BF16_PRODUCTS)
    alignas(64) uint8_t room_[kPartBytes * kPanel];  // of a part, or of a few steps where rows pass once
    CompactSteps compact_;
#endif
};

}  // namespace tiercel::TIERCEL_ISA
