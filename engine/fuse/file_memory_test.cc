#include "engine/fuse/file_memory.h"

#include <gtest/gtest.h>

#include <thread>

namespace umblock {
namespace {

using std::chrono::milliseconds;

TEST(FileMemoryTest, TakesUpToItsLimit) {
  FileMemory memory(100);
  EXPECT_TRUE(memory.Take(60, milliseconds(0)));
  EXPECT_TRUE(memory.Take(40, milliseconds(0)));
  EXPECT_FALSE(memory.Take(1, milliseconds(0)));
  EXPECT_TRUE(memory.stalled());
  memory.Give(40);
  EXPECT_TRUE(memory.Take(30, milliseconds(0)));
  EXPECT_FALSE(memory.stalled());
}

TEST(FileMemoryTest, AStalledFileIsNotWaitedForAgain) {
  FileMemory memory(100);
  ASSERT_TRUE(memory.Take(100, milliseconds(0)));
  ASSERT_FALSE(memory.Take(1, milliseconds(1)));
  EXPECT_FALSE(memory.Take(1, std::chrono::hours(1)));
}

// It takes longer than the patience until there is room, and never that long until something ends.
TEST(FileMemoryTest, ASlowFileIsNotAStalledOne) {
  constexpr int kPieces = 40;
  FileMemory memory(kPieces);
  ASSERT_TRUE(memory.Take(kPieces, milliseconds(0)));
  std::thread device([&] {
    for (int i = 0; i < kPieces; ++i) {
      std::this_thread::sleep_for(milliseconds(20));
      memory.Give(1);
    }
  });
  EXPECT_TRUE(memory.Take(kPieces, milliseconds(400)));
  EXPECT_FALSE(memory.stalled());
  device.join();
}

}  // namespace
}  // namespace umblock
