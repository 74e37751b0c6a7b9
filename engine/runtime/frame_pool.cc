#include "engine/runtime/frame_pool.h"

#include <array>
#include <bit>
#include <new>

namespace umblock {
namespace {

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UMBLOCK_FRAME_POOL_OFF 1
#endif
#endif

constexpr size_t kSmallestClass = 64;
constexpr size_t kClasses = 8;  // 64 bytes to 8 KiB; larger frames go to the heap

struct FreeFrameNode {
  FreeFrameNode* next;
};

struct ThreadFrames {
  std::array<FreeFrameNode*, kClasses> free{};
  uint64_t heap_allocations = 0;

  ~ThreadFrames() {
    for (FreeFrameNode*& head : free) {
      while (head != nullptr) {
        FreeFrameNode* next = head->next;
        ::operator delete(head);
        head = next;
      }
    }
  }
};

ThreadFrames& Frames() {
  thread_local ThreadFrames frames;
  return frames;
}

size_t ClassOf(size_t bytes) {
  size_t rounded = std::bit_ceil(bytes < kSmallestClass ? kSmallestClass : bytes);
  return static_cast<size_t>(std::countr_zero(rounded) - std::countr_zero(kSmallestClass));
}

}  // namespace

void* AllocateFrame(size_t bytes) {
  ThreadFrames& frames = Frames();
  size_t size_class = ClassOf(bytes);
#ifndef UMBLOCK_FRAME_POOL_OFF
  if (size_class < kClasses && frames.free[size_class] != nullptr) {
    FreeFrameNode* node = frames.free[size_class];
    frames.free[size_class] = node->next;
    return node;
  }
#endif
  ++frames.heap_allocations;
  return ::operator new(size_class < kClasses ? kSmallestClass << size_class : bytes);
}

void FreeFrame(void* frame, size_t bytes) noexcept {
#ifndef UMBLOCK_FRAME_POOL_OFF
  size_t size_class = ClassOf(bytes);
  if (size_class < kClasses) {
    auto* node = new (frame) FreeFrameNode;
    ThreadFrames& frames = Frames();
    node->next = frames.free[size_class];
    frames.free[size_class] = node;
    return;
  }
#else
  (void)bytes;
#endif
  ::operator delete(frame);
}

uint64_t FrameHeapAllocations() { return Frames().heap_allocations; }

}  // namespace umblock
