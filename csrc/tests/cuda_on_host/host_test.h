// What the tests of this folder share: device memory, the three orders, faults that must be found.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "../check.h"
#include "device.h"

namespace cuda_on_host {

// Numbers in device memory, with nothing near them. As a tensor's, the address of no numbers is null.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& numbers) : DeviceArray(numbers.size(), true) {
    std::copy(numbers.begin(), numbers.end(), data());
  }
  // To be written by a kernel before anything reads it.
  explicit DeviceArray(int64_t count) : DeviceArray(static_cast<size_t>(count), false) {}
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { remove_memory(data()); }

  T* data() { return count_ == 0 ? nullptr : memory_.data() + kGap; }
  std::vector<T> numbers() { return std::vector<T>(data(), data() + count_); }

 private:
  static constexpr size_t kGap = 1024;

  DeviceArray(size_t count, bool written) : count_(count), memory_(count + 2 * kGap) {
    std::memset(static_cast<void*>(memory_.data()), 0xff, memory_.size() * sizeof(T));
    add_memory(data(), count * sizeof(T), written);
  }

  size_t count_;
  std::vector<T> memory_;
};

// The same in the host's memory, for the CPU's kernels.
template <typename T>
class HostArray {
 public:
  explicit HostArray(const std::vector<T>& numbers) : numbers_(numbers) {}
  explicit HostArray(int64_t count) : numbers_(static_cast<size_t>(count)) {}
  T* data() { return numbers_.empty() ? nullptr : numbers_.data(); }
  const std::vector<T>& numbers() const { return numbers_; }

 private:
  std::vector<T> numbers_;
};

using Results = std::vector<std::vector<double>>;

template <typename T>
std::vector<double> as_doubles(const std::vector<T>& numbers) {
  return std::vector<double>(numbers.begin(), numbers.end());
}

inline bool same_bits(const Results& a, const Results& b) {
  CHECK(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].size() == b[i].size());
    if (!a[i].empty() && std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(double)) != 0) {
      return false;
    }
  }
  return true;
}

// The results of run(), which must have the same bits in every order of threads and blocks.
template <typename Run>
Results in_every_order(const Run& run) {
  set_order(Order::kForward);
  const Results first = run();
  for (const Order order : {Order::kReverse, Order::kShuffled}) {
    set_order(order);
    CHECK(same_bits(run(), first));
  }
  return first;
}

inline void check_close(const Results& actual, const Results& expected, double tolerance) {
  CHECK(actual.size() == expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    CHECK(actual[i].size() == expected[i].size());
    for (size_t j = 0; j < actual[i].size(); ++j) {
      const double a = actual[i][j];
      const double b = expected[i][j];
      CHECK(a == b || (std::isnan(a) && std::isnan(b)) || std::fabs(a - b) <= tolerance * (1 + std::fabs(b)));
    }
  }
}

// What run() reports in a process of its own; empty if it reports nothing.
template <typename Run>
std::string fault_of(const Run& run) {
  int pipes[2];
  CHECK(pipe(pipes) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    dup2(pipes[1], STDERR_FILENO);
    close(pipes[0]);
    run();
    _exit(0);
  }
  close(pipes[1]);
  std::string report;
  char part[256];
  for (ssize_t size = 0; (size = read(pipes[0], part, sizeof(part))) > 0;) {
    report.append(part, static_cast<size_t>(size));
  }
  close(pipes[0]);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(report.empty() == (WIFEXITED(status) && WEXITSTATUS(status) == 0));
  return report;
}

// Takes out one after the other of the __syncthreads() that run() comes to, `count` of them: each must be
// missed.
template <typename Run>
void check_every_barrier_is_needed(size_t count, const Run& run) {
  run();
  CHECK(barriers_met().size() == count);
  for (const Place& barrier : barriers_met()) {
    const std::string report = fault_of([&] {
      leave_out_barrier(barrier);
      run();
    });
    if (report.empty()) {
      std::fprintf(stderr, "%s:%d: the barrier is not missed\n", barrier.first.c_str(), barrier.second);
      std::exit(1);
    }
  }
}

// Whether the program runs the long sweep: `PROGRAM sweep`.
inline bool is_sweep(int count, char** arguments) {
  return count > 1 && std::strcmp(arguments[1], "sweep") == 0;
}

}  // namespace cuda_on_host
