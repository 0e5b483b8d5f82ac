// Every file under isa/ is compiled once per instruction set, into a namespace of that name.
//
//   avx2        x86-64-v3: AVX2, FMA, F16C
//   avx512      x86-64-v4: AVX-512 F, BW, CD, DQ, VL, with VNNI
//   avx512bf16  Zen 4 and newer: that, with BF16, VBMI, VBMI2, GFNI
//   amx         Sapphire Rapids and newer: that, with AMX's BF16 and INT8
//
// The last two have TIERCEL_BF16_PRODUCTS: activations, queries and the softmax's weights are rounded to bf16 before they
// are multiplied.
#pragma once

#if defined(TIERCEL_ISA_AMX)
#define TIERCEL_ISA amx
#define TIERCEL_BF16_PRODUCTS
#elif defined(TIERCEL_ISA_AVX512BF16)
#define TIERCEL_ISA avx512bf16
#define TIERCEL_BF16_PRODUCTS
#elif defined(TIERCEL_ISA_AVX512)
#define TIERCEL_ISA avx512
#elif defined(TIERCEL_ISA_AVX2)
#define TIERCEL_ISA avx2
#endif
