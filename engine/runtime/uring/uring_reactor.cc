#include "engine/runtime/uring/uring_reactor.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

#include "engine/base/assert.h"
#include "engine/runtime/uring/blocking_pool.h"
#include "engine/runtime/uring/connect.h"
#include "engine/runtime/uring/file_op.h"
#include "engine/runtime/uring/open_file.h"
#include "engine/runtime/uring/uring_listener.h"
#include "engine/runtime/uring/uring_mapped_memory.h"

namespace umblock {
namespace {

// What a turn may take before it hands over what it has; a single completion may exceed it.
constexpr Duration kTurnLimit = 500us;
constexpr int kReapBatch = 64;
constexpr int kTimerBatch = 256;
constexpr int kCompletionsPerClockRead = 8;
constexpr int kSpinsPerClockRead = 32;

void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

UringReactor::UringReactor(const UringOptions& options)
    : options_(options),
      logger_(options.logger != nullptr ? options.logger : &default_logger_),
      arenas_(ring_, *logger_, options.register_buffers),
      spin_(options.max_spin) {}

Result<std::unique_ptr<UringReactor>> UringReactor::Create(UringOptions options) {
  std::unique_ptr<UringReactor> reactor(new UringReactor(options));
  UMBLOCK_TRY(reactor->Start());
  return reactor;
}

Status UringReactor::Start() {
  UMBLOCK_TRY(ring_.Open(options_));
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) return std::unexpected(Error::FromErrno(errno, "eventfd"));
  ArmWake();
  file_ops_ = std::make_unique<FileOpPool>();
  buffers_ = std::make_unique<BufferPool>(*this, options_.buffer_limit_bytes, &arenas_);
  blocking_ = options_.blocking;
  if (blocking_ == nullptr) {
    own_blocking_ = std::make_unique<BlockingPool>(options_.blocking_threads);
    blocking_ = own_blocking_.get();
  }
  return Ok();
}

UringReactor::~UringReactor() {
  own_blocking_.reset();
  // A thread that has just posted may still be about to ring the bell.
  while (posting_.load(std::memory_order_acquire) != 0) CpuRelax();
  if (wake_fd_ >= 0) close(wake_fd_);
}

void UringReactor::Run() {
  ring_.Enable();
  while (!stop_.load(std::memory_order_acquire)) Turn();
  stop_.store(false, std::memory_order_relaxed);
}

void UringReactor::Stop() {
  posting_.fetch_add(1, std::memory_order_relaxed);
  stop_.store(true, std::memory_order_seq_cst);
  if (sleeping_.load(std::memory_order_seq_cst)) Wake();
  posting_.fetch_sub(1, std::memory_order_release);
}

Time UringReactor::Now() const {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return Time(std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec));
}

void UringReactor::FillRandom(MutableBytes bytes) {
  while (!bytes.empty()) {
    ssize_t got = getrandom(bytes.data(), bytes.size(), 0);
    CountSyscall();
    UMBLOCK_ASSERT(got > 0 || errno == EINTR, "getrandom works once the system is up");
    if (got > 0) bytes = bytes.subspan(static_cast<size_t>(got));
  }
}

void UringReactor::Post(Completion* completion, int32_t result) {
  completion->result = result;
  ready_.PushBack(completion);
}

void UringReactor::PostAtTurnEnd(Completion* completion) { turn_end_.PushBack(completion); }

void UringReactor::PostFromAnyThread(Completion* completion, int32_t result) {
  completion->result = result;
  // Between the push and the bell this reactor may run the completion, end and be destroyed; its
  // destructor waits until nobody is in here.
  posting_.fetch_add(1, std::memory_order_relaxed);
  if (posted_.Push(completion) && sleeping_.load(std::memory_order_seq_cst)) Wake();
  posting_.fetch_sub(1, std::memory_order_release);
}

void UringReactor::Wake() {
  wakes_.fetch_add(1, std::memory_order_relaxed);
  uint64_t one = 1;
  // The counter is never read: the poll is told of every write, and 2^64 writes are far away.
  [[maybe_unused]] ssize_t written = write(wake_fd_, &one, sizeof one);
}

void UringReactor::ArmWake() {
  io_uring_sqe* entry = ring_.Entry();
  io_uring_prep_poll_multishot(entry, wake_fd_, POLLIN);
  Ring::Attach(entry, &wake_op_);
}

void UringReactor::OnWake(UringOp* op, int32_t, uint32_t flags) noexcept {
  UringReactor* reactor = static_cast<WakeOp*>(op)->reactor;
  if ((flags & IORING_CQE_F_MORE) == 0) reactor->ArmWake();
}

