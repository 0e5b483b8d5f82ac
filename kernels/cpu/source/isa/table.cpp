#include "../kernels.h"
#include "../isa.h"
#include "attention.h"
#include "best_ids.h"
#include "ceilings.h"
#include "decoder.h"
#include "stream_copy.h"

namespace tiercel::TIERCEL_ISA {

#define TIERCEL_QUOTE(name) #name
#define TIERCEL_NAME(name) TIERCEL_QUOTE(name)

const Kernels& kernels() {
    static const Kernels table = {
        TIERCEL_NAME(TIERCEL_ISA),
        measure_ceilings,
        decoder_forward,
        decoder_logits,
        best_ids,
        attention_shape,
        attention_layer,
        write_layer,
        stream_copy,
    };
    return table;
}

}  // namespace tiercel::TIERCEL_ISA
