// Runs kernels/augment.h on vectors of neighbouring pixels of a row; included by one file for each
// instruction set.
#include "isa.h"
//
#include <type_traits>

#include "../../kernels/augment.h"
#include "augment.h"
#include "lanes.h"

namespace pydistill::kernels {

// Positions and offsets are as wide as the numbers, so 32 bits for float: cpu/augment.cpp checks that they
// fit.
template <typename T>
struct Numbers<cpu::PYDISTILL_ISA::Lanes<T>> {
  using Lanes = cpu::PYDISTILL_ISA::Lanes<T>;
  using Scalar = T;
  using Index = typename Lanes::Mask;
  using Mask = typename Lanes::Mask;
  using Whole = std::conditional_t<sizeof(T) == sizeof(int32_t), int32_t, int64_t>;

  PYDISTILL_INLINE static Index index(int64_t number) { return Index{} + static_cast<Whole>(number); }
  PYDISTILL_INLINE static Lanes value(Index index) {
    Lanes lanes;
    lanes.vector = __builtin_convertvector(index, typename Lanes::Vector);
    return lanes;
  }
  PYDISTILL_INLINE static Index floor(Lanes value_of) {
    const Index towards_zero = __builtin_convertvector(value_of.vector, Index);
    return towards_zero + (value(towards_zero) > value_of);  // a comparison that holds is -1
  }
  PYDISTILL_INLINE static Lanes read(const T* data, Index offset, Mask mask) {
    const Index safe = mask ? offset : Index{};
    Lanes numbers;
    for (int64_t lane = 0; lane < Lanes::kSize; ++lane) {
      numbers.vector[lane] = data[safe[lane]];
    }
    return select(mask, numbers, Lanes(T(0)));
  }
};

}  // namespace pydistill::kernels

namespace pydistill::cpu::PYDISTILL_ISA {
namespace {

using kernels::AugmentArrays;
using kernels::Image;
using kernels::ImageSize;
using kernels::Numbers;
using kernels::Source;
using kernels::Stage;
using kernels::Stages;
using kernels::Target;

template <typename T>
PYDISTILL_INLINE typename Numbers<Lanes<T>>::Index columns_from(int64_t first) {
  auto columns = Numbers<Lanes<T>>::index(first);
  for (int lane = 0; lane < static_cast<int>(Lanes<T>::kSize); ++lane) {
    columns[lane] += lane;
  }
  return columns;
}

// Writes the first `count` lanes, all of them if it is more, from pixel (row, column) on.
template <typename T>
struct WriteLanes {
  const Target<T>& target;
  int64_t row;
  int64_t column;
  int64_t count;

  PYDISTILL_INLINE void operator()(int64_t channel, Lanes<T> value) const {
    T* const to = &target.to.at(channel, row, column);
    const int64_t stride = target.to.column_stride;
    if (stride == 1 && count >= Lanes<T>::kSize) {
      (target.adds ? target.updated(Lanes<T>::load(to), value) : value).store(to);
      return;
    }
    for (int64_t lane = 0; lane < count && lane < Lanes<T>::kSize; ++lane) {
      T& number = to[lane * stride];
      number = target.adds ? target.updated(number, value.vector[lane]) : value.vector[lane];
    }
  }
};

template <typename T>
T mean_of(const Source<Lanes<T>>& from) {
  double sums[PYDISTILL_VECTOR_BYTES / sizeof(T)] = {};
  for (int64_t channel = 0; channel < from.size.channels; ++channel) {
    for (int64_t row = 0; row < from.size.height; ++row) {
      for (int64_t column = 0; column < from.size.width; column += Lanes<T>::kSize) {
        const auto place = from.place(Numbers<Lanes<T>>::index(row), columns_from<T>(column));
        const Lanes<T> numbers = from.read(channel, place);
        for (int64_t lane = 0; lane < Lanes<T>::kSize; ++lane) {
          sums[lane] += static_cast<double>(numbers.vector[lane]);
        }
      }
    }
  }
  double sum = 0;
  for (const double of_lane : sums) {
    sum += of_lane;
  }
  return static_cast<T>(sum / static_cast<double>(from.size.numbers()));
}

template <typename T>
void run_stage(const Stage<T>& stage, const ImageSize& size) {
  const Source<Lanes<T>> from{stage.from, size};
  const T mean = stage.operation.needs_mean() ? mean_of<T>(from) : T(0);
  for (int64_t row = 0; row < size.height; ++row) {
    for (int64_t column = 0; column < size.width; column += Lanes<T>::kSize) {
      stage.operation.pixel(from, mean, Numbers<Lanes<T>>::index(row), columns_from<T>(column),
                            WriteLanes<T>{stage.to, row, column, size.width - column});
    }
  }
}

template <typename T>
void run_stages(const Stages<T>& stages) {
  const int64_t count = stages.count();
  for (int64_t i = 0; i < count; ++i) {
    run_stage(stages[i], stages.size);
  }
}

}  // namespace

#define PYDISTILL_DEFINE_AUGMENT(scalar_t)                                                  \
  void augment_place(const AugmentArrays<scalar_t>& arrays, int64_t j, scalar_t* scratch) { \
    run_stages(arrays.stages(j, scratch));                                                  \
  }                                                                                         \
  void augment_place_backward(const AugmentArrays<scalar_t>& arrays, int64_t i, int64_t j,  \
                              scalar_t* scratch) {                                          \
    run_stages(arrays.stages_backward(i, j, scratch));                                      \
  }

PYDISTILL_DEFINE_AUGMENT(float)
PYDISTILL_DEFINE_AUGMENT(double)
#undef PYDISTILL_DEFINE_AUGMENT

}  // namespace pydistill::cpu::PYDISTILL_ISA
