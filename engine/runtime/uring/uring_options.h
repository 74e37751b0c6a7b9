// What a UringReactor is told at its start, and what it counts.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "engine/runtime/time.h"

namespace umblock {

class BlockingPool;
class Logger;

// How much of a recent kernel's io_uring is used. Create() takes the best that the kernel has, up
// to UringOptions::best_mode.
enum class UringMode : uint8_t {
  kPlain,        // nothing beyond Linux 5.11
  kCooperative,  // COOP_TASKRUN (5.19): completions do not interrupt the thread
  kDeferred,     // SINGLE_ISSUER and DEFER_TASKRUN (6.1): completions only when the loop asks
};

struct UringOptions {
  unsigned sq_entries = 1024;  // operations handed to the kernel in one go
  unsigned cq_entries = 8192;  // completions that wait in the ring (more are kept by the kernel)
  size_t buffer_limit_bytes = size_t{256} << 20;  // of Reactor::buffers()
  // Before it sleeps, the loop spins at most this long, while recent arrivals make that pay. 0:
  // never.
  Duration max_spin = std::chrono::microseconds(30);
  // Register the arenas of buffers() with the ring where the memlock limit allows it.
  bool register_buffers = true;
  UringMode best_mode = UringMode::kDeferred;
  int blocking_threads = 2;          // of the reactor's own pool, started when first needed
  BlockingPool* blocking = nullptr;  // use this pool, which outlives the reactor, instead
  Logger* logger = nullptr;          // null: warnings to stderr. Outlives the reactor
};

// Counted since the start, written by the reactor's thread; a copy is taken there
// (UringReactor::counters) or through ReactorThread::counters().
struct UringCounters {
  uint64_t turns = 0;
  uint64_t enters = 0;            // io_uring_enter calls
  uint64_t other_syscalls = 0;    // shutdown, close, accept options, eventfd … by this thread
  uint64_t sqes = 0;              // operations handed to the kernel
  uint64_t cqes = 0;              // completions taken
  uint64_t wakes_sent = 0;        // eventfd writes that woke this reactor for others' messages
  uint64_t messages = 0;          // completions that came through PostFromAnyThread
  uint64_t sleeps = 0;            // waits in the kernel
  uint64_t spins = 0;             // waits that began with spinning …
  uint64_t spins_paid = 0;        // … and saw work arrive meanwhile
  uint64_t cut_turns = 0;         // turns ended by their time limit with work left over
  uint64_t fixed_buffer_ops = 0;  // file operations on registered memory
};

}  // namespace umblock
