// How a packed weight lies in memory: panels of 32 outputs, each a run of steps; see gemm.h.
#pragma once

#include <cstdint>

#include "../decoder.h"
#include "../isa.h"

namespace tiercel::TIERCEL_ISA {

inline constexpr int64_t kPanel = 32;               // outputs
inline constexpr int64_t kStepBytes = 2048;         // as products read it
inline constexpr int64_t kCompactStepBytes = 1536;  // with 12 bits a weight

inline bool is_compact(const PackedLinear& w) { return w.upper_bytes != nullptr; }

inline int64_t step_bytes(const PackedLinear& w) { return is_compact(w) ? kCompactStepBytes : kStepBytes; }

inline int64_t panel_bytes(const PackedLinear& w) { return w.num_inputs / (w.scales ? 64 : 32) * step_bytes(w); }

// Panels [first, last) of a weight.
struct Panels {
    int64_t first, last;

    int64_t count() const { return last - first; }
    // Those of one of several threads that share a product.
    static Panels of(const PackedLinear& w, int64_t thread, int64_t threads) {
        const int64_t panels = w.num_outputs / kPanel;
        return {panels * thread / threads, panels * (thread + 1) / threads};
    }
};

}  // namespace tiercel::TIERCEL_ISA
