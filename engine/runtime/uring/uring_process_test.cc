#include "engine/runtime/uring/uring_process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "engine/runtime/uring/reactor_thread.h"

namespace umblock {
namespace {

class ProcessTest : public testing::Test {
 protected:
  ProcessTest()
      : thread_(*ReactorThread::Start({})), reactor_(thread_->reactor()), runner_(reactor_) {
    char pattern[] = "/tmp/umblock-process-test.XXXXXX";
    directory_ = mkdtemp(pattern);
  }
  ~ProcessTest() override { std::filesystem::remove_all(directory_); }

  std::string Script(const std::string& name, const std::string& body) {
    const std::string path = directory_ + "/" + name;
    std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
    chmod(path.c_str(), 0755);
    return path;
  }
  Result<ProcessResult> Run(ProcessRequest request) {
    return thread_->RunTask([&] { return runner_.Run(request, {}); });
  }
  Result<ProcessResult> RunScript(const std::string& body, Duration timeout = 60s) {
    return Run({.path = Script("script", body),
                .environment = {"PATH=/usr/bin:/bin"},
                .timeout = timeout});
  }
  // The pid that a script has written into a file of that name.
  pid_t PidIn(const std::string& name) {
    pid_t pid = 0;
    std::ifstream(directory_ + "/" + name) >> pid;
    return pid;
  }

