// What a daemon says where io_uring_setup is forbidden, as in a container with a default seccomp
// profile.
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <string>

#include "engine/runtime/uring/uring_reactor.h"

namespace umblock {
namespace {

// From now on io_uring_setup fails in this process with `error`.
bool DenyIoUringSetup(int error) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog filter{sizeof program / sizeof program[0], program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

// What Create says in a child process that is not allowed io_uring.
std::string MessageWhenDenied(int error) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  pid_t child = fork();
  if (child == 0) {
    std::string text = "no filter";
    if (DenyIoUringSetup(error)) {
      auto reactor = UringReactor::Create({});
      text = reactor ? "it started" : reactor.error().ToString();
    }
    bool written = write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
    _exit(written ? 0 : 1);
  }
  close(ends[1]);
  std::string text;
  char chunk[512];
  for (ssize_t got; (got = read(ends[0], chunk, sizeof chunk)) > 0;) {
    text.append(chunk, static_cast<size_t>(got));
  }
  close(ends[0]);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  return text;
}

TEST(UringDeniedTest, EpermNamesTheCauseAndTheRemedy) {
  std::string message = MessageWhenDenied(EPERM);
  EXPECT_TRUE(message.starts_with("permission_denied: io_uring is not permitted here")) << message;
  for (const char* part : {"seccomp profile", "kernel.io_uring_disabled", "EPERM",
                           "--security-opt seccomp=", "kernel.io_uring_disabled=0"}) {
    EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
  }
}

TEST(UringDeniedTest, EnosysNamesTheCauseAndTheRemedy) {
  std::string message = MessageWhenDenied(ENOSYS);
  EXPECT_TRUE(message.starts_with("unimplemented: io_uring is not permitted here")) << message;
  for (const char* part : {"seccomp profile", "ENOSYS", "--security-opt seccomp=", "5.11"}) {
    EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
  }
}

TEST(UringDeniedTest, OtherFailuresAreNotCalledForbidden) {
  EXPECT_NE(MessageWhenDenied(ENOMEM).find("memlock"), std::string::npos);
  EXPECT_EQ(MessageWhenDenied(EMFILE).find("permitted"), std::string::npos);
}

}  // namespace
}  // namespace umblock
