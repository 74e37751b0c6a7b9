// lossyfs: a file system with a volatile cache, for power loss tests.
//
//   lossyfs [--survive=PERCENT] [--seed=N] BACKING_DIR MOUNT_POINT
//
// Shows the files of BACKING_DIR. What is written stays in this process's memory, in pages of 4
// KiB, until fsync, fdatasync, or a write with O_SYNC or O_DSYNC brings it to the backing file.
// Killing the process (SIGKILL) is the power loss: everything unflushed is gone. With --survive, so
// many percent of the unflushed pages reach the backing file all the same, chosen at random: a disk
// keeps no order between writes that were not flushed. Runs in the foreground; SIGTERM unmounts
// after bringing everything to the backing files. Flat: no subdirectories are made.
#define FUSE_USE_VERSION 312
#include <dirent.h>
#include <fcntl.h>
#include <fuse.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr uint64_t kPage = 4096;
using Page = std::array<char, kPage>;

struct CachedFile {
  int fd = -1;                                      // of the backing file
  std::map<uint64_t, std::unique_ptr<Page>> pages;  // written and not flushed, by page number
};

struct Lossy {
  std::string backing;
  unsigned survive_percent = 0;
  std::mt19937_64 random;
  std::mutex mutex;
  std::map<std::string, CachedFile> files;
};

Lossy* lossy = nullptr;  // libfuse's callbacks have no better way to it

std::string BackingPath(const char* path) { return lossy->backing + path; }

// The cached file, opened on first use. Called with the mutex held.
CachedFile* Find(const char* path, int* error) {
  auto [at, fresh] = lossy->files.try_emplace(path);
  if (fresh) {
    at->second.fd = open(BackingPath(path).c_str(), O_RDWR | O_CLOEXEC);
    if (at->second.fd == -1) {
      *error = errno;
      lossy->files.erase(at);
      return nullptr;
    }
  }
  return &at->second;
}

bool ReadPage(const CachedFile& file, uint64_t number, Page* page) {
  page->fill(0);
  return pread(file.fd, page->data(), kPage, static_cast<off_t>(number * kPage)) >= 0;
}

uint64_t BackingSize(const CachedFile& file) {
  struct stat info{};
  fstat(file.fd, &info);
  return static_cast<uint64_t>(info.st_size);
}

int WritePage(const CachedFile& file, uint64_t number, const Page& page) {
  uint64_t size = BackingSize(file);
  uint64_t at = number * kPage;
  if (at >= size) return 0;
  uint64_t n = std::min(kPage, size - at);
  ssize_t written = pwrite(file.fd, page.data(), n, static_cast<off_t>(at));
  return written == static_cast<ssize_t>(n) ? 0 : EIO;
}

int Commit(CachedFile* file) {
  for (const auto& [number, page] : file->pages) {
    if (int error = WritePage(*file, number, *page); error != 0) return error;
  }
  file->pages.clear();
  return fdatasync(file->fd) == 0 ? 0 : errno;
}

int GetAttributes(const char* path, struct stat* info, fuse_file_info*) {
  return lstat(BackingPath(path).c_str(), info) == 0 ? 0 : -errno;
}

int ReadDirectory(const char* path, void* out, fuse_fill_dir_t fill, off_t, fuse_file_info*,
                  fuse_readdir_flags) {
  DIR* directory = opendir(BackingPath(path).c_str());
  if (directory == nullptr) return -errno;
  while (const dirent* entry = readdir(directory)) {
    fill(out, entry->d_name, nullptr, 0, static_cast<fuse_fill_dir_flags>(0));
  }
  closedir(directory);
  return 0;
}

int Open(const char* path, fuse_file_info* info) {
  std::lock_guard lock(lossy->mutex);
  int error = 0;
  if (Find(path, &error) == nullptr) return -error;
  info->direct_io = 1;
  return 0;
}

int Create(const char* path, mode_t mode, fuse_file_info* info) {
  int fd = open(BackingPath(path).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, mode);
  if (fd == -1) return -errno;
  close(fd);
  return Open(path, info);
}

int Read(const char* path, char* to, size_t length, off_t offset, fuse_file_info*) {
  std::lock_guard lock(lossy->mutex);
  int error = 0;
  CachedFile* file = Find(path, &error);
  if (file == nullptr) return -error;
  uint64_t at = static_cast<uint64_t>(offset);
  uint64_t size = BackingSize(*file);
  if (at >= size) return 0;
  length = std::min<uint64_t>(length, size - at);
  ssize_t n = pread(file->fd, to, length, offset);
  if (n < 0) return -errno;
  for (auto page = file->pages.lower_bound(at / kPage);
       page != file->pages.end() && page->first * kPage < at + length; ++page) {
    uint64_t begin = std::max(at, page->first * kPage);
    uint64_t end = std::min(at + length, (page->first + 1) * kPage);
    std::memcpy(to + (begin - at), page->second->data() + begin % kPage, end - begin);
  }
  return static_cast<int>(length);
}

