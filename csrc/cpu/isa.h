// Choose the instruction set of the loops in simd/.
#pragma once

namespace pydistill::cpu {

enum class Isa { kBaseline, kAvx2, kAvx512 };

// The widest that this processor has, or that of PYDISTILL_ISA=baseline|avx2|avx512 in the environment, which
// is read once. Throws std::runtime_error if the processor does not have that one, or the name is not known.
Isa isa();
const char* isa_name(Isa isa);

}  // namespace pydistill::cpu
