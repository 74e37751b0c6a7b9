#include "engine/fuse/fuse_session.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <poll.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <utility>
#include <vector>

#include "engine/base/assert.h"

extern char** environ;

namespace umblock {
namespace {

constexpr uint32_t kBlockSize = 4096;  // st_blksize and f_bsize: also a loop device's granularity

constexpr unsigned kMaxBackground = 65535;  // the protocol's highest; fuse_mount.h says why
// What a waiting request costs besides its payload: its slot, libfuse's record of it.
constexpr uint64_t kRequestBytes = 1024;

// Unmounting without privileges goes through the setuid helper.
void RunFusermount(const std::string& mountpoint) {
  const char* arguments[] = {"fusermount3", "-u", "-z", "-q", "--", mountpoint.c_str(), nullptr};
  pid_t child = 0;
  if (posix_spawnp(&child, arguments[0], nullptr, nullptr, const_cast<char**>(arguments),
                   environ) == 0) {
    while (waitpid(child, nullptr, 0) == -1 && errno == EINTR) {
    }
  }
}

std::string CommandOf(pid_t pid) {
  std::ifstream in(fmt::format("/proc/{}/comm", pid));
  std::string name;
  std::getline(in, name);
  return name;
}

std::string DescribeOpener(const std::string& file, pid_t pid) {
  if (pid == 0) return fmt::format("fuse {} (a process of another pid namespace)", file);
  std::string command = CommandOf(pid);
  return fmt::format("fuse {} pid {} ({})", file, pid, command.empty() ? "gone" : command);
}

void RefuseChange(fuse_req_t request) { fuse_reply_err(request, EPERM); }

}  // namespace

// The functions that libfuse calls, each on the session thread.
struct FuseSession::Operations {
  static FuseSession* Self(fuse_req_t request) {
    return static_cast<FuseSession*>(fuse_req_userdata(request));
  }
  static void Init(void* self, fuse_conn_info* connection) {
    static_cast<FuseSession*>(self)->Initialize(connection);
  }
  static void Lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
    Self(request)->Lookup(request, parent, name);
  }
  static void GetAttributes(fuse_req_t request, fuse_ino_t inode, fuse_file_info*) {
    struct stat info{};
    if (!Self(request)->StatInode(inode, &info)) {
      fuse_reply_err(request, ENOENT);
    } else {
      fuse_reply_attr(request, &info, 0);
    }
  }
  static void SetAttributes(fuse_req_t request, fuse_ino_t inode, struct stat* wanted, int which,
                            fuse_file_info*) {
    Self(request)->SetAttributes(request, inode, wanted, which);
  }
  static void Open(fuse_req_t request, fuse_ino_t inode, fuse_file_info* info) {
    Self(request)->Open(request, inode, info);
  }
  static void Release(fuse_req_t request, fuse_ino_t, fuse_file_info* info) {
    Self(request)->Release(request, info);
  }
  static void Read(fuse_req_t request, fuse_ino_t, size_t size, off_t offset,
                   fuse_file_info* info) {
    const uint64_t length = std::min<uint64_t>(size, kMaxTransferBytes);
    RequestSlot* slot = Self(request)->NewDeviceSlot(request, RequestKind::kRead, info, length);
    if (slot == nullptr) return;
    slot->offset = static_cast<uint64_t>(offset);
    slot->length = length;
    Hand(slot);
  }
  static void Write(fuse_req_t request, fuse_ino_t, const char* data, size_t size, off_t offset,
                    fuse_file_info* info) {
    Self(request)->Write(request, data, size, offset, info);
  }
  static void Fsync(fuse_req_t request, fuse_ino_t, int, fuse_file_info* info) {
    RequestSlot* slot = Self(request)->NewDeviceSlot(request, RequestKind::kFlush, info, 0);
    if (slot != nullptr) Hand(slot);
  }
  static void Allocate(fuse_req_t request, fuse_ino_t, int mode, off_t offset, off_t length,
                       fuse_file_info* info) {
    Self(request)->Allocate(request, mode, offset, length, info);
  }
  static void ReadDirectory(fuse_req_t request, fuse_ino_t, size_t size, off_t after,
                            fuse_file_info*) {
    Self(request)->ReadDirectory(request, size, after);
  }
  static void StatFileSystem(fuse_req_t request, fuse_ino_t) {
    Self(request)->StatFileSystem(request);
  }

