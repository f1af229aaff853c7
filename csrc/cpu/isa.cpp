#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace pydistill::cpu {
namespace {

Isa widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? Isa::kAvx512 : avx2 ? Isa::kAvx2 : Isa::kBaseline;
#else
  return Isa::kBaseline;
#endif
}

Isa choose() {
  const char* requested = std::getenv("PYDISTILL_ISA");
  if (requested == nullptr || *requested == '\0') {
    return widest();
  }
  for (const Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512}) {
    if (std::string(requested) == isa_name(isa)) {
      if (isa > widest()) {
        throw std::runtime_error(std::string("PYDISTILL_ISA=") + requested + ": this processor has " +
                                 isa_name(widest()) + " at most");
      }
      return isa;
    }
  }
  throw std::runtime_error(std::string("PYDISTILL_ISA=") + requested +
                           " is not one of baseline, avx2, avx512");
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kBaseline:
      break;
  }
  return "baseline";
}

}  // namespace pydistill::cpu
