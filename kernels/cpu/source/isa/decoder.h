// One forward pass through all layers in one parallel region; the residual stream stays in fp32.
#pragma once

#include <cstdint>

#include "../decoder.h"
#include "../isa.h"
#include "../kernels.h"

namespace tiercel::TIERCEL_ISA {

void decoder_forward(
    const Decoder& model, const PagedKv& kv, const AttnBatch& batch, AttnWork& work, const DecoderStep& step,
    const DecoderScratch& scratch);

// logits[rows, vocab padded to 32] of rows of the residual stream; `normed` is scratch as in DecoderScratch.
void decoder_logits(const Decoder& model, const float* hidden, int64_t num_rows, const DecoderScratch& scratch,
                    float* logits);

}  // namespace tiercel::TIERCEL_ISA
