#include "engine/runtime/uring/uring_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

#include "engine/runtime/uring/reactor_thread.h"

namespace umblock {
namespace {

class UringFileTest : public testing::Test {
 protected:
  UringFileTest() : thread_(*ReactorThread::Start({})), reactor_(thread_->reactor()) {
    char pattern[] = "/var/tmp/umblock-file-test.XXXXXX";  // a disk's file system, not tmpfs
    directory_ = mkdtemp(pattern);
  }
  ~UringFileTest() override { std::filesystem::remove_all(directory_); }

  std::string Path(const char* name) const { return directory_ + "/" + name; }

  Result<std::unique_ptr<File>> Open(OpenFileRequest request) {
    return thread_->RunTask([&] { return reactor_.OpenFile(request); });
  }
  std::unique_ptr<File> Create(uint64_t size, bool direct = true) {
    auto file = Open({.path = Path("f"), .create = true, .create_size = size, .direct = direct});
    EXPECT_TRUE(file) << file.error().ToString();
    return std::move(*file);
  }
  void Close(std::unique_ptr<File>& file) {
    thread_->RunTask([&] { return file->Close(); });
    file.reset();
  }
  int32_t Write(File& file, uint64_t offset, std::span<const iovec> iov, bool durable = false) {
    return thread_->RunTask(
        [&]() -> Task<int32_t> { co_return co_await file.Write(offset, iov, durable); });
  }
  int32_t Read(File& file, uint64_t offset, std::span<const iovec> iov) {
    return thread_->RunTask([&]() -> Task<int32_t> { co_return co_await file.Read(offset, iov); });
  }

