// FuseMount through the kernel: real mounts, real loop devices, a device in memory underneath.
#include "engine/fuse/fuse_mount.h"

#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/aio_abi.h>
#include <linux/falloc.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <future>
#include <random>
#include <set>
#include <span>
#include <thread>

#include "engine/fuse/memory_device.h"
#include "engine/runtime/uring/reactor_thread.h"

namespace umblock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kSize = 64 * kMiB;

// A reactor on its own thread, and a way to run a task there and wait for it.
class TestReactor {
 public:
  TestReactor() {
    auto thread = ReactorThread::Start({.name = "test"});
    UMBLOCK_ASSERT(thread.has_value(), "io_uring is there");
    thread_ = std::move(*thread);
  }
  template <typename T>
  T Run(const std::function<Task<T>()>& work) {
    return thread_->RunTask(work);
  }
  Reactor& reactor() { return thread_->reactor(); }

 private:
  std::unique_ptr<ReactorThread> thread_;
};

class Fd {
 public:
  Fd(const std::string& path, int flags) : fd_(open(path.c_str(), flags | O_CLOEXEC, 0600)) {
    error_ = fd_ == -1 ? errno : 0;
  }
  ~Fd() { Close(); }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  void Close() {
    if (fd_ != -1) close(fd_);
    fd_ = -1;
  }
  int get() const { return fd_; }
  int error() const { return error_; }

 private:
  int fd_;
  int error_;
};

int Shell(const std::string& command) {
  return std::system(("( " + command + " ) >/dev/null 2>&1").c_str());  // NOLINT: test scaffolding
}

std::string Output(const std::string& command) {
  std::string text;
  FILE* pipe = popen(command.c_str(), "r");  // NOLINT: test scaffolding
  char part[256];
  while (pipe != nullptr && fgets(part, sizeof part, pipe) != nullptr) text += part;
  if (pipe != nullptr) pclose(pipe);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::vector<std::byte> Pattern(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> result(n);
  for (std::byte& b : result) b = static_cast<std::byte>(random());
  return result;
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }  // NOLINT: from aligned_alloc
};
// Memory that begins `shift` bytes behind the begin of a page.
class PageMemory {
 public:
  explicit PageMemory(size_t n, size_t shift = 0)
      : memory_(
            static_cast<std::byte*>(std::aligned_alloc(4096, AlignUp<size_t>(n + shift, 4096)))),
        bytes_(memory_.get() + shift, n) {}
  PageMemory(const std::vector<std::byte>& from, size_t shift) : PageMemory(from.size(), shift) {
    std::copy(from.begin(), from.end(), bytes_.begin());
  }
  std::byte* data() const { return bytes_.data(); }
  bool operator==(const std::vector<std::byte>& other) const {
    return std::equal(bytes_.begin(), bytes_.end(), other.begin(), other.end());
  }

 private:
  std::unique_ptr<std::byte, Free> memory_;
  std::span<std::byte> bytes_;
};

class FuseMountTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (access("/dev/fuse", R_OK | W_OK) != 0 || geteuid() != 0) {
      GTEST_SKIP() << "needs /dev/fuse and root";
    }
    char directory[] = "/tmp/umblock-fuse-XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    mountpoint_ = directory;
    reactor_ = std::make_unique<TestReactor>();
    device_ = std::make_unique<MemoryDevice>(reactor_->reactor(), "volume r0/0", kSize);
  }

  void TearDown() override {
    if (mount_) Stop();
    Shell("umount -l " + mountpoint_);
    if (!mountpoint_.empty()) rmdir(mountpoint_.c_str());
    device_.reset();
    reactor_.reset();
  }

  Result<std::unique_ptr<FuseMount>> TryStart(FuseOptions options = {}) {
    return reactor_->Run<Result<std::unique_ptr<FuseMount>>>(
        [&] { return FuseMount::Start(reactor_->reactor(), mountpoint_, options); });
  }
  void Start(FuseOptions options = {}) {
    auto mount = TryStart(options);
    ASSERT_TRUE(mount.has_value()) << mount.error().ToString();
    mount_ = std::move(*mount);
  }
  void StartWithFile(FuseOptions options = {}) {
    Start(options);
    Status added = Add("r0-0", device_.get());
    ASSERT_TRUE(added.has_value()) << added.error().ToString();
  }
  Status Add(const std::string& name, BlockDevice* device) {
    return reactor_->Run<Status>([&] { return mount_->AddFile(name, device); });
  }
  Status Remove(const std::string& name, bool force) {
    return reactor_->Run<Status>([&] { return mount_->RemoveFile(name, force); });
  }
  Status Stop() {
    Status status = reactor_->Run<Status>([&] { return mount_->Stop(); });
    mount_.reset();
    return status;
  }
  FuseStatus GetStatus() {
    return reactor_->Run<FuseStatus>([&] { return mount_->status(); });
  }
  std::string Path(const std::string& name = "r0-0") const { return mountpoint_ + "/" + name; }
  bool Holds(uint64_t offset, const std::vector<std::byte>& data) {
    return device_->Contents(offset, data.size()) == data;
  }
  // A release is answered to the kernel after close(2) has returned.
  void AwaitOpeners(size_t n) {
    while (GetStatus().files[0].openers.size() != n) std::this_thread::yield();
  }

  std::string mountpoint_;
  std::unique_ptr<TestReactor> reactor_;
  std::unique_ptr<MemoryDevice> device_;
  std::unique_ptr<FuseMount> mount_;
};

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

