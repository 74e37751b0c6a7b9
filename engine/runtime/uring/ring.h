// Ring: one io_uring, used by one thread.
//
// Entries are filled where they stand in the submission ring and reach the kernel together, at the
// next Submit or SubmitAndWait (or earlier, if the ring is full). The ring is made disabled and
// belongs to the thread that calls Enable, so that it may be made on another one.
#pragma once

#include <liburing.h>

#include <cstdint>
#include <optional>

#include "engine/base/error.h"
#include "engine/runtime/time.h"
#include "engine/runtime/uring/uring_op.h"
#include "engine/runtime/uring/uring_options.h"

namespace umblock {

class Ring {
 public:
  Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring();

  // Where the system forbids io_uring the error says what does, and what to change.
  Status Open(const UringOptions& options);
  void Enable();
  UringMode mode() const { return mode_; }

  // An entry to fill with io_uring_prep_*; Attach names the operation that its completion goes to
  // (null: nobody wants to know).
  io_uring_sqe* Entry();
  static void Attach(io_uring_sqe* entry, UringOp* op) { io_uring_sqe_set_data(entry, op); }
  // Asks the kernel to end `op` early; its completion still comes.
  void Cancel(UringOp* op);

  // Hands over what has been prepared, and fetches completions that the kernel holds back.
  void Submit();
  // The same, then sleeps until there is a completion or `timeout` is over (none: for ever).
  void SubmitAndWait(std::optional<Duration> timeout);

  // Calls the functions of up to `limit` completions. Returns how many.
  int Reap(int limit);
  // There is something to reap now.
  bool HasCompletions() const { return io_uring_cq_ready(&ring_) != 0; }
  // There is something to reap, now or after a Submit. No system call.
  bool HasNews() const;

  // False if the memory cannot be registered. `index`: for io_uring_prep_{read,write}_fixed.
  bool RegisterBuffer(unsigned index, void* base, size_t length);

  io_uring* raw() { return &ring_; }
  // turns and the like are the reactor's, enters, sqes and cqes this class's.
  UringCounters counters;

 private:
  void CheckEntered(int result);

  io_uring ring_{};
  bool open_ = false;
  bool enabled_ = false;
  bool buffer_table_ = false;
  UringMode mode_ = UringMode::kPlain;
};

}  // namespace umblock
