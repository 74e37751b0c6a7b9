#include "engine/runtime/uring/ring.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "engine/base/assert.h"

namespace umblock {
namespace {

constexpr unsigned kMaxRegisteredArenas = 1024;

unsigned SetupFlags(UringMode mode) {
  unsigned flags = IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  switch (mode) {
    case UringMode::kDeferred:
      return flags | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG |
             IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    case UringMode::kCooperative:
      return flags | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG |
             IORING_SETUP_COOP_TASKRUN;
    case UringMode::kPlain:
      return flags;
  }
  return flags;
}

std::unexpected<Error> SetupError(int error) {
  if (error == EPERM || error == EACCES) {
    return MakeError(ErrorCode::kPermissionDenied,
                     "io_uring is not permitted here: the container's seccomp profile or "
                     "kernel.io_uring_disabled forbids io_uring_setup ({}); run the container with "
                     "--security-opt seccomp=<the project's docker/seccomp.json>, or set sysctl "
                     "kernel.io_uring_disabled=0",
                     error == EPERM ? "EPERM" : "EACCES");
  }
  if (error == ENOSYS) {
    return MakeError(
        ErrorCode::kUnimplemented,
        "io_uring is not permitted here: the container's seccomp profile forbids io_uring_setup, "
        "or the kernel has no io_uring (ENOSYS); run the container with --security-opt "
        "seccomp=<the project's docker/seccomp.json>, on Linux 5.11 or newer with CONFIG_IO_URING");
  }
  if (error == ENOMEM) {
    return MakeError(ErrorCode::kResourceExhausted,
                     "io_uring_setup has no memory (ENOMEM); raise the memlock limit (ulimit -l) "
                     "or start fewer reactors");
  }
  return std::unexpected(Error::FromErrno(error, "io_uring_setup"));
}

}  // namespace

Ring::~Ring() {
  if (open_) io_uring_queue_exit(&ring_);
}

Status Ring::Open(const UringOptions& options) {
  for (auto mode = static_cast<int>(options.best_mode);; --mode) {
    io_uring_params params{};
    params.flags = SetupFlags(static_cast<UringMode>(mode));
    params.cq_entries = options.cq_entries;
    int result = io_uring_queue_init_params(options.sq_entries, &ring_, &params);
    if (result == -EINVAL && mode > 0) continue;
    if (result < 0) return SetupError(-result);
    open_ = true;
    mode_ = static_cast<UringMode>(mode);
    break;
  }
  constexpr unsigned kNeeded = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_SUBMIT_STABLE;
  if ((ring_.features & kNeeded) != kNeeded) {
    return MakeError(ErrorCode::kUnimplemented,
                     "this kernel's io_uring is too old; Linux 5.11 or newer is needed");
  }
  return Ok();
}

void Ring::Enable() {
  if (enabled_) return;
  // The system call itself: liburing 2.3 declares io_uring_enable_rings and does not export it.
  int64_t result =
      syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  UMBLOCK_ASSERT(result == 0, "a fresh ring can be enabled");
  enabled_ = true;
}

io_uring_sqe* Ring::Entry() {
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  while (entry == nullptr) {
    Enable();
    ++counters.enters;
    CheckEntered(io_uring_submit(&ring_));
    entry = io_uring_get_sqe(&ring_);
  }
  ++counters.sqes;
  return entry;
}

void Ring::Cancel(UringOp* op) {
  io_uring_sqe* entry = Entry();
  io_uring_prep_cancel(entry, op, 0);
  Attach(entry, nullptr);
}

void Ring::Submit() {
  if (io_uring_sq_ready(&ring_) == 0 && (HasCompletions() || !HasNews())) return;
  ++counters.enters;
  CheckEntered(io_uring_submit_and_get_events(&ring_));
}

void Ring::SubmitAndWait(std::optional<Duration> timeout) {
  __kernel_timespec wait{};
  if (timeout) {
    if (*timeout <= Duration::zero()) return Submit();
    wait.tv_sec = timeout->count() / 1'000'000'000;
    wait.tv_nsec = timeout->count() % 1'000'000'000;
  }
  ++counters.enters;
  io_uring_cqe* first = nullptr;
  CheckEntered(
      io_uring_submit_and_wait_timeout(&ring_, &first, 1, timeout ? &wait : nullptr, nullptr));
}

int Ring::Reap(int limit) {
  int reaped = 0;
  io_uring_cqe* cqe = nullptr;
  while (reaped < limit && io_uring_cq_ready(&ring_) != 0 && io_uring_peek_cqe(&ring_, &cqe) == 0 &&
         cqe != nullptr) {
    auto* op = static_cast<UringOp*>(io_uring_cqe_get_data(cqe));
    int32_t result = cqe->res;
    uint32_t flags = cqe->flags;
    io_uring_cqe_seen(&ring_, cqe);  // first: the function may submit and reap in its turn
    ++reaped;
    ++counters.cqes;
    if (op != nullptr) op->fn(op, result, flags);
  }
  return reaped;
}

bool Ring::HasNews() const {
  constexpr unsigned kEnterForMore = IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW;
  return HasCompletions() || (IO_URING_READ_ONCE(*ring_.sq.kflags) & kEnterForMore) != 0;
}

bool Ring::RegisterBuffer(unsigned index, void* base, size_t length) {
  if (index >= kMaxRegisteredArenas) return false;
  if (!buffer_table_) {
    if (io_uring_register_buffers_sparse(&ring_, kMaxRegisteredArenas) != 0) return false;
    buffer_table_ = true;
  }
  iovec memory{base, length};
  __u64 tag = 0;
  return io_uring_register_buffers_update_tag(&ring_, index, &memory, &tag, 1) == 1;
}

void Ring::CheckEntered(int result) {
  // EINTR: a signal. ETIME: the wait is over. EAGAIN, EBUSY: the kernel is short of memory or wants
  // its completions taken first; the entries stay in the ring for the next turn.
  bool expected =
      result >= 0 || result == -EINTR || result == -ETIME || result == -EAGAIN || result == -EBUSY;
  UMBLOCK_ASSERT(expected, "io_uring_enter fails only for a while");
}

}  // namespace umblock
