// Memory for coroutine frames: free lists per size class and thread, so that starting a task on a
// warm reactor does not reach the heap.
//
// Threading: each thread has its own lists; a frame may be freed on another thread than the one
// that allocated it (it then feeds that thread's list). Under AddressSanitizer the pool steps aside
// so that a use after free is seen.
#pragma once

#include <cstddef>
#include <cstdint>

namespace umblock {

void* AllocateFrame(size_t bytes);
void FreeFrame(void* frame, size_t bytes) noexcept;

// Frames that this thread had to take from the heap so far (a warm pool stops counting).
uint64_t FrameHeapAllocations();

}  // namespace umblock
