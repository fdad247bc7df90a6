// Memory of libtorch's CPU tensors, kept from one step to the next.
//
// A large block from malloc is mapped when it is taken and unmapped when it is freed: each step
// pays for faulting and zeroing every page of it again. Here freed blocks wait for the next
// tensor of their size, on huge pages where the system grants them, and what waits is given back
// as soon as it would make the process larger than its tensors ever were, by an eighth.

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/Device.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>

#include "shim.h"

namespace {

// Before each block, in a cache line of its own: tensors start at its end.
struct alignas(64) Header {
  size_t size;   // of the block, header included
  bool mapped;   // else from malloc
};

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;
// Below, malloc keeps freed memory by itself.
constexpr size_t kSmallest = size_t{64} << 10;

// Sizes are rounded up to an eighth of a power of two, so that tensors of nearly one size share
// blocks.
size_t rounded(size_t bytes) {
  size_t power = kSmallest;
  while (power < bytes / 2) power *= 2;
  const size_t step = std::max(power / 8, kPage);
  return (bytes + step - 1) / step * step;
}

class KeepingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, nullptr, &release, cpu};
    TORCH_CHECK(bytes < SIZE_MAX / 2, "not enough memory: ", bytes, " bytes were asked for");
    const size_t needed = bytes + sizeof(Header);
    Header* header = needed < kSmallest ? from_malloc(needed) : take(rounded(needed));
    TORCH_CHECK(header != nullptr, "not enough memory: ", bytes, " bytes were asked for");
    return {header + 1, header + 1, &release, cpu};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, size_t count) const override {
    default_copy_data(to, from, count);
  }

  // Bytes in tensors, the most there ever were, and bytes that wait.
  void counts(uint64_t* live, uint64_t* peak, uint64_t* waiting) {
    const std::lock_guard<std::mutex> lock(mutex_);
    *live = live_;
    *peak = peak_;
    *waiting = waiting_;
  }

  static KeepingAllocator& instance() {
    // Never destroyed: tensors may outlive everything else.
    static auto* allocator = new KeepingAllocator();
    return *allocator;
  }

 private:
  static Header* from_malloc(size_t bytes) {
    const size_t size = (bytes + alignof(Header) - 1) / alignof(Header) * alignof(Header);
    auto* header = static_cast<Header*>(std::aligned_alloc(alignof(Header), size));
    if (header != nullptr) *header = {size, false};
    return header;
  }

  static void release(void* data) {
    if (data == nullptr) return;
    auto* header = static_cast<Header*>(data) - 1;
    if (header->mapped) {
      instance().keep(header);
    } else {
      std::free(header);
    }
  }

  Header* take(size_t size) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = waiting_blocks_.lower_bound(size);
    Header* header = nullptr;
    if (found != waiting_blocks_.end() && found->first <= size + size / 4) {
      header = found->second;
      waiting_ -= found->first;
      waiting_blocks_.erase(found);
    } else {
      const size_t most = std::max(peak_, live_ + size) / 8 * 9;
      while (!waiting_blocks_.empty() && live_ + waiting_ + size > most) give_back_largest();
      header = map(size);
      while (header == nullptr && !waiting_blocks_.empty()) {
        give_back_largest();
        header = map(size);
      }
      if (header == nullptr) return nullptr;
    }
    live_ += header->size;
    peak_ = std::max(peak_, live_);
    return header;
  }

  void keep(Header* header) {
    const std::lock_guard<std::mutex> lock(mutex_);
    live_ -= header->size;
    waiting_ += header->size;
    // Before others of its size: the last one freed is the likeliest to be in cache.
    waiting_blocks_.insert(waiting_blocks_.lower_bound(header->size), {header->size, header});
  }

  void give_back_largest() {
    const auto largest = std::prev(waiting_blocks_.end());
    waiting_ -= largest->first;
    munmap(largest->second, largest->first);
    waiting_blocks_.erase(largest);
  }

  // A block of `size`, a multiple of pages, at a huge page's start if it holds one.
  static Header* map(size_t size) {
    const size_t slack = size >= kHugePage ? kHugePage : 0;
    void* start = mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                       -1, 0);
    if (start == MAP_FAILED) return nullptr;
    auto address = reinterpret_cast<uintptr_t>(start);
    if (slack > 0) {
      const size_t before = (kHugePage - address % kHugePage) % kHugePage;
      if (before > 0) munmap(start, before);
      if (before < slack) {
        munmap(reinterpret_cast<void*>(address + before + size), slack - before);
      }
      address += before;
      // A wish: the system may refuse.
      madvise(reinterpret_cast<void*>(address), size, MADV_HUGEPAGE);
    }
    auto* header = reinterpret_cast<Header*>(address);
    *header = {size, true};
    return header;
  }

  std::mutex mutex_;
  std::multimap<size_t, Header*> waiting_blocks_;
  size_t live_ = 0;
  size_t peak_ = 0;
  size_t waiting_ = 0;
};

}  // namespace

// From now on CPU tensors come from the allocator above. Those that there are stay where they are.
SHIM_EXPORT void b4_keep_cpu_memory() {
  c10::SetCPUAllocator(&KeepingAllocator::instance(), /*priority=*/1);
}

SHIM_EXPORT void b4_cpu_memory_counts(uint64_t* live, uint64_t* peak, uint64_t* waiting) {
  KeepingAllocator::instance().counts(live, peak, waiting);
}