int Write(const char* path, const char* from, size_t length, off_t offset, fuse_file_info* info) {
  std::lock_guard lock(lossy->mutex);
  int error = 0;
  CachedFile* file = Find(path, &error);
  if (file == nullptr) return -error;
  uint64_t at = static_cast<uint64_t>(offset);
  const uint64_t end = at + length;
  if (end > BackingSize(*file) && ftruncate(file->fd, static_cast<off_t>(end)) != 0) return -errno;
  while (at < end) {
    uint64_t number = at / kPage;
    uint64_t n = std::min(end, (number + 1) * kPage) - at;
    std::unique_ptr<Page>& page = file->pages[number];
    if (page == nullptr) {
      page = std::make_unique<Page>();
      if (!ReadPage(*file, number, page.get())) return -EIO;
    }
    std::memcpy(page->data() + at % kPage, from, n);
    if (lossy->random() % 100 < lossy->survive_percent) WritePage(*file, number, *page);
    from += n;
    at += n;
  }
  if ((info->flags & (O_SYNC | O_DSYNC)) != 0) {
    if (int failed = Commit(file); failed != 0) return -failed;
  }
  return static_cast<int>(length);
}

int Fsync(const char* path, int, fuse_file_info*) {
  std::lock_guard lock(lossy->mutex);
  int error = 0;
  CachedFile* file = Find(path, &error);
  return file == nullptr ? -error : -Commit(file);
}

// Made durable at once: the interest is in writes.
int Allocate(const char* path, int mode, off_t offset, off_t length, fuse_file_info*) {
  std::lock_guard lock(lossy->mutex);
  int error = 0;
  CachedFile* file = Find(path, &error);
  if (file == nullptr) return -error;
  if (int failed = Commit(file); failed != 0) return -failed;
  return fallocate(file->fd, mode, offset, length) == 0 ? 0 : -errno;
}

int Truncate(const char* path, off_t size, fuse_file_info*) {
  std::lock_guard lock(lossy->mutex);
  int error = 0;
  CachedFile* file = Find(path, &error);
  if (file == nullptr) return -error;
  if (int failed = Commit(file); failed != 0) return -failed;
  return ftruncate(file->fd, size) == 0 ? 0 : -errno;
}

int Unlink(const char* path) {
  std::lock_guard lock(lossy->mutex);
  auto found = lossy->files.find(path);
  if (found != lossy->files.end()) {
    close(found->second.fd);
    lossy->files.erase(found);
  }
  return unlink(BackingPath(path).c_str()) == 0 ? 0 : -errno;
}

int StatFileSystem(const char* path, struct statvfs* info) {
  return statvfs(BackingPath(path).c_str(), info) == 0 ? 0 : -errno;
}

void* Init(fuse_conn_info*, fuse_config* config) {
  config->attr_timeout = 0;
  config->entry_timeout = 0;
  config->negative_timeout = 0;
  config->hard_remove = 1;
  return nullptr;
}

void Destroy(void*) {
  std::lock_guard lock(lossy->mutex);
  for (auto& [path, file] : lossy->files) Commit(&file);
}

fuse_operations Operations() {
  fuse_operations table{};
  table.getattr = &GetAttributes;
  table.readdir = &ReadDirectory;
  table.open = &Open;
  table.create = &Create;
  table.read = &Read;
  table.write = &Write;
  table.fsync = &Fsync;
  table.fallocate = &Allocate;
  table.truncate = &Truncate;
  table.unlink = &Unlink;
  table.statfs = &StatFileSystem;
  table.init = &Init;
  table.destroy = &Destroy;
  return table;
}

}  // namespace

int main(int argc, char** argv) {
  Lossy state;
  lossy = &state;
  std::vector<std::string> places;
  for (int i = 1; i < argc; ++i) {
    std::string_view argument = argv[i];
    if (argument.starts_with("--survive=")) {
      state.survive_percent = static_cast<unsigned>(std::strtoul(argv[i] + 10, nullptr, 10));
    } else if (argument.starts_with("--seed=")) {
      state.random.seed(std::strtoull(argv[i] + 7, nullptr, 10));
    } else {
      places.emplace_back(argument);
    }
  }
  if (places.size() != 2) {
    std::fputs("usage: lossyfs [--survive=PERCENT] [--seed=N] BACKING_DIR MOUNT_POINT\n", stderr);
    return 2;
  }
  state.backing = places[0];
  std::string options = "fsname=lossyfs,default_permissions";
  std::vector<char*> arguments = {
      argv[0],        const_cast<char*>("-f"), const_cast<char*>("-s"), const_cast<char*>("-o"),
      options.data(), places[1].data()};
  const fuse_operations table = Operations();
  return fuse_main(static_cast<int>(arguments.size()), arguments.data(), &table, nullptr);
}
