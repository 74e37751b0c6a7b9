#include "server/stop_signals.h"

#include <unistd.h>

namespace umblock::server {

StopSignals::StopSignals(DaemonLog* log) : log_(log) {
  sigemptyset(&signals_);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, kStepEnded}) sigaddset(&signals_, signal);
  ::pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
}

void StopSignals::WaitUntilAsked() {
  while (!asked()) Take();
}

void StopSignals::Take() {
  siginfo_t info = {};
  if (::sigwaitinfo(&signals_, &info) < 0) return;
  if (info.si_signo == kStepEnded || info.si_signo == SIGHUP) return;
  if (asked()) {
    log_->Warn("umblockd: ended at once by a second signal");
    log_->Flush();
    ::_exit(1);
  }
  asked_.store(true, std::memory_order_release);
  log_->Info("umblockd: stopping; a second signal ends it at once");
}

}  // namespace umblock::server