  static fuse_lowlevel_ops Table() {
    fuse_lowlevel_ops table{};
    table.init = &Init;
    table.lookup = &Lookup;
    table.getattr = &GetAttributes;
    table.setattr = &SetAttributes;
    table.open = &Open;
    table.release = &Release;
    table.read = &Read;
    table.write = &Write;
    table.fsync = &Fsync;
    table.fallocate = &Allocate;
    table.readdir = &ReadDirectory;
    table.statfs = &StatFileSystem;
    // Exports come and go through the daemon only.
    table.create = [](fuse_req_t r, fuse_ino_t, const char*, mode_t, fuse_file_info*) {
      RefuseChange(r);
    };
    table.mknod = [](fuse_req_t r, fuse_ino_t, const char*, mode_t, dev_t) { RefuseChange(r); };
    table.mkdir = [](fuse_req_t r, fuse_ino_t, const char*, mode_t) { RefuseChange(r); };
    table.unlink = [](fuse_req_t r, fuse_ino_t, const char*) { RefuseChange(r); };
    table.rmdir = [](fuse_req_t r, fuse_ino_t, const char*) { RefuseChange(r); };
    table.symlink = [](fuse_req_t r, const char*, fuse_ino_t, const char*) { RefuseChange(r); };
    table.link = [](fuse_req_t r, fuse_ino_t, fuse_ino_t, const char*) { RefuseChange(r); };
    table.rename = [](fuse_req_t r, fuse_ino_t, const char*, fuse_ino_t, const char*, unsigned) {
      RefuseChange(r);
    };
    return table;
  }
};

FuseSession::FuseSession(std::string mountpoint, const FuseOptions& options, FileTable* files,
                         SlotPool* slots, Logger* logger)
    : mountpoint_(std::move(mountpoint)),
      options_(options),
      files_(files),
      slots_(slots),
      logger_(logger) {
  clock_gettime(CLOCK_REALTIME, &started_);
}

FuseSession::~FuseSession() {
  UMBLOCK_ASSERT(!thread_.joinable(), "a FUSE session is stopped before it goes");
  if (session_ != nullptr) fuse_session_destroy(session_);
  if (wake_fd_ != -1) close(wake_fd_);
}

Status FuseSession::ClearStaleMount() {
  struct stat info;
  if (stat(mountpoint_.c_str(), &info) == 0) return Ok();
  if (errno != ENOTCONN && errno != ECONNABORTED) {
    return std::unexpected(Error::FromErrno(errno, fmt::format("mount point {}", mountpoint_)));
  }
  logger_->Info("fuse {}: clearing away the mount of a daemon that is gone", mountpoint_);
  if (umount2(mountpoint_.c_str(), MNT_DETACH) != 0) RunFusermount(mountpoint_);
  if (stat(mountpoint_.c_str(), &info) == 0) return Ok();
  return MakeError(ErrorCode::kFailedPrecondition,
                   "mount point {} holds the mount of a daemon that is gone and it cannot be "
                   "unmounted; unmount it by hand (umount -l {})",
                   mountpoint_, mountpoint_);
}

Status FuseSession::CheckMountpoint() {
  struct stat info;
  if (stat(mountpoint_.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return MakeError(ErrorCode::kInvalidArgument, "mount point {} is not a directory", mountpoint_);
  }
  struct statfs file_system;
  if (statfs(mountpoint_.c_str(), &file_system) == 0 &&
      static_cast<uint64_t>(file_system.f_type) == FUSE_SUPER_MAGIC) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "mount point {} lies on a FUSE mount that is in use; does another umblockd "
                     "run with the same directory?",
                     mountpoint_);
  }
  return Ok();
}

