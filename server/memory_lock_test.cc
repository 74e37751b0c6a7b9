// Locking memory, in processes of their own, since it and its limits are a process's.
#include "server/memory_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>

#include "engine/base/assert.h"

namespace umblock::server {
namespace {

using ::testing::HasSubstr;

void Limit(rlim_t bytes) {
  const rlimit limit{bytes, bytes};
  UMBLOCK_ASSERT(::setrlimit(RLIMIT_MEMLOCK, &limit) == 0, "a limit can be lowered");
}

bool Has(unsigned which) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  ::syscall(SYS_capget, &header, data);
  return (data[which / 32].effective & (1u << which % 32)) != 0;
}

void DropCapability(unsigned which) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  ::syscall(SYS_capget, &header, data);
  data[which / 32].effective &= ~(1u << which % 32);
  UMBLOCK_ASSERT(::syscall(SYS_capset, &header, data) == 0, "a capability can be dropped");
}

uint64_t LockedKib() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word == "VmLck:") break;
  }
  uint64_t kib = 0;
  status >> kib;
  return kib;
}

// As a ram backend or a pool of buffers does.
bool CanMap(size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return false;
  static_cast<char*>(memory)[bytes / 2] = 1;
  return true;
}

template <typename Body>
void InAProcessOfItsOwn(Body body) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        body();
        std::_Exit(::testing::Test::HasFailure() ? 1 : 0);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST(MemoryLock, UnderALimitNothingIsLockedAndMappingGoesOn) {
  InAProcessOfItsOwn([] {
    Limit(8 << 20);
    DropCapability(CAP_IPC_LOCK);
    std::string reason;
    const Result<bool> locked = LockMemoryOfProcess(LockMemory::kAuto, &reason);
    ASSERT_TRUE(locked);
    EXPECT_FALSE(*locked);
    EXPECT_THAT(reason, HasSubstr("only 8192 KiB"));
    EXPECT_THAT(reason, HasSubstr("ulimit -l unlimited"));
    EXPECT_EQ(LockedKib(), 0u);
    EXPECT_TRUE(CanMap(size_t{1} << 30));
  });
}

TEST(MemoryLock, WhereItIsDemandedALimitIsAnError) {
  InAProcessOfItsOwn([] {
    Limit(8 << 20);
    DropCapability(CAP_IPC_LOCK);
    std::string reason;
    const Result<bool> locked = LockMemoryOfProcess(LockMemory::kOn, &reason);
    ASSERT_FALSE(locked);
    EXPECT_THAT(locked.error().message(), HasSubstr("--lock-memory on"));
    EXPECT_THAT(locked.error().message(), HasSubstr("CAP_IPC_LOCK"));
  });
}

// Locked on the first touch: address space costs nothing.
void ExpectItLocks() {
  std::string reason;
  const Result<bool> locked = LockMemoryOfProcess(LockMemory::kAuto, &reason);
  ASSERT_TRUE(locked);
  EXPECT_TRUE(*locked) << reason;
  EXPECT_GT(LockedKib(), 0u);
  EXPECT_TRUE(CanMap(size_t{1} << 30));
  EXPECT_GT(LockedKib(), 1u << 20) << "what is mapped later is locked too";
}

TEST(MemoryLock, WithoutALimitAllIsLocked) {
  if (!Has(CAP_SYS_RESOURCE)) GTEST_SKIP() << "needs to raise its limit (CAP_SYS_RESOURCE)";
  InAProcessOfItsOwn([] {
    const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
    ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &none), 0);
    DropCapability(CAP_IPC_LOCK);
    ExpectItLocks();
  });
}

TEST(MemoryLock, TheCapabilityLiftsTheLimit) {
  if (!Has(CAP_IPC_LOCK)) GTEST_SKIP() << "needs CAP_IPC_LOCK";
  InAProcessOfItsOwn([] {
    Limit(8 << 20);
    ExpectItLocks();
  });
}

TEST(MemoryLock, OffIsOff) {
  InAProcessOfItsOwn([] {
    std::string reason;
    const Result<bool> locked = LockMemoryOfProcess(LockMemory::kOff, &reason);
    ASSERT_TRUE(locked);
    EXPECT_FALSE(*locked);
    EXPECT_EQ(LockedKib(), 0u);
  });
}

TEST(MemoryLock, AnIoFlusherNeedsItsCapability) {
  InAProcessOfItsOwn([] {
    const bool permitted = Has(CAP_SYS_RESOURCE);
    EXPECT_EQ(BecomeIoFlusher(), permitted);
    if (permitted) {
      DropCapability(CAP_SYS_RESOURCE);
      EXPECT_FALSE(BecomeIoFlusher());
    }
  });
}

}  // namespace
}  // namespace umblock::server
