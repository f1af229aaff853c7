// Lanes<T>: as many numbers as a vector register holds, for kernels written for a value type
// (kernels/host_device.h).
//
// One file is compiled several times, once for each instruction set (isa.h). Everything in it lives in a
// namespace of that instruction set, so that the linker never takes one for another. No torch here, and of
// the standard library only what has no inline functions of its own to be mixed up.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa.h"

namespace pydistill::cpu::PYDISTILL_ISA {

// Spelt out for each type, since GCC forgets the attribute on a type that depends on a template's argument. A
// comparison of vectors gives all bits of a lane or none, in integers of the lane's width.
template <typename T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float Type __attribute__((vector_size(PYDISTILL_VECTOR_BYTES)));
  typedef int32_t Mask __attribute__((vector_size(PYDISTILL_VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
  typedef double Type __attribute__((vector_size(PYDISTILL_VECTOR_BYTES)));
  typedef int64_t Mask __attribute__((vector_size(PYDISTILL_VECTOR_BYTES)));
};

template <typename T>
struct Lanes {
  static constexpr int64_t kSize = PYDISTILL_VECTOR_BYTES / static_cast<int64_t>(sizeof(T));
  using Vector = typename VectorOf<T>::Type;
  using Mask = typename VectorOf<T>::Mask;

  Vector vector;

  Lanes() = default;
  PYDISTILL_INLINE Lanes(T value) : vector(value - Vector{}) {}  // the same number in every lane

  PYDISTILL_INLINE static Lanes load(const T* from) {
    Lanes lanes;
    std::memcpy(&lanes.vector, from, sizeof(Vector));
    return lanes;
  }
  // Loads the first `count` numbers and zeros; reads nothing beyond them.
  PYDISTILL_INLINE static Lanes load(const T* from, int64_t count) {
    T numbers[PYDISTILL_VECTOR_BYTES / sizeof(T)] = {};
    for (int64_t lane = 0; lane < count; ++lane) {
      numbers[lane] = from[lane];
    }
    return load(numbers);
  }
  PYDISTILL_INLINE void store(T* to) const { std::memcpy(to, &vector, sizeof(Vector)); }
  // As store(), but past the caches where a vector is a cache line: for large memory that is not read soon.
  // `to` is aligned to the vector's size. Other threads see the result after fence_streams().
  PYDISTILL_INLINE void stream(T* to) const {
#if defined(PYDISTILL_ISA_AVX512)
    stream(to, vector);
#else
    store(to);
#endif
  }
  // Stores the first `count` numbers; writes nothing beyond them.
  PYDISTILL_INLINE void store(T* to, int64_t count) const {
    T numbers[PYDISTILL_VECTOR_BYTES / sizeof(T)];
    store(numbers);
    for (int64_t lane = 0; lane < count; ++lane) {
      to[lane] = numbers[lane];
    }
  }

  PYDISTILL_INLINE friend Lanes operator+(Lanes a, Lanes b) { return of(a.vector + b.vector); }
  PYDISTILL_INLINE friend Lanes operator-(Lanes a, Lanes b) { return of(a.vector - b.vector); }
  PYDISTILL_INLINE friend Lanes operator*(Lanes a, Lanes b) { return of(a.vector * b.vector); }
  PYDISTILL_INLINE friend Lanes operator/(Lanes a, Lanes b) { return of(a.vector / b.vector); }
  PYDISTILL_INLINE friend Lanes operator-(Lanes a) { return of(-a.vector); }
  PYDISTILL_INLINE Lanes& operator+=(Lanes b) { return *this = *this + b; }
  PYDISTILL_INLINE Lanes& operator-=(Lanes b) { return *this = *this - b; }

  PYDISTILL_INLINE friend Mask operator<(Lanes a, Lanes b) { return a.vector < b.vector; }
  PYDISTILL_INLINE friend Mask operator<=(Lanes a, Lanes b) { return a.vector <= b.vector; }
  PYDISTILL_INLINE friend Mask operator>(Lanes a, Lanes b) { return a.vector > b.vector; }
  PYDISTILL_INLINE friend Mask operator>=(Lanes a, Lanes b) { return a.vector >= b.vector; }
  PYDISTILL_INLINE friend Mask operator==(Lanes a, Lanes b) { return a.vector == b.vector; }
  PYDISTILL_INLINE friend Mask operator!=(Lanes a, Lanes b) { return a.vector != b.vector; }
  PYDISTILL_INLINE friend Lanes select(Mask condition, Lanes a, Lanes b) {
    return of(condition ? a.vector : b.vector);
  }
  PYDISTILL_INLINE friend Lanes square_root(Lanes a) {
    Lanes root;
    for (int64_t lane = 0; lane < kSize; ++lane) {
      root.vector[lane] = sizeof(T) == sizeof(float)
                              ? static_cast<T>(__builtin_sqrtf(static_cast<float>(a.vector[lane])))
                              : static_cast<T>(__builtin_sqrt(a.vector[lane]));
    }
    return root;
  }

 private:
#if defined(PYDISTILL_ISA_AVX512)
  PYDISTILL_INLINE static void stream(float* to, VectorOf<float>::Type numbers) {
    __builtin_ia32_movntps512(to, numbers);
  }
  PYDISTILL_INLINE static void stream(double* to, VectorOf<double>::Type numbers) {
    __builtin_ia32_movntpd512(to, numbers);
  }
#endif

  PYDISTILL_INLINE static Lanes of(Vector vector) {
    Lanes lanes;
    lanes.vector = vector;
    return lanes;
  }
};

PYDISTILL_INLINE void fence_streams() {
#if defined(PYDISTILL_ISA_AVX512)
  __builtin_ia32_sfence();
#endif
}

}  // namespace pydistill::cpu::PYDISTILL_ISA
