// The arithmetic of trajectory_point and how it finds the tensor of an element, without torch.
#include "../kernels/trajectory_point.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "../cpu/map_chunk.h"
#include "check.h"

namespace {

using pydistill::cpu::map_chunk;
using pydistill::kernels::TrajectoryPoint;

template <typename scalar_t>
struct Problem {
  std::vector<int64_t> sizes = {0, 1, 6, 0, 0, 2, 13, 1, 0};
  std::vector<double> weights = {9.0, 0.25, 0.0, 8.0, 7.0, 1.0, 0.75, -1.5, 6.0};
  std::vector<int64_t> ends;
  std::vector<scalar_t> start, end, point;
  int64_t count = 0;

  Problem() {
    for (const int64_t size : sizes) {
      ends.push_back(count += size);
    }
    for (int64_t i = 0; i < count; ++i) {
      start.push_back(static_cast<scalar_t>(std::sin(1.0 + static_cast<double>(i))));
      end.push_back(static_cast<scalar_t>(std::cos(2.0 * static_cast<double>(i))));
    }
    point.assign(static_cast<size_t>(count), scalar_t(-77));
  }

  TrajectoryPoint<scalar_t> lerp() {
    return {start.data(), end.data(), weights.data(), ends.data(), static_cast<int64_t>(ends.size()),
            point.data()};
  }
};

template <typename scalar_t>
void each_element_takes_its_own_tensors_weight() {
  Problem<scalar_t> problem;
  map_chunk(problem.lerp(), 0, problem.count);
  const double eps = static_cast<double>(std::numeric_limits<scalar_t>::epsilon());
  size_t i = 0;
  for (size_t tensor = 0; tensor < problem.sizes.size(); ++tensor) {
    for (int64_t k = 0; k < problem.sizes[tensor]; ++k, ++i) {
      const double from = static_cast<double>(problem.start[i]);
      const double to = static_cast<double>(problem.end[i]);
      CHECK(std::fabs(static_cast<double>(problem.point[i]) -
                      (from + problem.weights[tensor] * (to - from))) <= 16 * eps);
      if (problem.weights[tensor] == 0.0) {
        CHECK(problem.point[i] == problem.start[i]);
      }
      if (problem.weights[tensor] == 1.0) {
        CHECK(problem.point[i] == problem.end[i]);
      }
    }
  }
  CHECK(i == static_cast<size_t>(problem.count));
}

// Wherever a chunk begins and ends, it writes its own elements alone and finds their tensors.
template <typename scalar_t>
void chunks_are_parts_of_the_whole() {
  Problem<scalar_t> complete;
  map_chunk(complete.lerp(), 0, complete.count);
  for (int64_t begin = 0; begin <= complete.count; ++begin) {
    for (int64_t end = begin; end <= complete.count; ++end) {
      Problem<scalar_t> part;
      map_chunk(part.lerp(), begin, end);
      for (int64_t i = 0; i < complete.count; ++i) {
        const size_t at = static_cast<size_t>(i);
        CHECK(part.point[at] == (begin <= i && i < end ? complete.point[at] : scalar_t(-77)));
      }
    }
  }
}

void no_tensor_has_no_element() {
  const TrajectoryPoint<float> nothing{nullptr, nullptr, nullptr, nullptr, 0, nullptr};
  map_chunk(nothing, 0, 0);
}

}  // namespace

int main() {
  each_element_takes_its_own_tensors_weight<float>();
  each_element_takes_its_own_tensors_weight<double>();
  chunks_are_parts_of_the_whole<float>();
  chunks_are_parts_of_the_whole<double>();
  no_tensor_has_no_element();
  std::puts("trajectory_point: all checks hold");
  return 0;
}
