#include "kept_memory.h"

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace pydistill::cpu {
namespace {

struct Block {
  c10::DataPtr memory;
  size_t bytes;
};

class KeptMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    std::unique_ptr<Block> block = take(bytes);
    if (block == nullptr) {
      block = std::make_unique<Block>(Block{c10::GetCPUAllocator()->allocate(bytes), bytes});
    }
    void* const data = block->memory.get();
    return {data, block.release(), &give_back, c10::Device(c10::kCPU)};
  }

  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  // Where another thread is here, or was when the process was forked, memory is neither taken nor kept.
  std::unique_ptr<Block> take(size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) {
      return nullptr;
    }
    const auto is_right = [bytes](const auto& block) { return block->bytes == bytes; };
    const auto found = std::find_if(blocks_.rbegin(), blocks_.rend(), is_right);
    if (found == blocks_.rend()) {
      return nullptr;
    }
    std::unique_ptr<Block> block = std::move(*found);
    blocks_.erase(std::next(found).base());
    return block;
  }

  void keep(std::unique_ptr<Block> block) {
    std::unique_ptr<Block> oldest;  // goes after the lock
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    const bool fits = block->bytes >= kLeastKeptBytes && block->bytes <= kMostKeptBytes;
    if (!lock.owns_lock() || !fits) {
      return;
    }
    if (blocks_.size() == kMostKept) {
      oldest = std::move(blocks_.front());
      blocks_.erase(blocks_.begin());
    }
    blocks_.push_back(std::move(block));
  }

  static void give_back(void* block);

  std::mutex mutex_;
  std::vector<std::unique_ptr<Block>> blocks_;  // kept, the last one last
};

// Never destroyed: results may go after it would have.
KeptMemory& the_memory() {
  static auto* const memory = new KeptMemory;
  return *memory;
}

void KeptMemory::give_back(void* block) {
  the_memory().keep(std::unique_ptr<Block>(static_cast<Block*>(block)));
}

}  // namespace

c10::Allocator* kept_memory() { return &the_memory(); }

}  // namespace pydistill::cpu