  std::unique_ptr<ReactorThread> thread_;
  UringReactor& reactor_;
  UringProcessRunner runner_;
  std::string directory_;
};

TEST_F(ProcessTest, GivesTheExitCodeAndTheOutput) {
  auto result = RunScript("echo out; echo err >&2; exit 7");
  ASSERT_TRUE(result) << result.error().ToString();
  EXPECT_EQ(result->exit_code, 7);
  EXPECT_EQ(result->signal, 0);
  EXPECT_FALSE(result->timed_out);
  EXPECT_EQ(result->output, "out\nerr\n");
}

TEST_F(ProcessTest, NothingIsReadByAShell) {
  ProcessRequest request{.path = Script("a b;exit 9", "printf '%s|' \"$@\" \"$X\"; exit 3"),
                         .arguments = {"$(touch no)", "; exit 4", "a  b"},
                         .environment = {"X=`touch no`; $HOME", "PATH=/usr/bin:/bin"}};
  auto result = Run(request);
  ASSERT_TRUE(result) << result.error().ToString();
  EXPECT_EQ(result->exit_code, 3);
  EXPECT_EQ(result->output, "$(touch no)|; exit 4|a  b|`touch no`; $HOME|");
}

TEST_F(ProcessTest, TheProgramSeesNothingOfTheCaller) {
  signal(SIGPIPE, SIG_IGN);
  // Signals 1 to 28: those above belong to the C library.
  auto result = RunScript(
      "ls /proc/self/fd | tr '\\n' ' '; cat; echo; env | grep -v ^_ | grep -v ^PWD | sort | tr "
      "'\\n' ' '; pwd; grep -E 'SigBlk|SigIgn' /proc/$$/status | cut -c 18-");
  ASSERT_TRUE(result) << result.error().ToString();
  // 3 is what ls has opened to look.
  EXPECT_EQ(result->output, "0 1 2 3 \nPATH=/usr/bin:/bin /\n0000000\n0000000\n");
}

TEST_F(ProcessTest, ReportsTheSignalThatEndedIt) {
  auto result = RunScript("kill -SEGV $$");
  ASSERT_TRUE(result);
  EXPECT_EQ(result->exit_code, -1);
  EXPECT_EQ(result->signal, SIGSEGV);
}

TEST_F(ProcessTest, AProgramThatTakesTooLongIsEndedWithWhatItStarted) {
  auto result = RunScript("sleep 1000 & echo $! > " + directory_ + "/child; wait", 300ms);
  ASSERT_TRUE(result);
  EXPECT_TRUE(result->timed_out);
  EXPECT_EQ(result->exit_code, -1);
  EXPECT_EQ(result->signal, SIGTERM);
  const pid_t child = PidIn("child");
  ASSERT_GT(child, 1);
  // An orphan: whoever reaps it does so soon.
  for (int i = 0; i < 2000 && kill(child, 0) == 0; ++i) {
    std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
    std::string line;
    std::getline(stat, line);
    if (line.find(") Z ") != std::string::npos) break;
    usleep(1000);
  }
  std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
  std::string line;
  std::getline(stat, line);
  EXPECT_TRUE(line.empty() || line.find(") Z ") != std::string::npos) << line;
}

TEST_F(ProcessTest, AProgramThatIgnoresTheFirstSignalIsKilled) {
  auto result = RunScript("trap '' TERM; while :; do sleep 0.05; done", 200ms);
  ASSERT_TRUE(result);
  EXPECT_TRUE(result->timed_out);
  EXPECT_EQ(result->signal, SIGKILL);
}

TEST_F(ProcessTest, CancellingKillsAtOnce) {
  const std::string path = Script("endless", "trap '' TERM; while :; do sleep 0.05; done");
  auto result = thread_->RunTask([&]() -> Task<Result<ProcessResult>> {
    CancelSource source;
    TaskGroup group(reactor_);
    auto cancel = [](Reactor& r, CancelSource& s) -> Task<void> {
      co_await Sleep(r, 50ms);
      s.Cancel();
    };
    group.Spawn(cancel(reactor_, source));
    auto ended =
        co_await runner_.Run({.path = path, .environment = {"PATH=/usr/bin:/bin"}}, source);
    co_await group.Join();
    co_return ended;
  });
  ASSERT_TRUE(result);
  EXPECT_TRUE(result->cancelled);
  EXPECT_EQ(result->signal, SIGKILL);
}

TEST_F(ProcessTest, OutputIsBoundedAndNeverBlocksTheProgram) {
  ProcessRequest request{.path = Script("loud", "head -c 1000000 /dev/zero; exit 5"),
                         .environment = {"PATH=/usr/bin:/bin"},
                         .max_output = 1000};
  auto result = Run(request);
  ASSERT_TRUE(result);
  EXPECT_EQ(result->exit_code, 5);
  EXPECT_EQ(result->output.size(), 1000u);
}

TEST_F(ProcessTest, WhatItLeavesBehindIsNotWaitedFor) {
  auto result = RunScript("(sleep 30) & echo $! > " + directory_ + "/left; exit 4");
  ASSERT_TRUE(result);
  EXPECT_EQ(result->exit_code, 4);
  EXPECT_FALSE(result->timed_out);
  kill(PidIn("left"), SIGKILL);
}

TEST_F(ProcessTest, WhatCannotBeStartedIsAnError) {
  EXPECT_EQ(Run({.path = directory_ + "/missing"}).error().code(), ErrorCode::kNotFound);
  const std::string path = directory_ + "/plain";
  std::ofstream(path) << "x";
  EXPECT_EQ(Run({.path = path}).error().code(), ErrorCode::kPermissionDenied);
}

TEST_F(ProcessTest, ABoundedNumberRunsAtATime) {
  constexpr int kPrograms = UringProcessRunner::kMaxRunning + 8;
  const std::string path =
      Script("count", "mkdir " + directory_ + "/n.$$; ls " + directory_ +
                          " | grep -c '^n' ; sleep 0.2; rmdir " + directory_ + "/n.$$");
  int most = 0;
  int done = 0;
  thread_->RunTask([&]() -> Task<void> {
    TaskGroup group(reactor_);
    auto one = [](ProcessRunner& r, const std::string& p, int* m, int* d) -> Task<void> {
      auto result = co_await r.Run({.path = p, .environment = {"PATH=/usr/bin:/bin"}}, {});
      if (!result || result->exit_code != 0) co_return;
      *m = std::max(*m, std::atoi(result->output.c_str()));
      ++*d;
    };
    for (int i = 0; i < kPrograms; ++i) group.Spawn(one(runner_, path, &most, &done));
    co_await group.Join();
  });
  EXPECT_EQ(done, kPrograms);
  EXPECT_LE(most, UringProcessRunner::kMaxRunning);
}

}  // namespace
}  // namespace umblock
