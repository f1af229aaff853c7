// Which of the instruction sets that the loops of simd/ are compiled for this processor has.
#pragma once

namespace pydistill::cpu {

enum class Isa { kBaseline, kAvx2, kAvx512 };

// The widest that this processor has, asked once. PYDISTILL_ISA=baseline|avx2|avx512 in the environment asks
// for a narrower one; one that the processor does not have, or another word, is an error
// (std::runtime_error).
Isa isa();
const char* isa_name(Isa isa);

}  // namespace pydistill::cpu
