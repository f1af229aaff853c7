// Memory for results of a few megabytes that is kept when they go, for the next ones of that size: fresh
// memory costs a page fault for every 4 KB, which would take longer than writing it.
#pragma once

#include <c10/core/Allocator.h>

#include <cstddef>

namespace pydistill::cpu {

constexpr size_t kLeastKeptBytes = size_t{64} << 10;  // of one result; others are not kept
constexpr size_t kMostKeptBytes = size_t{4} << 20;
constexpr size_t kMostKept = 4;  // results

// For any number of threads; lives until the process ends.
c10::Allocator* kept_memory();

}  // namespace pydistill::cpu
