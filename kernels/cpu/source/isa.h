// Every file under isa/ is compiled once per instruction set, into a namespace of that name.
//
//   avx2      x86-64-v3: AVX2, FMA, F16C
//   avx512    x86-64-v4: AVX-512 F, BW, CD, DQ, VL
//   amx       Sapphire Rapids and newer: AMX with BF16 and INT8, AVX-512 with BF16, VNNI, VBMI, VBMI2, GFNI
#pragma once

#if defined(TIERCEL_ISA_AMX)
#define TIERCEL_ISA amx
#elif defined(TIERCEL_ISA_AVX512)
#define TIERCEL_ISA avx512
#elif defined(TIERCEL_ISA_AVX2)
#define TIERCEL_ISA avx2
#endif