  std::unique_ptr<ReactorThread> thread_;
  UringReactor& reactor_;
  std::string directory_;
};

struct Pages {
  explicit Pages(size_t bytes, char fill = 0) : size(bytes) {
    data = static_cast<char*>(aligned_alloc(4096, bytes));
    std::fill_n(data, bytes, fill);
  }
  Pages(const Pages&) = delete;
  ~Pages() { free(data); }
  iovec iov(size_t offset, size_t length) { return {data + offset, length}; }
  char* data;
  size_t size;
};

TEST_F(UringFileTest, ACreatedFileIsSparseAndHasItsSize) {
  auto file = Create(uint64_t{1} << 30);
  EXPECT_EQ(file->info().size, uint64_t{1} << 30);
  EXPECT_FALSE(file->info().is_block_device);
  struct stat status;
  ASSERT_EQ(stat(Path("f").c_str(), &status), 0);
  EXPECT_EQ(status.st_size, 1 << 30);
  EXPECT_LT(status.st_blocks * 512, 1 << 20);
  Close(file);
  auto again = Open({.path = Path("f"), .create = true, .create_size = 4096});
  ASSERT_TRUE(again);
  EXPECT_EQ((*again)->info().size, uint64_t{1} << 30) << "an existing file keeps its size";
  Close(*again);
}

TEST_F(UringFileTest, WritesAndReadsScatteredAndDurable) {
  auto file = Create(1 << 20);
  uint32_t step = std::max(file->info().offset_alignment, file->info().memory_alignment);
  ASSERT_LE(step, 4096u);
  Pages out(64 << 10), in(64 << 10);
  for (size_t i = 0; i < out.size; ++i) out.data[i] = static_cast<char>(i * 7 + i / 256);
  std::vector<iovec> parts = {out.iov(0, 4096), out.iov(4096, 8192), out.iov(12288, 4096)};
  EXPECT_EQ(Write(*file, 8192, parts), 0);
  iovec rest = out.iov(16384, 48 << 10);
  EXPECT_EQ(Write(*file, 8192 + 16384, {&rest, 1}, true), 0);
  EXPECT_EQ(thread_->RunTask([&]() -> Task<int32_t> { co_return co_await file->Sync(); }), 0);
  std::vector<iovec> to = {in.iov(0, 32 << 10), in.iov(32 << 10, 32 << 10)};
  EXPECT_EQ(Read(*file, 8192, to), 0);
  EXPECT_EQ(memcmp(in.data, out.data, out.size), 0);
  Close(file);
}

TEST_F(UringFileTest, DirectIoNamesItsAlignmentAndRefusesLess) {
  auto file = Create(1 << 20);
  if (!file->info().direct) GTEST_SKIP() << "no direct I/O on this file system";
  EXPECT_GE(file->info().offset_alignment, 512u);
  Pages page(4096);
  iovec exact = page.iov(0, file->info().offset_alignment);
  EXPECT_EQ(Write(*file, file->info().offset_alignment, {&exact, 1}), 0);
  iovec small = page.iov(0, 100);
  EXPECT_EQ(Write(*file, 0, {&small, 1}), -EINVAL);
  Close(file);
}

TEST_F(UringFileTest, BufferedIoTakesAnyBytes) {
  auto file = Create(1 << 20, false);
  EXPECT_FALSE(file->info().direct);
  EXPECT_EQ(file->info().offset_alignment, 1u);
  char text[] = "hello";
  iovec iov{text, 5};
  EXPECT_EQ(Write(*file, 33, {&iov, 1}, true), 0);
  char back[7] = {};
  iovec to{back, 7};
  EXPECT_EQ(Read(*file, 32, {&to, 1}), 0);
  EXPECT_EQ(std::string(back + 1, 5), "hello");
  Close(file);
}

TEST_F(UringFileTest, ReadingPastTheEndIsAnError) {
  for (bool direct : {true, false}) {
    auto file = Create(8192, direct);
    Pages page(8192);
    iovec iov = page.iov(0, 8192);
    EXPECT_EQ(Read(*file, 0, {&iov, 1}), 0);
    EXPECT_EQ(Read(*file, 4096, {&iov, 1}), -EIO);
    EXPECT_EQ(Read(*file, 1 << 20, {&iov, 1}), -EIO);
    Close(file);
  }
}

TEST_F(UringFileTest, DiscardAndWriteZeroesReadAsZeroes) {
  auto file = Create(1 << 20);
  ASSERT_TRUE(file->info().can_discard);
  EXPECT_TRUE(file->info().discard_reads_zeroes);
  Pages data(256 << 10, 'x');
  iovec iov = data.iov(0, data.size);
  ASSERT_EQ(Write(*file, 0, {&iov, 1}), 0);
  struct Range : CompletionAwaiter<Range> {
    File* file;
    int kind;
    uint64_t at;
    Range(File* f, int k, uint64_t o) : file(f), kind(k), at(o) {}
    void Start(Completion* c) {
      if (kind == 0) file->StartDiscard(at, 65536, c);
      if (kind == 1) file->StartWriteZeroes(at, 65536, false, c);
      if (kind == 2) file->StartWriteZeroes(at, 65536, true, c);
    }
  };
  for (int kind = 0; kind < 3; ++kind) {
    uint64_t at = static_cast<uint64_t>(kind) * 65536;
    EXPECT_EQ(thread_->RunTask(
                  [&]() -> Task<int32_t> { co_return co_await Range(file.get(), kind, at); }),
              0);
  }
  ASSERT_EQ(Read(*file, 0, {&iov, 1}), 0);
  for (size_t i = 0; i < 3 * 65536; ++i) ASSERT_EQ(data.data[i], 0) << i;
  for (size_t i = 3 * 65536; i < data.size; ++i) ASSERT_EQ(data.data[i], 'x') << i;
  EXPECT_EQ(file->info().size, 1u << 20);
  Close(file);
}

TEST_F(UringFileTest, ManyOperationsInFlightAndCloseAwaitsThem) {
  auto file = Create(16 << 20);
  Pages data(4096, 'q');
  struct Counted : Completion {
    Counted()
        : Completion([](Completion* self, int32_t error) noexcept {
            auto* counted = static_cast<Counted*>(self);
            EXPECT_EQ(error, 0);
            ++*counted->count;
          }) {}
    int* count = nullptr;
  };
  constexpr int kOps = 3000;  // more than the submission ring holds
  std::vector<Counted> ops(kOps);
  int ended = 0;
  thread_->RunTask([&]() -> Task<void> {
    iovec iov = data.iov(0, 4096);
    for (int i = 0; i < kOps; ++i) {
      ops[i].count = &ended;
      file->StartWrite(static_cast<uint64_t>(i) * 4096, {&iov, 1}, false, &ops[i]);
    }
    co_await file->Close();
    EXPECT_EQ(ended, kOps);
  });
  file.reset();
}

// Rings much smaller than what is in flight: the submission ring fills up within a turn, the
// completion ring overflows.
TEST(UringSmallRingTest, NothingIsLostWhenTheRingsOverflow) {
  for (UringMode mode : {UringMode::kDeferred, UringMode::kCooperative, UringMode::kPlain}) {
    auto thread =
        *ReactorThread::Start({.uring = {.sq_entries = 4, .cq_entries = 8, .best_mode = mode}});
    UringReactor& reactor = thread->reactor();
    int ended = 0;
    constexpr int kOps = 500;
    thread->RunTask([&]() -> Task<void> {
      auto file = co_await reactor.OpenFile(
          {.path = "/proc/self/exe", .writable = false, .direct = false, .exclusive_use = false});
      EXPECT_TRUE(file) << file.error().ToString();
      struct Counted : Completion {
        Counted()
            : Completion([](Completion* self, int32_t error) noexcept {
                EXPECT_EQ(error, 0);
                ++*static_cast<Counted*>(self)->count;
              }) {}
        int* count = nullptr;
        char byte = 0;
      };
      std::vector<Counted> ops(kOps);
      for (int i = 0; i < kOps; ++i) {
        ops[i].count = &ended;
        iovec iov{&ops[i].byte, 1};
        (*file)->StartRead(static_cast<uint64_t>(i) % 4, {&iov, 1}, &ops[i]);
      }
      co_await (*file)->Close();
      EXPECT_EQ(ended, kOps);
      for (int i = 0; i < kOps; ++i)
        EXPECT_EQ(ops[i].byte,
                  "\x7f"
                  "ELF"[i % 4]);
    });
  }
}

TEST_F(UringFileTest, OneUserAtATime) {
  auto file = Create(1 << 20);
  auto second = Open({.path = Path("f")});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), ErrorCode::kFailedPrecondition);
  EXPECT_NE(second.error().message().find("in use"), std::string::npos);
  Close(file);
  auto third = Open({.path = Path("f")});
  ASSERT_TRUE(third);
  Close(*third);
}

