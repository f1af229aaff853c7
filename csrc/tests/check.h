// The few lines that the host tests need: no framework, so that a bare machine with a compiler runs them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                      \
    }                                                                                    \
  } while (false)

// sin(f i + f) for i = 0 ... count - 1: smooth numbers without ties.
template <typename T>
std::vector<T> wave(int64_t count, double frequency) {
  std::vector<T> numbers;
  for (int64_t i = 0; i < count; ++i) {
    numbers.push_back(static_cast<T>(std::sin(frequency * static_cast<double>(i) + frequency)));
  }
  return numbers;
}