void UringReactor::Turn() {
  ++ring_.counters.turns;
  RunReady(Now() + kTurnLimit);
  RunTurnEnd();
  if (HasWork()) {
    ring_.Submit();
  } else {
    Wait();
  }
}

bool UringReactor::HasWork() const {
  return !ready_.empty() || !turn_end_.empty() || ring_.HasCompletions() || !posted_.empty() ||
         stop_.load(std::memory_order_relaxed);
}

void UringReactor::RunReady(Time deadline) {
  do {
    ring_.Reap(kReapBatch);
    TakePosted();
    if (!timers_.empty()) timers_.FireDue(Now(), kTimerBatch);
    if (!RunQueue(deadline)) {
      ++ring_.counters.cut_turns;
      return;
    }
  } while (!ready_.empty() || ring_.HasCompletions() || !posted_.empty());
}

void UringReactor::TakePosted() {
  Completion* next = posted_.TakeAll();
  while (next != nullptr) {
    Completion* completion = next;
    next = completion->next;
    ++ring_.counters.messages;
    ready_.PushBack(completion);
  }
}

// Runs what is ready now; what that makes ready comes after the next look at the ring, so that a
// loop that yields lets completions, messages and timers through. False: the time is over.
bool UringReactor::RunQueue(Time deadline) {
  CompletionList batch = ready_.TakeAll();
  int until_clock = kCompletionsPerClockRead;
  while (!batch.empty()) {
    Completion* completion = batch.PopFront();
    completion->fn(completion, completion->result);
    if (--until_clock > 0) continue;
    until_clock = kCompletionsPerClockRead;
    if (Now() >= deadline) {
      ready_.Prepend(std::move(batch));
      return false;
    }
  }
  return ready_.empty() || Now() < deadline;
}

void UringReactor::RunTurnEnd() {
  CompletionList hooks = turn_end_.TakeAll();
  while (!hooks.empty()) {
    Completion* hook = hooks.PopFront();
    hook->fn(hook, 0);
  }
}

void UringReactor::Wait() {
  std::optional<Time> wake_at = timers_.NextDeadline();
  Time since = Now();
  if (wake_at && *wake_at <= since) return ring_.Submit();
  if (spin_.ShouldSpin() && Spin(since, wake_at)) return;
  sleeping_.store(true, std::memory_order_seq_cst);
  if (posted_.empty() && !stop_.load(std::memory_order_seq_cst)) {
    ++ring_.counters.sleeps;
    std::optional<Duration> timeout;
    if (wake_at) timeout = *wake_at - since;
    ring_.SubmitAndWait(timeout);
  } else {
    ring_.Submit();
  }
  sleeping_.store(false, std::memory_order_relaxed);
  ring_.counters.wakes_sent = wakes_.load(std::memory_order_relaxed);
  if (options_.max_spin > Duration::zero()) spin_.Record(Now() - since);
}

// True if there is something to do now.
bool UringReactor::Spin(Time since, std::optional<Time> wake_at) {
  ring_.Submit();
  ++ring_.counters.spins;
  Time now = since;
  Time until = since + spin_.longest();
  if (wake_at) until = std::min(until, *wake_at);
  while (now < until) {
    for (int i = 0; i < kSpinsPerClockRead; ++i) {
      if (ring_.HasNews() || !posted_.empty() || stop_.load(std::memory_order_relaxed)) {
        ++ring_.counters.spins_paid;
        ring_.Submit();
        spin_.Record(Now() - since);
        return true;
      }
      CpuRelax();
    }
    now = Now();
  }
  return wake_at && *wake_at <= now;
}

Task<Result<std::unique_ptr<File>>> UringReactor::OpenFile(OpenFileRequest request) {
  return OpenUringFile(*this, std::move(request));
}

Task<Result<std::unique_ptr<Stream>>> UringReactor::Connect(ConnectRequest request,
                                                            CancelToken cancel) {
  return ConnectStream(*this, std::move(request), cancel);
}

Result<std::unique_ptr<Listener>> UringReactor::Listen(const ListenRequest& request) {
  return UringListener::Open(*this, request);
}

Task<Result<std::unique_ptr<MappedMemory>>> UringReactor::MapMemory(MapMemoryRequest request) {
  return MapSharedMemory(*this, std::move(request));
}

void UringReactor::StartBlocking(BlockingWork* work) { blocking_->Start(work, this); }

}  // namespace umblock