TEST_F(UringFileTest, OpenErrorsNameTheReason) {
  auto missing = Open({.path = Path("nothing")});
  EXPECT_EQ(missing.error().code(), ErrorCode::kNotFound);
  auto parent = Open({.path = Path("no/such/f"), .create = true, .create_size = 4096});
  EXPECT_EQ(parent.error().code(), ErrorCode::kNotFound);
  EXPECT_NE(parent.error().message().find(Path("no/such")), std::string::npos);
  auto directory = Open({.path = directory_});
  EXPECT_EQ(directory.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(directory.error().message().find("directory"), std::string::npos);
  ASSERT_EQ(mkfifo(Path("fifo").c_str(), 0600), 0);
  auto fifo = Open({.path = Path("fifo")});
  EXPECT_EQ(fifo.error().code(), ErrorCode::kInvalidArgument);
  std::ofstream(Path("there")) << "x";
  auto exists = Open({.path = Path("there"), .create = true, .exclusive_create = true});
  EXPECT_EQ(exists.error().code(), ErrorCode::kAlreadyExists);
  auto huge = Open({.path = Path("huge"), .create = true, .create_size = ~uint64_t{0} >> 1});
  EXPECT_FALSE(huge);
  EXPECT_FALSE(std::filesystem::exists(Path("huge"))) << "what failed leaves nothing behind";
}

// Makes the next operation of a reactor look as if the device answered EAGAIN: the pool gives it
// the operation that was returned last, which is this one.
class Reluctant {
 public:
  explicit Reluctant(UringReactor& reactor) : op_(reactor.file_ops().Take()), original_(op_->fn) {
    current_ = this;
    op_->fn = [](UringOp* self, int32_t result, uint32_t flags) noexcept {
      ++current_->answers;
      if (current_->refusals > 0) {
        --current_->refusals;
        result = -EAGAIN;
      }
      current_->original_(self, result, flags);
    };
    reactor.file_ops().Give(op_);
  }
  ~Reluctant() { op_->fn = original_; }

  int refusals = 0;  // still to come
  int answers = 0;

 private:
  static inline Reluctant* current_ = nullptr;
  FileOp* op_;
  UringOp::Fn original_;
};

TEST_F(UringFileTest, ADeviceThatHasNoRoomForAMomentIsAskedAgain) {
  auto file = Create(1 << 20);
  Pages out(4096, 'x'), in(4096);
  iovec part = out.iov(0, 4096);
  Reluctant device(reactor_);
  device.refusals = 3;
  EXPECT_EQ(Write(*file, 0, {&part, 1}), 0);
  EXPECT_EQ(device.answers, 4);
  part = in.iov(0, 4096);
  device.refusals = 3;
  EXPECT_EQ(Read(*file, 0, {&part, 1}), 0);
  EXPECT_EQ(device.answers, 8);
  EXPECT_EQ(std::string(in.data, 4096), std::string(out.data, 4096));
  Close(file);
}

TEST_F(UringFileTest, ADeviceThatNeverHasRoomFails) {
  auto file = Create(1 << 20);
  Pages in(4096);
  iovec part = in.iov(0, 4096);
  Reluctant device(reactor_);
  device.refusals = 1000;
  EXPECT_EQ(Read(*file, 0, {&part, 1}), -EAGAIN);
  EXPECT_LT(device.answers, 20);
  // The next one has its own tries.
  device.refusals = 1;
  EXPECT_EQ(Read(*file, 0, {&part, 1}), 0);
  Close(file);
}

}  // namespace
}  // namespace umblock
