// FuseMount through the kernel: real mounts, real loop devices, a device in memory underneath.
#include "engine/fuse/fuse_mount.h"

#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <random>
#include <set>
#include <thread>

#include "engine/fuse/testing/mount_fixture.h"

namespace umblock {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

TEST_F(FuseMountTest, ShowsARegularFileOfTheVolumesSize) {
  StartWithFile();
  struct stat info;
  ASSERT_EQ(stat(Path().c_str(), &info), 0);
  EXPECT_TRUE(S_ISREG(info.st_mode));
  EXPECT_EQ(static_cast<uint64_t>(info.st_size), kSize);
  EXPECT_EQ(info.st_mode & 0777u, 0600u);
  EXPECT_NE(stat(Path("other").c_str(), &info), 0);
  EXPECT_EQ(errno, ENOENT);

  MemoryDevice second(reactor_->reactor(), "volume r1/0", kMiB);
  ASSERT_TRUE(Add("r1-0", &second).has_value());
  std::set<std::string> names;
  DIR* directory = opendir(mountpoint_.c_str());
  ASSERT_NE(directory, nullptr);
  while (dirent* entry = readdir(directory)) names.insert(entry->d_name);
  closedir(directory);
  EXPECT_THAT(names, UnorderedElementsAre(".", "..", "r0-0", "r1-0"));
  struct statvfs file_system;
  ASSERT_EQ(statvfs(mountpoint_.c_str(), &file_system), 0);
  EXPECT_EQ(file_system.f_bsize * file_system.f_blocks, kSize + kMiB);
  ASSERT_TRUE(Remove("r1-0", false).has_value());
  EXPECT_NE(stat(Path("r1-0").c_str(), &info), 0);
}

TEST_F(FuseMountTest, ListsMoreFilesThanOneReplyHolds) {
  Start();
  std::vector<std::unique_ptr<MemoryDevice>> devices;
  for (int i = 0; i < 200; ++i) {
    devices.push_back(std::make_unique<MemoryDevice>(reactor_->reactor(), "v", 512));
    ASSERT_TRUE(Add(std::string(60, 'v') + std::to_string(i), devices.back().get()).has_value());
  }
  size_t count = 0;
  DIR* directory = opendir(mountpoint_.c_str());
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  EXPECT_EQ(count, 202u);
  ASSERT_TRUE(Stop().has_value());
}

TEST_F(FuseMountTest, FollowsTheVolumesSize) {
  StartWithFile();
  reactor_->Run<bool>([&]() -> Task<bool> {
    device_->Resize(2 * kSize);
    co_return true;
  });
  struct stat info;
  ASSERT_EQ(stat(Path().c_str(), &info), 0);
  EXPECT_EQ(static_cast<uint64_t>(info.st_size), 2 * kSize);
}

TEST_F(FuseMountTest, PassesLargePayloadsOnWithoutCopyingThem) {
  StartWithFile();
  Fd file(Path(), O_RDWR);
  ASSERT_NE(file.get(), -1);
  const auto data = Pattern(kMiB, 1);
  const PageMemory from(data, 0);
  ASSERT_EQ(pwrite(file.get(), from.data(), kMiB, 4 * kMiB), ssize_t(kMiB));
  EXPECT_TRUE(Holds(4 * kMiB, data));
  uint64_t written = 0;
  for (const RecordedIo& io : device_->TakeRecord()) {
    EXPECT_EQ(io.op, IoOp::kWrite);
    EXPECT_TRUE(io.page_aligned);
    EXPECT_FALSE(io.fua);
    written += io.length;
  }
  EXPECT_EQ(written, kMiB);
  const PageMemory back(kMiB);
  ASSERT_EQ(pread(file.get(), back.data(), kMiB, 4 * kMiB), ssize_t(kMiB));
  EXPECT_TRUE(back == data);
  for (const RecordedIo& io : device_->TakeRecord()) EXPECT_TRUE(io.page_aligned);
  EXPECT_EQ(GetStatus().files[0].copied_bytes, 0u);
}

// As from malloc: the kernel hands it over in pieces that end within a sector.
TEST_F(FuseMountTest, OfMemoryThatBeginsWithinAPageOnlySectorsThatAreCutAreCopied) {
  StartWithFile();
  Fd file(Path(), O_RDWR);
  const auto data = Pattern(kMiB, 1);
  const PageMemory from(data, 16);
  ASSERT_EQ(pwrite(file.get(), from.data(), kMiB, 4 * kMiB), ssize_t(kMiB));
  EXPECT_TRUE(Holds(4 * kMiB, data));
  const PageMemory back(kMiB, 16);
  ASSERT_EQ(pread(file.get(), back.data(), kMiB, 4 * kMiB), ssize_t(kMiB));
  EXPECT_TRUE(back == data);
  EXPECT_LE(GetStatus().files[0].copied_bytes, 2048u);
}

TEST_F(FuseMountTest, TakesAnyByteOffsetAndLength) {
  StartWithFile();
  Fd file(Path(), O_RDWR);
  std::vector<std::byte> model(4 * kMiB);
  std::mt19937 random(7);
  for (unsigned i = 0; i < 300; ++i) {
    size_t limit = i % 20 == 0 ? 1500000 : 5000;
    size_t length = 1 + random() % limit;
    size_t offset = random() % (model.size() - length);
    if (i % 3 == 0) {
      std::vector<std::byte> back(length);
      ASSERT_EQ(pread(file.get(), back.data(), length, off_t(offset)), ssize_t(length));
      ASSERT_EQ(std::memcmp(back.data(), model.data() + offset, length), 0) << i;
    } else {
      auto data = Pattern(length, i);
      ASSERT_EQ(pwrite(file.get(), data.data(), length, off_t(offset)), ssize_t(length));
      std::copy(data.begin(), data.end(), model.begin() + ptrdiff_t(offset));
    }
  }
  EXPECT_TRUE(Holds(0, model));
  EXPECT_GT(GetStatus().files[0].unaligned, 0u);
}

TEST_F(FuseMountTest, ConcurrentWritesWithinOneSectorLoseNothing) {
  StartWithFile();
  std::vector<std::thread> writers;
  for (int writer = 0; writer < 4; ++writer) {
    writers.emplace_back([&, writer] {
      Fd file(Path(), O_RDWR);
      for (int i = 0; i < 128; ++i) {
        auto value = static_cast<std::byte>(writer + 1);
        ASSERT_EQ(pwrite(file.get(), &value, 1, i * 4 + writer), 1);
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  auto sector = device_->Contents(0, 512);
  for (size_t i = 0; i < 512; ++i) ASSERT_EQ(sector[i], static_cast<std::byte>(i % 4 + 1));
}

TEST_F(FuseMountTest, FsyncIsAFlushAndSynchronousWritesAreFua) {
  StartWithFile();
  std::vector<std::byte> block(4096);
  {
    Fd file(Path(), O_RDWR);
    ASSERT_EQ(pwrite(file.get(), block.data(), block.size(), 0), 4096);
    ASSERT_EQ(fsync(file.get()), 0);
    ASSERT_EQ(fdatasync(file.get()), 0);
  }
  for (int flag : {O_SYNC, O_DSYNC}) {
    Fd file(Path(), O_RDWR | flag);
    ASSERT_EQ(pwrite(file.get(), block.data(), block.size(), 0), 4096);
    ASSERT_EQ(pwrite(file.get(), block.data(), 3, 1), 3);
  }
  std::vector<std::pair<IoOp, bool>> seen;
  for (const RecordedIo& io : device_->TakeRecord()) {
    if (io.op != IoOp::kRead) seen.emplace_back(io.op, io.fua);
  }
  using P = std::pair<IoOp, bool>;
  EXPECT_EQ(seen[0], P(IoOp::kWrite, false));
  EXPECT_EQ(seen[1], P(IoOp::kFlush, false));
  EXPECT_EQ(seen[2], P(IoOp::kFlush, false));
  int fua = 0;
  for (const P& one : seen) fua += one == P(IoOp::kWrite, true) ? 1 : 0;
  EXPECT_EQ(fua, 4);
}

TEST_F(FuseMountTest, AFlushErrorReachesFsync) {
  StartWithFile();
  Fd file(Path(), O_RDWR);
  device_->set_error(EIO);
  EXPECT_EQ(fsync(file.get()), -1);
  EXPECT_EQ(errno, EIO);
}

TEST_F(FuseMountTest, FallocatePunchesHolesAndZeroes) {
  StartWithFile();
  Fd file(Path(), O_RDWR);
  device_->Fill(0, kMiB, std::byte{0xee});
  device_->TakeRecord();
  ASSERT_EQ(fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 65536), 0);
  ASSERT_EQ(fallocate(file.get(), FALLOC_FL_ZERO_RANGE, 131072, 4096), 0);
  auto record = device_->TakeRecord();
  ASSERT_THAT(record, SizeIs(2));
  EXPECT_EQ(record[0].op, IoOp::kWriteZeroes);
  EXPECT_TRUE(record[0].may_unmap);
  EXPECT_EQ(record[1].op, IoOp::kWriteZeroes);
  EXPECT_FALSE(record[1].may_unmap);

  // Unaligned ends keep the bytes around them.
  ASSERT_EQ(fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 200001, 5000), 0);
  ASSERT_EQ(fallocate(file.get(), FALLOC_FL_ZERO_RANGE, 300100, 50), 0);
  auto contents = device_->Contents(0, kMiB);
  for (uint64_t i = 0; i < kMiB; ++i) {
    bool zero = (i >= 4096 && i < 4096 + 65536) || (i >= 131072 && i < 131072 + 4096) ||
                (i >= 200001 && i < 205001) || (i >= 300100 && i < 300150);
    ASSERT_EQ(contents[i], zero ? std::byte{0} : std::byte{0xee}) << i;
  }
  EXPECT_EQ(fallocate(file.get(), 0, 0, 4096), -1);
  EXPECT_EQ(errno, EOPNOTSUPP);
  EXPECT_EQ(fallocate(file.get(), FALLOC_FL_ZERO_RANGE, kSize - 4096, 8192), -1);
  EXPECT_EQ(errno, ENOSPC);
}

TEST_F(FuseMountTest, AHoleIsADiscardWhereDiscardedMeansZero) {
  device_->mutable_geometry().can_discard = true;
  device_->mutable_geometry().discard_reads_zeroes = true;
  StartWithFile();
  Fd file(Path(), O_RDWR);
  ASSERT_EQ(fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kMiB), 0);
  auto record = device_->TakeRecord();
  ASSERT_THAT(record, SizeIs(1));
  EXPECT_EQ(record[0].op, IoOp::kDiscard);
}

TEST_F(FuseMountTest, ASecondaryIsNotOpened) {
  StartWithFile();
  device_->set_access(Access::kStandby);
  EXPECT_EQ(Fd(Path(), O_RDWR).error(), EROFS);
  EXPECT_EQ(Fd(Path(), O_WRONLY).error(), EROFS);
  EXPECT_EQ(Fd(Path(), O_RDONLY).error(), EAGAIN);
  device_->set_access(Access::kUnavailable);
  EXPECT_EQ(Fd(Path(), O_RDWR).error(), ENODEV);
  device_->set_access(Access::kReadWrite);
  EXPECT_EQ(Fd(Path(), O_RDWR).error(), 0);
}

TEST_F(FuseMountTest, AReadOnlyFileIsNotOpenedForWriting) {
  Start();
  ASSERT_TRUE(
      reactor_
          ->Run<Status>([&] { return mount_->AddFile("r0-0", device_.get(), {.read_only = true}); })
          .has_value());
  EXPECT_EQ(Fd(Path(), O_RDWR).error(), EROFS);
  EXPECT_EQ(Fd(Path(), O_RDONLY).error(), 0);
  struct stat info;
  ASSERT_EQ(stat(Path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0400u);
}

TEST_F(FuseMountTest, OpenersAreNamedUntilTheyClose) {
  StartWithFile();
  auto who = [&] {
    return reactor_->Run<std::vector<Opener>>(
        [&]() -> Task<std::vector<Opener>> { co_return device_->openers(); });
  };
  EXPECT_THAT(who(), SizeIs(0));
  {
    Fd reader(Path(), O_RDONLY);
    Fd writer(Path(), O_RDWR);
    auto openers = who();
    ASSERT_THAT(openers, SizeIs(2));
    EXPECT_FALSE(openers[0].write);
    EXPECT_TRUE(openers[1].write);
    EXPECT_THAT(openers[0].description,
                HasSubstr("fuse r0-0 pid " + std::to_string(getpid()) + " ("));
    EXPECT_EQ(GetStatus().files[0].openers.size(), 2u);
  }
  AwaitOpeners(0);
  EXPECT_THAT(who(), SizeIs(0));
}

TEST_F(FuseMountTest, AnOpenFileIsRemovedOnlyByForce) {
  StartWithFile();
  Fd file(Path(), O_RDWR);
  Status refused = Remove("r0-0", false);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), ErrorCode::kFailedPrecondition);
  EXPECT_THAT(refused.error().message(), HasSubstr("pid " + std::to_string(getpid())));
  char byte = 0;
  EXPECT_EQ(pread(file.get(), &byte, 1, 0), 1);

  ASSERT_TRUE(Remove("r0-0", true).has_value());
  EXPECT_EQ(pread(file.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, ENODEV);
  EXPECT_EQ(Fd(Path(), O_RDONLY).error(), ENOENT);
  EXPECT_THAT(device_->openers(), SizeIs(0));
  // The name is free again, and the old handle does not reach the new file.
  ASSERT_TRUE(Add("r0-0", device_.get()).has_value());
  EXPECT_EQ(pread(file.get(), &byte, 1, 0), -1);
  Fd again(Path(), O_RDWR);
  EXPECT_EQ(pread(again.get(), &byte, 1, 0), 1);
  again.Close();
  file.Close();
}

TEST_F(FuseMountTest, TheEndIsTheEnd) {
  StartWithFile();
  Fd file(Path(), O_RDWR);
  std::vector<std::byte> block(8192);
  EXPECT_EQ(pwrite(file.get(), block.data(), block.size(), kSize - 4096), 4096);
  EXPECT_EQ(pwrite(file.get(), block.data(), block.size(), kSize), -1);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(pread(file.get(), block.data(), block.size(), kSize - 100), 100);
  EXPECT_EQ(pread(file.get(), block.data(), block.size(), kSize), 0);
  EXPECT_EQ(pread(file.get(), block.data(), block.size(), kSize + 4096), 0);
}

TEST_F(FuseMountTest, DeviceErrorsKeepTheirErrno) {
  StartWithFile();
  Fd file(Path(), O_RDWR);
  std::vector<std::byte> block(4096);
  for (int error : {EIO, ENOSPC, EROFS}) {
    device_->set_error(error);
    EXPECT_EQ(pwrite(file.get(), block.data(), block.size(), 0), -1);
    EXPECT_EQ(errno, error);
    EXPECT_EQ(pwrite(file.get(), block.data(), 10, 10), -1);
    EXPECT_EQ(errno, error);
    EXPECT_EQ(pread(file.get(), block.data(), block.size(), 0), -1);
    EXPECT_EQ(errno, error);
  }
  EXPECT_EQ(GetStatus().files[0].errors, 9u);
}

TEST_F(FuseMountTest, NothingButTheContentsCanBeChanged) {
  StartWithFile();
  device_->Fill(0, 4096, std::byte{0xaa});
  {
    Fd file(Path(), O_WRONLY | O_TRUNC);  // as cp and dd open what they write to
    ASSERT_NE(file.get(), -1);
    EXPECT_EQ(ftruncate(file.get(), 4096), -1);
    EXPECT_EQ(errno, EPERM);
    EXPECT_EQ(ftruncate(file.get(), off_t(kSize)), 0);
  }
  EXPECT_EQ(device_->Contents(0, 1)[0], std::byte{0xaa});
  struct stat info;
  ASSERT_EQ(stat(Path().c_str(), &info), 0);
  EXPECT_EQ(static_cast<uint64_t>(info.st_size), kSize);
  EXPECT_EQ(chmod(Path().c_str(), 0666), -1);
  EXPECT_EQ(unlink(Path().c_str()), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(rename(Path().c_str(), Path("new").c_str()), -1);
  EXPECT_EQ(Fd(Path("new"), O_WRONLY | O_CREAT).error(), EPERM);
  EXPECT_EQ(mkdir(Path("new").c_str(), 0700), -1);
}

TEST_F(FuseMountTest, AFileMayLiveOnAnotherReactor) {
  Start();
  TestReactor other;
  {
    MemoryDevice device(other.reactor(), "volume r9/0", kMiB);
    ASSERT_TRUE(Add("r9-0", &device).has_value());
    {
      Fd file(Path("r9-0"), O_RDWR);
      auto data = Pattern(70000, 3);
      ASSERT_EQ(pwrite(file.get(), data.data(), data.size(), 17), 70000);
      std::vector<std::byte> back(70000);
      ASSERT_EQ(pread(file.get(), back.data(), back.size(), 17), 70000);
      EXPECT_EQ(back, data);
      EXPECT_THAT(GetStatus().files[0].openers, SizeIs(1));
    }
    AwaitOpeners(0);
    ASSERT_TRUE(Remove("r9-0", false).has_value());
  }
}

TEST_F(FuseMountTest, StoppingWhileOpenSaysByWhomAndStopsAllTheSame) {
  StartWithFile();
  Fd file(Path(), O_RDWR);
  Status stopped = Stop();
  ASSERT_FALSE(stopped.has_value());
  EXPECT_THAT(stopped.error().message(), HasSubstr("pid " + std::to_string(getpid())));
  char byte = 0;
  EXPECT_EQ(pread(file.get(), &byte, 1, 0), -1);
  EXPECT_THAT(device_->openers(), SizeIs(0));
  // The directory is free for the next daemon.
  StartWithFile();
  EXPECT_EQ(Fd(Path(), O_RDWR).error(), 0);
}

TEST_F(FuseMountTest, StoppingUnmounts) {
  StartWithFile();
  ASSERT_TRUE(Stop().has_value());
  struct stat here, parent;
  ASSERT_EQ(stat(mountpoint_.c_str(), &here), 0);
  ASSERT_EQ(stat("/tmp", &parent), 0);
  EXPECT_EQ(here.st_dev, parent.st_dev);
}

TEST_F(FuseMountTest, SomebodyElsesUnmountIsNoticed) {
  StartWithFile();
  ASSERT_EQ(umount(mountpoint_.c_str()), 0);
  while (GetStatus().mounted) std::this_thread::yield();
  EXPECT_TRUE(Stop().has_value());
}

// umount -f of a mount that is in use aborts it: the kernel reports no close any more.
TEST_F(FuseMountTest, AnAbortedMountLetsGoOfWhatWasOpenAndCanBeMountedAnew) {
  StartWithFile();
  Fd file(Path(), O_RDWR);
  ASSERT_EQ(file.error(), 0);
  (void)umount2(mountpoint_.c_str(), MNT_FORCE);  // EBUSY, and aborted all the same
  const auto mounted = [&] {
    return reactor_->Run<bool>([&]() -> Task<bool> { co_return mount_->mounted(); });
  };
  while (mounted()) std::this_thread::yield();
  Status stopped = Stop();
  ASSERT_FALSE(stopped.has_value());
  EXPECT_THAT(stopped.error().message(), HasSubstr("pid " + std::to_string(getpid())));
  EXPECT_THAT(device_->openers(), SizeIs(0));
  StartWithFile();
  EXPECT_EQ(Fd(Path(), O_RDWR).error(), 0);
  AwaitOpeners(0);
}

TEST_F(FuseMountTest, TheMountOfADeadDaemonIsClearedAway) {
  int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  ASSERT_NE(fd, -1);
  std::string options = "fd=" + std::to_string(fd) + ",rootmode=40000,user_id=0,group_id=0";
  ASSERT_EQ(mount("dead", mountpoint_.c_str(), "fuse", 0, options.c_str()), 0);
  close(fd);
  struct stat info;
  ASSERT_EQ(stat(mountpoint_.c_str(), &info), -1);
  StartWithFile();
  EXPECT_EQ(stat(Path().c_str(), &info), 0);
}

TEST_F(FuseMountTest, ALiveMountIsRefused) {
  StartWithFile();
  auto second = TryStart();
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), ErrorCode::kFailedPrecondition);
  EXPECT_THAT(second.error().message(), HasSubstr("another umblockd"));
  EXPECT_EQ(Fd(Path(), O_RDWR).error(), 0);
}

TEST_F(FuseMountTest, BadArgumentsAreRefused) {
  EXPECT_EQ(TryStart({.max_requests = 1}).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(TryStart({.receive_buffers = 1}).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(TryStart({.waiting_bytes = kMiB}).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(TryStart({.file_mode = 04755}).error().code(), ErrorCode::kInvalidArgument);
  std::string real = std::exchange(mountpoint_, "/nonexistent/directory");
  EXPECT_EQ(TryStart().error().code(), ErrorCode::kNotFound);
  mountpoint_ = "/etc/passwd";
  EXPECT_EQ(TryStart().error().code(), ErrorCode::kInvalidArgument);
  mountpoint_ = real;
  StartWithFile();
  for (const char* name : {"", ".", "..", "a/b", "a b", "a\nb"}) {
    EXPECT_EQ(Add(name, device_.get()).error().code(), ErrorCode::kInvalidArgument) << name;
  }
  EXPECT_EQ(Add(std::string(256, 'x'), device_.get()).error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(Add("r0-0", device_.get()).error().code(), ErrorCode::kAlreadyExists);
  EXPECT_EQ(Remove("r7-0", false).error().code(), ErrorCode::kNotFound);
}

// The purpose of it all: a file system on the volume, through a loop device.
TEST_F(FuseMountTest, CarriesAFileSystemThroughALoopDevice) {
  StartWithFile();
  std::string loop = Output("losetup --find --show " + Path());
  ASSERT_THAT(loop, HasSubstr("/dev/loop"));
  std::string inside = mountpoint_ + ".ext4";
  ASSERT_EQ(mkdir(inside.c_str(), 0700), 0);
  ASSERT_EQ(Shell("mkfs.ext4 -q " + loop), 0);
  ASSERT_EQ(Shell("mount " + loop + " " + inside), 0);

  EXPECT_TRUE(mount_->IsOnExport(Path()));
  EXPECT_TRUE(mount_->IsOnExport(Path("not-there")));
  EXPECT_TRUE(mount_->IsOnExport(loop));
  EXPECT_TRUE(mount_->IsOnExport(inside + "/disk.img"));
  EXPECT_FALSE(mount_->IsOnExport("/tmp"));
  EXPECT_FALSE(mount_->IsOnExport("/tmp/no-such-file"));

  EXPECT_EQ(Shell("cp -r /usr/include/linux " + inside + " && sync -f " + inside), 0);
  EXPECT_EQ(Shell("fstrim " + inside), 0);
  EXPECT_EQ(Shell("umount " + inside + " && fsck.ext4 -fn " + loop), 0);
  EXPECT_EQ(Shell("mount " + loop + " " + inside), 0);
  EXPECT_EQ(Shell("diff -r /usr/include/linux " + inside + "/linux"), 0);
  EXPECT_EQ(Shell("umount " + inside), 0);
  EXPECT_EQ(Shell("losetup -d " + loop), 0);
  rmdir(inside.c_str());
  AwaitOpeners(0);
  EXPECT_EQ(GetStatus().files[0].errors, 0u);
  ASSERT_TRUE(Stop().has_value());
}

}  // namespace
}  // namespace umblock