Status FuseSession::Mount() {
  UMBLOCK_TRY(ClearStaleMount());
  UMBLOCK_TRY(CheckMountpoint());
  std::string mount_options =
      "fsname=umblock,subtype=umblock,default_permissions,nosuid,nodev,noatime";
  if (options_.allow_other) mount_options += ",allow_other";
  char* arguments[] = {const_cast<char*>("umblock"), const_cast<char*>("-o"), mount_options.data(),
                       nullptr};
  fuse_args args = FUSE_ARGS_INIT(3, arguments);
  const fuse_lowlevel_ops table = Operations::Table();
  session_ = fuse_session_new(&args, &table, sizeof table, this);
  fuse_opt_free_args(&args);
  if (session_ == nullptr) {
    return MakeError(ErrorCode::kInternal, "fuse {}: libfuse refuses the mount options {}",
                     mountpoint_, mount_options);
  }
  if (fuse_session_mount(session_, mountpoint_.c_str()) != 0) {
    fuse_session_destroy(session_);
    session_ = nullptr;
    return MakeError(
        ErrorCode::kFailedPrecondition,
        "fuse {}: mounting failed; is /dev/fuse there and may this process mount "
        "(CAP_SYS_ADMIN, or fusermount3 installed)?{}",
        mountpoint_,
        options_.allow_other ? " allow_other needs user_allow_other in /etc/fuse.conf" : "");
  }
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  UMBLOCK_ASSERT(wake_fd_ != -1, "an eventfd is there");
  int fd = fuse_session_fd(session_);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  serving_.store(true, std::memory_order_release);
  thread_ = std::thread(&FuseSession::Run, this);
  struct stat info{};
  if (stat(mountpoint_.c_str(), &info) == 0) device_ = info.st_dev;
  return Ok();
}

void FuseSession::Run() {
  pthread_setname_np(pthread_self(), "umblock-fuse");
  // Not to be made to write pages, perhaps to our own files, when this thread needs memory. Needs
  // CAP_SYS_RESOURCE; the daemon says where that is missing.
  prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
  current_ = slots_->TakeReceiveBuffer();
  while (!fuse_session_exited(session_)) {
    fuse_buf received{};
    received.mem = current_->receive_at();
    int n = fuse_session_receive_buf(session_, &received);
    if (n == -EINTR) continue;
    if (n == -EAGAIN) {
      if (!WaitForRequest()) break;
      continue;
    }
    if (n <= 0) break;
    fuse_session_process_buf(session_, &received);
  }
  slots_->GiveReceiveBuffer(std::exchange(current_, nullptr));
  serving_.store(false, std::memory_order_release);
}

bool FuseSession::WaitForRequest() {
  pollfd waits[] = {{.fd = fuse_session_fd(session_), .events = POLLIN, .revents = 0},
                    {.fd = wake_fd_, .events = POLLIN, .revents = 0}};
  while (poll(waits, 2, -1) == -1) {
    if (errno != EINTR) return false;
  }
  return waits[1].revents == 0;
}

void FuseSession::StopThread() {
  if (!thread_.joinable()) return;
  uint64_t one = 1;
  fuse_session_exit(session_);
  ssize_t written = write(wake_fd_, &one, sizeof one);
  UMBLOCK_ASSERT(written == sizeof one, "an eventfd takes a count");
  thread_.join();
}

void FuseSession::Unmount() {
  if (session_ != nullptr) fuse_session_unmount(session_);
}

void FuseSession::Initialize(fuse_conn_info* connection) {
  // Splicing would hand over pages of a pipe where the volume needs aligned memory.
  connection->want &=
      ~static_cast<unsigned>(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
                             FUSE_CAP_READDIRPLUS | FUSE_CAP_WRITEBACK_CACHE);
  connection->want |= connection->capable & (FUSE_CAP_ASYNC_DIO | FUSE_CAP_ATOMIC_O_TRUNC |
                                             FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_ASYNC_READ);
  connection->max_write = kMaxTransferBytes;
  connection->max_background = kMaxBackground;
  connection->congestion_threshold = kMaxBackground;
}

void FuseSession::FillAttributes(const ExportedFile* file, struct stat* info) const {
  info->st_uid = geteuid();
  info->st_gid = getegid();
  info->st_mtim = info->st_atim = info->st_ctim = started_;
  info->st_blksize = kBlockSize;
  if (file == nullptr) {
    info->st_ino = FileTable::kRootInode;
    info->st_mode = S_IFDIR | (options_.allow_other ? 0555 : 0500);
    info->st_nlink = 2;
    return;
  }
  info->st_ino = file->inode();
  info->st_mode = S_IFREG | (options_.file_mode & (file->read_only() ? 0555 : 0777));
  info->st_nlink = 1;
  info->st_size = static_cast<off_t>(file->size());
  info->st_blocks = static_cast<blkcnt_t>(file->size() / 512);
}

