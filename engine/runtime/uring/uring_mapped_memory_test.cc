#include "engine/runtime/uring/uring_mapped_memory.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "engine/runtime/uring/reactor_thread.h"

namespace umblock {
namespace {

class MappedMemoryTest : public testing::Test {
 protected:
  MappedMemoryTest() : thread_(*ReactorThread::Start({})), reactor_(thread_->reactor()) {
    char pattern[] = "/dev/shm/umblock-map-test.XXXXXX";
    directory_ = mkdtemp(pattern);
  }
  ~MappedMemoryTest() override { std::filesystem::remove_all(directory_); }

  Result<std::unique_ptr<MappedMemory>> Map(const char* name, uint64_t size, bool create) {
    MapMemoryRequest request{.path = directory_ + "/" + name, .size = size, .create = create};
    return thread_->RunTask([&] { return reactor_.MapMemory(request); });
  }
  void Close(MappedMemory& memory) {
    thread_->RunTask([&] { return memory.Close(); });
  }

  std::unique_ptr<ReactorThread> thread_;
  UringReactor& reactor_;
  std::string directory_;
};

TEST_F(MappedMemoryTest, ContentsOutliveTheMapping) {
  auto memory = Map("m", 1 << 20, true);
  ASSERT_TRUE(memory) << memory.error().ToString();
  ASSERT_EQ((*memory)->bytes().size(), 1u << 20);
  EXPECT_EQ((*memory)->bytes()[77], std::byte{0});
  memset((*memory)->bytes().data(), 0x5a, 1 << 20);
  Close(**memory);
  auto again = Map("m", 0, false);
  ASSERT_TRUE(again) << again.error().ToString();
  ASSERT_EQ((*again)->bytes().size(), 1u << 20);
  EXPECT_EQ((*again)->bytes()[(1 << 20) - 1], std::byte{0x5a});
  Close(**again);
}

TEST_F(MappedMemoryTest, AllOfItIsReserved) {
  auto memory = Map("m", 4 << 20, true);
  ASSERT_TRUE(memory);
  struct stat status;
  ASSERT_EQ(stat((directory_ + "/m").c_str(), &status), 0);
  EXPECT_GE(status.st_blocks * 512, 4 << 20);
  Close(**memory);
}

TEST_F(MappedMemoryTest, RefusesWhatCannotBe) {
  EXPECT_EQ(Map("missing", 4096, false).error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(Map("no/such", 4096, true).error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(Map("empty", 0, true).error().code(), ErrorCode::kInvalidArgument);
  auto memory = Map("m", 8192, true);
  ASSERT_TRUE(memory);
  EXPECT_EQ(Map("m", 8192, true).error().code(), ErrorCode::kFailedPrecondition) << "in use";
  Close(**memory);
  auto wrong = Map("m", 4096, true);
  EXPECT_EQ(wrong.error().code(), ErrorCode::kFailedPrecondition);
  EXPECT_NE(wrong.error().message().find("8192"), std::string::npos);
  auto huge = Map("huge", uint64_t{1} << 50, true);
  EXPECT_FALSE(huge);
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/huge"));
}

}  // namespace
}  // namespace umblock
