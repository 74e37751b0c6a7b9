#include "engine/runtime/uring/open_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <optional>

#include "engine/runtime/blocking.h"
#include "engine/runtime/uring/uring_file.h"
#include "engine/runtime/uring/uring_reactor.h"

namespace umblock {
namespace {

std::string ParentOf(const std::string& path) {
  size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::unexpected<Error> InUse(const std::string& path) {
  return MakeError(ErrorCode::kFailedPrecondition,
                   "{} is in use: another backend or process has it open, or it is mounted; "
                   "close or unmount it first",
                   path);
}

std::unexpected<Error> OpenError(const OpenFileRequest& request, int error) {
  const std::string& path = request.path;
  struct stat parent;
  if (error == ENOENT && request.create && stat(ParentOf(path).c_str(), &parent) != 0) {
    return MakeError(ErrorCode::kNotFound,
                     "{} cannot be created: its directory {} does not exist; create it first", path,
                     ParentOf(path));
  }
  if (error == EBUSY) return InUse(path);
  if (error == EISDIR) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "{} is a directory; name a regular file or a block device", path);
  }
  return std::unexpected(Error::FromErrno(error, "open " + path));
}

// Refused before it is opened: opening a FIFO would wait, opening a tape would rewind it.
Status CheckType(const std::string& path, mode_t mode) {
  if (S_ISREG(mode) || S_ISBLK(mode)) return Ok();
  if (S_ISDIR(mode)) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "{} is a directory; name a regular file or a block device", path);
  }
  return MakeError(ErrorCode::kInvalidArgument, "{} is neither a regular file nor a block device",
                   path);
}

int OpenOnce(const OpenFileRequest& request, int more_flags) {
  int flags = (request.writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | more_flags;
  if (request.direct) {
    int fd = open(request.path.c_str(), flags | O_DIRECT, 0600);
    if (fd >= 0 || errno != EINVAL) return fd;
    // Some file systems make the file before they refuse O_DIRECT.
    flags &= ~O_EXCL;
  }
  return open(request.path.c_str(), flags, 0600);
}

// Makes the name durable.
void SyncDirectory(const std::string& path) {
  OwnedFd directory(open(ParentOf(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.valid()) fsync(directory.get());
}

Result<OwnedFd> CreateFile(const OpenFileRequest& request) {
  OwnedFd fd(OpenOnce(request, O_CREAT | O_EXCL));
  if (!fd.valid()) return OpenError(request, errno);
  if (ftruncate(fd.get(), static_cast<off_t>(request.create_size)) != 0 || fsync(fd.get()) != 0) {
    int error = errno;
    unlink(request.path.c_str());
    return std::unexpected(Error::FromErrno(
        error, fmt::format("create {} with {} bytes", request.path, request.create_size)));
  }
  SyncDirectory(request.path);
  return fd;
}

Result<OwnedFd> OpenOrCreate(const OpenFileRequest& request) {
  struct stat existing;
  if (stat(request.path.c_str(), &existing) != 0) {
    if (errno == ENOENT && request.create) return CreateFile(request);
    return OpenError(request, errno);
  }
  if (request.create && request.exclusive_create) {
    return MakeError(ErrorCode::kAlreadyExists,
                     "{} exists already; choose another name or remove it", request.path);
  }
  UMBLOCK_TRY(CheckType(request.path, existing.st_mode));
  // For a block device, O_EXCL without O_CREAT claims it: mounted or claimed ones are refused.
  bool claim = request.exclusive_use && S_ISBLK(existing.st_mode);
  OwnedFd fd(OpenOnce(request, claim ? O_EXCL : 0));
  if (!fd.valid()) return OpenError(request, errno);
  return fd;
}

// The number in a file of sysfs, as "/sys/dev/block/8:1/queue/discard_max_bytes"; for a partition
// the queue is its disk's.
std::optional<std::string> QueueAttribute(dev_t device, const char* name) {
  for (const char* where : {"queue", "../queue"}) {
    std::string path =
        fmt::format("/sys/dev/block/{}:{}/{}/{}", major(device), minor(device), where, name);
    OwnedFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) continue;
    char text[64] = {};
    if (read(fd.get(), text, sizeof text - 1) > 0) return std::string(text);
  }
  return std::nullopt;
}

uint64_t QueueNumber(dev_t device, const char* name) {
  return std::strtoull(QueueAttribute(device, name).value_or("0").c_str(), nullptr, 10);
}

Status ExamineBlockDevice(const OpenFileRequest& request, int fd, dev_t device, FileInfo* info) {
  info->is_block_device = true;
  int logical = 512;
  unsigned physical = 512;
  if (ioctl(fd, BLKGETSIZE64, &info->size) != 0 || ioctl(fd, BLKSSZGET, &logical) != 0 ||
      ioctl(fd, BLKPBSZGET, &physical) != 0) {
    return std::unexpected(Error::FromErrno(errno, "examine " + request.path));
  }
  info->logical_block_size = static_cast<uint32_t>(logical);
  info->physical_block_size = physical;
  info->can_discard = request.writable && QueueNumber(device, "discard_max_bytes") != 0;
  info->discard_granularity = static_cast<uint32_t>(QueueNumber(device, "discard_granularity"));
  info->discard_reads_zeroes = false;  // Linux promises it for no device
  info->volatile_cache =
      !QueueAttribute(device, "write_cache").value_or("write back").starts_with("write through");
  return Ok();
}

void ExamineRegularFile(const OpenFileRequest& request, int fd, const struct stat& status,
                        FileInfo* info) {
  info->size = static_cast<uint64_t>(status.st_size);
  info->physical_block_size = 4096;
  // A hole behind the end changes nothing, and tells whether holes can be made.
  info->can_discard = request.writable && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                                    status.st_size, 4096) == 0;
  info->discard_reads_zeroes = info->can_discard;
  info->discard_granularity = info->can_discard ? static_cast<uint32_t>(status.st_blksize) : 0;
  info->volatile_cache = true;
}

// What the kernel says of direct I/O (Linux 6.1); false if it does not say.
bool StatxAlignment(int fd, FileInfo* info) {
  struct statx status{};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) != 0) return false;
  if ((status.stx_mask & STATX_DIOALIGN) == 0) return false;
  info->memory_alignment = status.stx_dio_mem_align;
  info->offset_alignment = status.stx_dio_offset_align;
  return true;
}

