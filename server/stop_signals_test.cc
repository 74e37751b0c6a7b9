// StopSignals in a process of its own, which is sent real signals.
#include "server/stop_signals.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

namespace umblock::server {
namespace {

void Send(int signal) { ::kill(::getpid(), signal); }

struct Process {
  StopSignals signals{&log};
  DaemonLog log{LogLevel::kInfo, LogFormat::kText, "n1"};
};

// Equal signals that are pending together are one.
void SendAndAwait(const StopSignals& signals, int signal) {
  Send(signal);
  while (!signals.asked()) std::this_thread::yield();
}

class StopSignalsTest : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(StopSignalsTest, TheFirstLetsWhatRunsEnd) {
  EXPECT_EXIT(
      {
        Process process;
        StopSignals& signals = process.signals;
        bool ended = false;
        Status status = signals.During([&] {
          Send(SIGHUP);
          SendAndAwait(signals, SIGTERM);
          ended = true;
          return Ok();
        });
        signals.WaitUntilAsked();  // it was
        process.log.Flush();
        std::_Exit(ended && status ? 7 : 1);
      },
      ::testing::ExitedWithCode(7), "a second signal ends it at once");
}

TEST_F(StopSignalsTest, TheSecondDuringAStepThatHangsEndsTheProcess) {
  EXPECT_EXIT(
      {
        Process process;
        StopSignals& signals = process.signals;
        (void)signals.During([&] {
          SendAndAwait(signals, SIGTERM);
          Send(SIGINT);
          for (;;) ::pause();
          return Ok();
        });
      },
      ::testing::ExitedWithCode(1), "ended at once by a second signal");
}

}  // namespace
}  // namespace umblock::server
