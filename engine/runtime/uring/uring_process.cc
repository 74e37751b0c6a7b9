#include "engine/runtime/uring/uring_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>

#include "engine/base/assert.h"
#include "engine/runtime/blocking.h"
#include "engine/runtime/uring/op_awaiter.h"
#include "engine/runtime/uring/socket_util.h"

namespace umblock {
namespace {

constexpr Duration kGrace = 2s;  // between SIGTERM and SIGKILL

// posix_spawn's descriptions of what the new process has, freed at the end.
class SpawnPlan {
 public:
  SpawnPlan() {
    posix_spawn_file_actions_init(&actions_);
    posix_spawnattr_init(&attributes_);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }

  // An error number, or 0.
  int Prepare(int output) {
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    const short flags = POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
    for (int error :
         {posix_spawnattr_setflags(&attributes_, flags), posix_spawnattr_setpgroup(&attributes_, 0),
          posix_spawnattr_setsigmask(&attributes_, &none),
          posix_spawnattr_setsigdefault(&attributes_, &all),
          posix_spawn_file_actions_addopen(&actions_, 0, "/dev/null", O_RDONLY, 0),
          posix_spawn_file_actions_adddup2(&actions_, output, 1),
          posix_spawn_file_actions_adddup2(&actions_, output, 2),
          posix_spawn_file_actions_addclosefrom_np(&actions_, 3),
          posix_spawn_file_actions_addchdir_np(&actions_, "/")}) {
      if (error != 0) return error;
    }
    return 0;
  }

  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

std::vector<char*> Pointers(const std::string* first, const std::vector<std::string>& rest) {
  std::vector<char*> list;
  if (first != nullptr) list.push_back(const_cast<char*>(first->c_str()));
  for (const std::string& text : rest) list.push_back(const_cast<char*>(text.c_str()));
  list.push_back(nullptr);
  return list;
}

struct Child {
  pid_t pid = -1;
  OwnedFd pidfd;
  OwnedFd output;  // the end that is read, non-blocking
};

// On a thread that may block. An error number, or 0.
int Spawn(const ProcessRequest& request, Child* child) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno;
  child->output = OwnedFd(ends[0]);
  OwnedFd write_end(ends[1]);
  if (fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0) return errno;
  SpawnPlan plan;
  if (int error = plan.Prepare(write_end.get()); error != 0) return error;
  std::vector<char*> arguments = Pointers(&request.path, request.arguments);
  std::vector<char*> environment = Pointers(nullptr, request.environment);
  int error = posix_spawn(&child->pid, request.path.c_str(), &plan.actions_, &plan.attributes_,
                          arguments.data(), environment.data());
  if (error != 0) return error;
  // Nobody else reaps it: the number is its own until waitid.
  child->pidfd = OwnedFd(static_cast<int>(syscall(SYS_pidfd_open, child->pid, 0)));
  if (child->pidfd.get() >= 0) return 0;
  error = errno;
  kill(-child->pid, SIGKILL);
  waitpid(child->pid, nullptr, 0);
  return error;
}

// Takes what is there. False: that was all there will ever be.
// At most what a pipe holds in one turn: who never stops writing does not hold the reactor.
bool Drain(int fd, uint32_t limit, std::string* output) {
  std::array<char, 4096> chunk;
  for (int turn = 0; turn < 16; ++turn) {
    ssize_t got = read(fd, chunk.data(), chunk.size());
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    const size_t room = limit - std::min<size_t>(limit, output->size());
    output->append(chunk.data(), std::min<size_t>(room, static_cast<size_t>(got)));
  }
  return true;
}

Task<void> ReadOutput(UringReactor* reactor, int fd, uint32_t limit, std::string* output,
                      CancelToken cancel) {
  while (!cancel.requested()) {
    OpOutcome outcome = co_await OpAwaiter(*reactor, cancel, std::nullopt, [fd](io_uring_sqe* e) {
      io_uring_prep_poll_add(e, fd, POLLIN);
    });
    if (outcome.result < 0 || !Drain(fd, limit, output)) co_return;
  }
}

// True: it has ended. False: `timeout` or the token came first.
Task<bool> AwaitEnd(UringReactor* reactor, int pidfd, CancelToken cancel,
                    std::optional<Duration> timeout, WakeReason* reason) {
  OpOutcome outcome = co_await OpAwaiter(*reactor, cancel, timeout, [pidfd](io_uring_sqe* e) {
    io_uring_prep_poll_add(e, pidfd, POLLIN);
  });
  *reason = outcome.reason;
  co_return outcome.result > 0;
}

void Reap(const Child& child, ProcessResult* result) {
  siginfo_t info{};
  UMBLOCK_ASSERT(waitid(P_PIDFD, static_cast<id_t>(child.pidfd.get()), &info, WEXITED) == 0,
                 "a program that was started is waited for once");
  if (info.si_code == CLD_EXITED) {
    result->exit_code = info.si_status;
  } else {
    result->signal = info.si_status;
  }
}

}  // namespace

Task<Result<ProcessResult>> UringProcessRunner::Run(ProcessRequest request, CancelToken cancel) {
  if (waiting_ >= kMaxWaiting) {
    co_return MakeError(ErrorCode::kResourceExhausted, "{}: {} programs wait to be started already",
                        request.path, waiting_);
  }
  ++waiting_;
  while (running_ >= kMaxRunning && !cancel.requested()) co_await ended_.Wait(cancel);
  --waiting_;
  if (cancel.requested()) {
    co_return MakeError(ErrorCode::kCancelled, "{}: not started, nobody waits for it any more",
                        request.path);
  }
  ++running_;
  Result<ProcessResult> result = co_await Supervise(request, cancel);
  --running_;
  ended_.NotifyOne();
  co_return result;
}

Task<Result<ProcessResult>> UringProcessRunner::Supervise(const ProcessRequest& request,
                                                          CancelToken cancel) {
  Child child;
  const int error =
      co_await RunBlocking(reactor_, [&request, &child] { return Spawn(request, &child); });
  if (error != 0) co_return std::unexpected(Error::FromErrno(error, "start " + request.path));
  ProcessResult result;
  TaskGroup reading(reactor_);
  reading.Spawn(ReadOutput(&reactor_, child.output.get(), request.max_output, &result.output,
                           reading.token()));
  WakeReason reason = WakeReason::kNotified;
  bool ended = co_await AwaitEnd(&reactor_, child.pidfd.get(), cancel, request.timeout, &reason);
  if (!ended) {
    result.timed_out = reason == WakeReason::kTimeout;
    result.cancelled = reason == WakeReason::kCancelled;
    if (result.timed_out) {
      kill(-child.pid, SIGTERM);
      ended = co_await AwaitEnd(&reactor_, child.pidfd.get(), cancel, kGrace, &reason);
    }
    if (!ended) kill(-child.pid, SIGKILL);
    while (!ended) {
      ended = co_await AwaitEnd(&reactor_, child.pidfd.get(), {}, std::nullopt, &reason);
    }
  }
  // Something that it has left behind may hold the pipe open: what is there now is all.
  reading.Cancel();
  co_await reading.Join();
  (void)Drain(child.output.get(), request.max_output, &result.output);
  Reap(child, &result);
  co_return result;
}

}  // namespace umblock