// Without word from the kernel: try to read one 512-byte sector; what refuses it takes pages.
void ProbeAlignment(int fd, FileInfo* info) {
  uint32_t alignment = 512;
  if (info->is_block_device) {
    alignment = info->logical_block_size;
  } else {
    void* page = nullptr;
    if (posix_memalign(&page, 4096, 4096) == 0) {
      void* sector = static_cast<char*>(page) + 512;
      if (pread(fd, sector, 512, 0) < 0) alignment = 4096;
      free(page);
    }
  }
  info->offset_alignment = alignment;
  info->memory_alignment = alignment;
}

void FindAlignment(int fd, FileInfo* info) {
  int flags = fcntl(fd, F_GETFL);
  info->direct = (flags & O_DIRECT) != 0;
  if (info->direct && !StatxAlignment(fd, info)) ProbeAlignment(fd, info);
  if (info->direct && info->offset_alignment == 0) {  // the kernel: not for this file after all
    fcntl(fd, F_SETFL, flags & ~O_DIRECT);
    info->direct = false;
  }
  if (!info->direct) {
    info->offset_alignment = 1;
    info->memory_alignment = 1;
  }
}

}  // namespace

Result<OpenedFile> OpenAndExamine(const OpenFileRequest& request) {
  auto fd = OpenOrCreate(request);
  if (!fd) return std::unexpected(fd.error());
  struct stat status;
  if (fstat(fd->get(), &status) != 0) {
    return std::unexpected(Error::FromErrno(errno, "examine " + request.path));
  }
  UMBLOCK_TRY(CheckType(request.path, status.st_mode));
  bool block_device = S_ISBLK(status.st_mode);
  if (request.exclusive_use && !block_device && flock(fd->get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return InUse(request.path);
    return std::unexpected(Error::FromErrno(errno, "lock " + request.path));
  }
  OpenedFile opened{std::move(*fd), {}};
  if (block_device) {
    UMBLOCK_TRY(ExamineBlockDevice(request, opened.fd.get(), status.st_rdev, &opened.info));
  } else {
    ExamineRegularFile(request, opened.fd.get(), status, &opened.info);
  }
  FindAlignment(opened.fd.get(), &opened.info);
  return opened;
}

Task<Result<std::unique_ptr<File>>> OpenUringFile(UringReactor& reactor, OpenFileRequest request) {
  std::optional<Result<OpenedFile>> opened;
  co_await RunBlocking(reactor, [&opened, &request] {
    opened.emplace(OpenAndExamine(request));
    return 0;
  });
  if (!*opened) co_return std::unexpected(opened->error());
  co_return std::make_unique<UringFile>(reactor, std::move((*opened)->fd), (*opened)->info);
}

}  // namespace umblock