bool FuseSession::StatInode(uint64_t inode, struct stat* info) const {
  if (inode == FileTable::kRootInode) {
    FillAttributes(nullptr, info);
    return true;
  }
  std::shared_ptr<ExportedFile> file = files_->Find(inode);
  if (file == nullptr) return false;
  FillAttributes(file.get(), info);
  return true;
}

void FuseSession::Lookup(fuse_req_t request, uint64_t parent, const char* name) {
  std::shared_ptr<ExportedFile> file =
      parent == FileTable::kRootInode ? files_->Find(std::string_view(name)) : nullptr;
  if (file == nullptr) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  fuse_entry_param entry{};
  entry.ino = file->inode();
  FillAttributes(file.get(), &entry.attr);
  fuse_reply_entry(request, &entry);
}

// A volume's size, owner and mode are not the users' to change; times are nobody's business.
void FuseSession::SetAttributes(fuse_req_t request, uint64_t inode, const struct stat* wanted,
                                int which) {
  struct stat info{};
  if (!StatInode(inode, &info)) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  bool resize = (which & FUSE_SET_ATTR_SIZE) != 0 && wanted->st_size != info.st_size;
  if (resize || (which & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) != 0) {
    fuse_reply_err(request, EPERM);
    return;
  }
  fuse_reply_attr(request, &info, 0);
}

void FuseSession::ReadDirectory(fuse_req_t request, size_t size, off_t after) {
  std::vector<char> reply(std::min<size_t>(size, 65536));
  size_t used = 0;
  auto add = [&](const char* name, uint64_t inode, mode_t type, off_t cookie) {
    struct stat info{};
    info.st_ino = inode;
    info.st_mode = type;
    size_t n =
        fuse_add_direntry(request, reply.data() + used, reply.size() - used, name, &info, cookie);
    if (n > reply.size() - used) return false;
    used += n;
    return true;
  };
  // Cookies: 1 and 2 for the two dots, then the inode number of the entry.
  bool room = true;
  if (after < 1) room = add(".", FileTable::kRootInode, S_IFDIR, 1);
  if (room && after < 2) room = add("..", FileTable::kRootInode, S_IFDIR, 2);
  for (const auto& file : files_->All()) {
    auto cookie = static_cast<off_t>(file->inode());
    if (cookie <= after) continue;
    if (!room) break;
    room = add(file->name().c_str(), file->inode(), S_IFREG, cookie);
  }
  fuse_reply_buf(request, reply.data(), used);
}

void FuseSession::StatFileSystem(fuse_req_t request) {
  struct statvfs info{};
  info.f_bsize = info.f_frsize = kBlockSize;
  info.f_namemax = 255;
  for (const auto& file : files_->All()) {
    info.f_blocks += file->size() / kBlockSize;
    info.f_files += 1;
  }
  fuse_reply_statfs(request, &info);
}

RequestSlot* FuseSession::NewSlot(fuse_req_t request, RequestKind kind,
                                  const fuse_file_info* info) {
  RequestSlot* slot = slots_->TakeSlot();
  if (slot == nullptr) {
    fuse_reply_err(request, ENOMEM);
    return nullptr;
  }
  slot->request = request;
  slot->kind = kind;
  slot->fua = false;
  slot->unmap = false;
  slot->handle = info == nullptr ? nullptr : reinterpret_cast<FileHandle*>(info->fh);  // NOLINT
  slot->offset = 0;
  slot->length = 0;
  slot->payload = nullptr;
  return slot;
}

RequestSlot* FuseSession::NewDeviceSlot(fuse_req_t request, RequestKind kind,
                                        const fuse_file_info* info, uint64_t payload) {
  ExportedFile* file = reinterpret_cast<FileHandle*>(info->fh)->file;  // NOLINT
  const uint64_t bytes = kRequestBytes + AlignUp(payload, uint64_t{ReceiveBuffer::kPage});
  if (!TakeMemory(file, bytes)) {
    fuse_reply_err(request, ENOBUFS);
    return nullptr;
  }
  RequestSlot* slot = NewSlot(request, kind, info);
  if (slot == nullptr) {
    file->memory().Give(bytes);
    return nullptr;
  }
  slot->memory = bytes;
  return slot;
}

