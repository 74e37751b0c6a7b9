#include "engine/fuse/mount_check.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace umblock {
namespace {

namespace fs = std::filesystem;

// A made-up /sys in which the file system that holds `directory_` is a block device with a history.
class MountCheckTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/umblock-check-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    struct stat info;
    ASSERT_EQ(stat(name, &info), 0);
    here_ = info.st_dev;
    ASSERT_EQ(stat("/proc", &info), 0);
    elsewhere_ = info.st_dev;
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string Numbers(dev_t device) {
    return std::to_string(major(device)) + ":" + std::to_string(minor(device));
  }
  void Put(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(directory_ / path).parent_path());
    std::ofstream(directory_ / path) << text << "\n";
  }
  bool Check(const std::string& path, dev_t target) {
    return LiesOnDevice(path, target, directory_.string());
  }

  fs::path directory_;
  dev_t here_ = 0;
  dev_t elsewhere_ = 0;
};

TEST_F(MountCheckTest, AFileLiesOnItsFileSystem) {
  EXPECT_TRUE(Check(directory_ / "new-file", here_));
  EXPECT_TRUE(Check(directory_, here_));
  EXPECT_FALSE(Check(directory_, elsewhere_));
  EXPECT_FALSE(Check("/no/such/place/at/all", here_));
}

TEST_F(MountCheckTest, LooksThroughALoopDevice) {
  Put("dev/block/" + Numbers(here_) + "/loop/backing_file", "/proc/version");
  EXPECT_TRUE(Check(directory_, elsewhere_));
  EXPECT_FALSE(Check(directory_, makedev(1000, 1)));
}

TEST_F(MountCheckTest, LooksThroughSlavesAndPartitions) {
  std::string device = "dev/block/" + Numbers(here_);
  Put("dev/block/253:7/marker", "");
  Put(device + "/slaves/loop77p1/dev", "7:777");
  Put("loop77/loop77p1/partition", "1");
  Put("loop77/loop/backing_file", "/proc/version");
  fs::create_directory_symlink(directory_ / "loop77/loop77p1", directory_ / "dev/block/7:777");
  EXPECT_TRUE(Check(directory_, elsewhere_));
}

TEST_F(MountCheckTest, ACircleEnds) {
  Put("dev/block/" + Numbers(here_) + "/slaves/self/dev", Numbers(here_));
  EXPECT_FALSE(Check(directory_, elsewhere_));
}

}  // namespace
}  // namespace umblock
