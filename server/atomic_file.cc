#include "server/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace umblock::server {
namespace {

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Status WriteAll(int fd, std::string_view data, const std::string& path) {
  while (!data.empty()) {
    const ssize_t n = ::write(fd, data.data(), data.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      return std::unexpected(Error::FromErrno(errno, fmt::format("write '{}'", path)));
    }
    data.remove_prefix(static_cast<size_t>(n));
  }
  return Ok();
}

Status SyncDirectory(const std::string& path) {
  const std::string directory = DirectoryOf(path);
  Fd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0 || ::fsync(fd.get()) != 0) {
    return std::unexpected(Error::FromErrno(errno, fmt::format("fsync '{}'", directory)));
  }
  return Ok();
}

// One replacement. `crashed` means: a test ended the process here, so nothing is cleaned up.
class Replacement {
 public:
  Replacement(const std::string& path, std::string_view contents, const AtomicFileOptions& options)
      : path_(path),
        temporary_(path + ".new"),
        previous_(path + ".previous"),
        contents_(contents),
        options_(options) {}

  Status Run() {
    Status written = WriteTemporary();
    if (!written) {
      if (!crashed_) ::unlink(temporary_.c_str());
      return written;
    }
    return Replace();
  }

 private:
  Status Before(FileStep step) {
    if (options_.fault == nullptr || !*options_.fault) return Ok();
    const FileFault fault = (*options_.fault)(path_, step);
    if (fault == FileFault::kNone) return Ok();
    crashed_ = fault == FileFault::kCrash;
    return std::unexpected(Error::FromErrno(EIO, fmt::format("'{}'", path_)));
  }

  Status WriteTemporary() {
    UMBLOCK_TRY(Before(FileStep::kCreate));
    ::unlink(temporary_.c_str());
    Fd fd(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
                 options_.mode));
    if (fd.get() < 0 || ::fchmod(fd.get(), options_.mode) != 0) {
      return std::unexpected(Error::FromErrno(errno, fmt::format("create '{}'", temporary_)));
    }
    if (Status allowed = Before(FileStep::kWrite); !allowed) {
      // A write that a crash cut short.
      (void)WriteAll(fd.get(), contents_.substr(0, contents_.size() / 2), temporary_);
      return allowed;
    }
    UMBLOCK_TRY(WriteAll(fd.get(), contents_, temporary_));
    UMBLOCK_TRY(Before(FileStep::kSync));
    if (::fsync(fd.get()) != 0) {
      return std::unexpected(Error::FromErrno(errno, fmt::format("fsync '{}'", temporary_)));
    }
    UMBLOCK_TRY(Before(FileStep::kKeep));
    if (options_.keep_previous) {
      ::unlink(previous_.c_str());
      if (::link(path_.c_str(), previous_.c_str()) != 0 && errno != ENOENT) {
        return std::unexpected(
            Error::FromErrno(errno, fmt::format("link '{}' to '{}'", path_, previous_)));
      }
    }
    return Before(FileStep::kRename);
  }

  Status Replace() {
    std::string old;
    const bool had_old = [&] {
      auto read = ReadSmallFile(path_, size_t{256} << 20);
      if (read) old = std::move(*read);
      return read.has_value();
    }();
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
      Error error = Error::FromErrno(errno, fmt::format("rename '{}' to '{}'", temporary_, path_));
      ::unlink(temporary_.c_str());
      return std::unexpected(std::move(error));
    }
    Status synced = Before(FileStep::kSyncDirectory);
    if (synced) synced = SyncDirectory(path_);
    if (!synced && !crashed_) TakeBack(had_old, old);
    return synced;
  }

  void TakeBack(bool had_old, const std::string& old) {
    if (!had_old) {
      ::unlink(path_.c_str());
      return;
    }
    Fd fd(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, options_.mode));
    if (fd.get() < 0 || !WriteAll(fd.get(), old, temporary_)) return;
    (void)::fsync(fd.get());
    (void)::rename(temporary_.c_str(), path_.c_str());
  }

  const std::string& path_;
  const std::string temporary_;
  const std::string previous_;
  const std::string_view contents_;
  const AtomicFileOptions& options_;
  bool crashed_ = false;
};

}  // namespace

Status WriteFileAtomically(const std::string& path, std::string_view contents,
                           const AtomicFileOptions& options) {
  return Replacement(path, contents, options).Run();
}

Result<std::string> ReadSmallFile(const std::string& path, size_t limit) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) {
    return std::unexpected(Error::FromErrno(errno, fmt::format("open '{}'", path)));
  }
  std::string contents;
  char chunk[16384];
  for (;;) {
    const ssize_t n = ::read(fd.get(), chunk, sizeof chunk);
    if (n == 0) return contents;
    if (n < 0) {
      if (errno == EINTR) continue;
      return std::unexpected(Error::FromErrno(errno, fmt::format("read '{}'", path)));
    }
    contents.append(chunk, static_cast<size_t>(n));
    if (contents.size() > limit) {
      return MakeError(ErrorCode::kResourceExhausted, "'{}' is larger than {} bytes", path, limit);
    }
  }
}

}  // namespace umblock::server