bool FuseSession::TakeMemory(ExportedFile* file, uint64_t bytes) {
  FileMemory& memory = file->memory();
  const bool stalled = memory.stalled();
  const bool taken = memory.Take(bytes, options_.stall_patience);
  if (stalled == !taken) return taken;
  if (taken) {
    logger_->Info("fuse {}: {} takes requests again", mountpoint_, file->name());
  } else {
    logger_->Warn(
        "fuse {}: requests of {} hold {} MiB and none ended for {} ms: until {} answers again, "
        "more of them fail with ENOBUFS",
        mountpoint_, file->name(), memory.limit() >> 20, options_.stall_patience.count(),
        file->device_name());
  }
  return taken;
}

void FuseSession::Hand(RequestSlot* slot) {
  slot->handle->file->reactor().PostFromAnyThread(&slot->posted);
}

void FuseSession::Refuse(RequestSlot* slot, int error) {
  fuse_reply_err(slot->request, error);
  FileMemory& memory = slot->handle->file->memory();
  const uint64_t bytes = std::exchange(slot->memory, 0);
  slots_->GiveSlot(slot);
  memory.Give(bytes);
}

void FuseSession::Open(fuse_req_t request, uint64_t inode, const fuse_file_info* info) {
  std::shared_ptr<ExportedFile> file = files_->Find(inode);
  if (file == nullptr) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  auto handle = std::make_unique<FileHandle>(
      file.get(), DescribeOpener(file->name(), fuse_req_ctx(request)->pid));
  RequestSlot* slot = NewSlot(request, RequestKind::kOpen, nullptr);
  if (slot == nullptr) return;
  slot->open_flags = info->flags;
  slot->file = std::move(file);
  slot->handle = handle.release();
  Hand(slot);
}

void FuseSession::Release(fuse_req_t request, const fuse_file_info* info) {
  RequestSlot* slot = NewSlot(request, RequestKind::kRelease, info);
  UMBLOCK_ASSERT(slot != nullptr, "there is address space to close a file");
  Hand(slot);
}

void FuseSession::Write(fuse_req_t request, const char* data, size_t size, off_t offset,
                        const fuse_file_info* info) {
  RequestSlot* slot = NewDeviceSlot(request, RequestKind::kWrite, info, size);
  if (slot == nullptr) return;
  slot->offset = static_cast<uint64_t>(offset);
  slot->length = size;
  slot->fua = (info->flags & (O_SYNC | O_DSYNC)) != 0;
  if (size <= RequestSlot::kSmallBytes) {
    std::memcpy(slot->small, data, size);
    slot->payload = slot->small;
  } else {
    ReceiveBuffer* next = slots_->TakeReceiveBuffer();
    if (next == nullptr) return Refuse(slot, ENOMEM);
    slot->large = std::exchange(current_, next);
    slot->payload = slot->large->base + ReceiveBuffer::kPage;
    UMBLOCK_ASSERT(reinterpret_cast<const char*>(slot->payload) == data,
                   "a write's payload follows its two headers");
  }
  Hand(slot);
}

void FuseSession::Allocate(fuse_req_t request, int mode, off_t offset, off_t length,
                           const fuse_file_info* info) {
  const int kind = mode & ~FALLOC_FL_KEEP_SIZE;
  if (kind != FALLOC_FL_PUNCH_HOLE && kind != FALLOC_FL_ZERO_RANGE) {
    fuse_reply_err(request, EOPNOTSUPP);
    return;
  }
  RequestSlot* slot = NewDeviceSlot(request, RequestKind::kRange, info, 0);
  if (slot == nullptr) return;
  slot->offset = static_cast<uint64_t>(offset);
  slot->length = static_cast<uint64_t>(length);
  slot->unmap = kind == FALLOC_FL_PUNCH_HOLE;
  if (kind == FALLOC_FL_ZERO_RANGE && (mode & FALLOC_FL_KEEP_SIZE) == 0 &&
      slot->offset + slot->length > slot->handle->file->size()) {
    return Refuse(slot, ENOSPC);
  }
  Hand(slot);
}

}  // namespace umblock