TEST_F(FuseMountTest, RequestsInFlightAreBounded) {
  StartWithFile({.max_requests = 8, .receive_buffers = 4});
  device_->Hold();
  std::vector<std::thread> writers;
  for (int i = 0; i < 24; ++i) {
    writers.emplace_back([&, i] {
      Fd file(Path(), O_RDWR);
      auto data = Pattern(16384, unsigned(i));
      ASSERT_EQ(pwrite(file.get(), data.data(), data.size(), i * 16384), 16384);
    });
  }
  while (GetStatus().requests_in_flight != 24) std::this_thread::yield();
  EXPECT_EQ(device_->held(), 8u);
  device_->ReleaseHeld();
  for (std::thread& writer : writers) writer.join();
  for (int i = 0; i < 24; ++i) EXPECT_TRUE(Holds(uint64_t(i) * 16384, Pattern(16384, unsigned(i))));
}

// More requests than a file's device is given at a time, those of threads that wait in a system
// call and asynchronous ones, which the kernel counts for the mount as a whole.
class ManyRequests {
 public:
  // `path` is a file of `device`.
  ManyRequests(std::string path, MemoryDevice* device) : path_(std::move(path)), device_(device) {
    UMBLOCK_ASSERT(syscall(SYS_io_setup, kAsynchronous, &context_) == 0, "native AIO is there");
    UMBLOCK_ASSERT(file_.get() != -1, "the file opens");
    // The kernel may let it wait here.
    threads_.emplace_back([this] {
      for (unsigned i = 0; i < kAsynchronous; ++i) {
        iocb* one = &blocks_[i];
        one->aio_lio_opcode = IOCB_CMD_PWRITE;
        one->aio_fildes = static_cast<uint32_t>(file_.get());
        one->aio_buf = reinterpret_cast<uint64_t>(memory_.data());  // NOLINT
        one->aio_nbytes = 4096;
        one->aio_offset = i * 4096;
        UMBLOCK_ASSERT(syscall(SYS_io_submit, context_, 1, &one) == 1, "the kernel takes it");
      }
    });
    for (unsigned i = 0; i < kThreads; ++i) {
      threads_.emplace_back([this, i] {
        const PageMemory data(16384);
        const off_t at = off_t(kMiB) + off_t(i) * 16384;
        const ssize_t n = i % 2 == 0 ? pread(file_.get(), data.data(), 16384, at)
                                     : pwrite(file_.get(), data.data(), 16384, at);
        done_ += n == 16384;
      });
    }
  }
  // How many of all went well.
  int Release() {
    device_->ReleaseHeld();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    std::vector<io_event> events(kAsynchronous);
    UMBLOCK_ASSERT(syscall(SYS_io_getevents, context_, kAsynchronous, kAsynchronous, events.data(),
                           nullptr) == kAsynchronous,
                   "all ended");
    for (const io_event& event : events) done_ += event.res == 4096;
    syscall(SYS_io_destroy, context_);
    return done_;
  }
  static constexpr int kAsynchronous = 48;
  static constexpr int kThreads = 48;

 private:
  std::string path_;
  MemoryDevice* device_;
  Fd file_{path_, O_RDWR | O_DIRECT};
  PageMemory memory_{4096};
  aio_context_t context_ = 0;
  std::array<iocb, kAsynchronous> blocks_{};
  std::vector<std::thread> threads_;
  std::atomic<int> done_{0};
};

TEST_F(FuseMountTest, AVolumeThatDoesNotAnswerHoldsBackNoOther) {
  StartWithFile({.max_requests = 8, .receive_buffers = 4});
  MemoryDevice other(reactor_->reactor(), "volume r1/0", kSize);
  ASSERT_TRUE(Add("r1-0", &other).has_value());
  device_->HoldReadsToo();
  ManyRequests stuck(Path(), device_.get());
  while (device_->held() < 8) std::this_thread::yield();
  const int all = ManyRequests::kAsynchronous + ManyRequests::kThreads;

  auto goes_on = std::async(std::launch::async, [&] {
    struct stat info;
    EXPECT_EQ(stat(Path().c_str(), &info), 0);
    EXPECT_EQ(Fd(Path(), O_RDONLY).error(), 0);
    EXPECT_EQ(Output("ls " + mountpoint_), "r0-0\nr1-0");
    Fd file(Path("r1-0"), O_RDWR);
    const auto data = Pattern(3 * kMiB, 1);
    EXPECT_EQ(pwrite(file.get(), data.data(), data.size(), 0), ssize_t(data.size()));
    std::vector<std::byte> back(data.size());
    EXPECT_EQ(pread(file.get(), back.data(), back.size(), 0), ssize_t(back.size()));
    EXPECT_EQ(back, data);
    EXPECT_EQ(fsync(file.get()), 0);
    ManyRequests busy(Path("r1-0"), &other);
    EXPECT_EQ(busy.Release(), all);
  });
  // Not how long it takes, but how long this waits before it lets a hanging test end.
  EXPECT_EQ(goes_on.wait_for(std::chrono::seconds(30)), std::future_status::ready);
  EXPECT_LE(device_->held(), 8u);
  EXPECT_EQ(stuck.Release(), all);
  goes_on.get();
  ASSERT_TRUE(Remove("r1-0", true).has_value());
}

TEST_F(FuseMountTest, ReadsThatDoNotComeBackLeaveBuffersToOthers) {
  StartWithFile();
  device_->HoldReadsToo();
  Fd file(Path(), O_RDONLY);
  std::vector<std::thread> readers;
  for (int i = 0; i < 60; ++i) {
    readers.emplace_back([&, i] {
      const PageMemory to(kMiB);
      EXPECT_EQ(pread(file.get(), to.data(), kMiB, i * off_t(kMiB)), ssize_t(kMiB));
    });
  }
  while (device_->held() != 60) std::this_thread::yield();
  const auto [out, limit] =
      reactor_->Run<std::pair<size_t, size_t>>([&]() -> Task<std::pair<size_t, size_t>> {
        const BufferPool& pool = reactor_->reactor().buffers();
        co_return std::pair(pool.bytes_out(), pool.limit());
      });
  EXPECT_LE(out, limit / 8);
  device_->ReleaseHeld();
  for (std::thread& reader : readers) reader.join();
}

TEST_F(FuseMountTest, AStalledFileThatHoldsAllItsMemoryFailsWhatDoesNotFit) {
  StartWithFile({.waiting_bytes = 4 * kMiB, .stall_patience = std::chrono::milliseconds(1)});
  MemoryDevice other(reactor_->reactor(), "volume r1/0", kSize);
  ASSERT_TRUE(Add("r1-0", &other).has_value());
  device_->Hold();
  Fd file(Path(), O_RDWR);
  const PageMemory data(kMiB);
  std::atomic<int> written = 0;
  std::atomic<int> refused = 0;
  std::vector<std::thread> writers;
  for (int i = 0; i < 8; ++i) {
    writers.emplace_back([&, i] {
      const ssize_t n = pwrite(file.get(), data.data(), kMiB, i * off_t(kMiB));
      if (n == ssize_t(kMiB)) ++written;
      if (n == -1 && errno == ENOBUFS) ++refused;
    });
  }
  while (refused != 5) std::this_thread::yield();
  {
    Fd elsewhere(Path("r1-0"), O_RDWR);
    EXPECT_EQ(pwrite(elsewhere.get(), data.data(), kMiB, 0), ssize_t(kMiB));
  }
  device_->ReleaseHeld();
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(written, 3);
  EXPECT_EQ(refused, 5);
  EXPECT_EQ(pwrite(file.get(), data.data(), kMiB, 0), ssize_t(kMiB));
  ASSERT_TRUE(Remove("r1-0", true).has_value());
}

TEST_F(FuseMountTest, RemovalByForceWaitsForWhatIsInFlight) {
  StartWithFile();
  device_->Hold();
  auto data = Pattern(4096, 5);
  std::thread writer([&] {
    Fd file(Path(), O_RDWR);
    EXPECT_EQ(pwrite(file.get(), data.data(), data.size(), 0), 4096);
  });
  while (device_->held() == 0) std::this_thread::yield();
  auto removal = std::async(std::launch::async, [&] { return Remove("r0-0", true); });
  EXPECT_EQ(removal.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  device_->ReleaseHeld();
  EXPECT_TRUE(removal.get().has_value());
  writer.join();
  EXPECT_TRUE(Holds(0, data));
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
