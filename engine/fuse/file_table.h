// FileTable: the names of a mount, read by the session thread and changed by the mount's reactor.
// The lock is held for a look-up, never across I/O, and not on the way of reads and writes (they
// come with a handle). Inode numbers are not used again. Threading: any.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "engine/fuse/exported_file.h"

namespace umblock {

class FileTable {
 public:
  static constexpr uint64_t kRootInode = 1;
  static constexpr uint64_t kFirstInode = 16;

  uint64_t NextInode() { return next_inode_++; }
  bool Insert(std::shared_ptr<ExportedFile> file) {
    std::lock_guard lock(mutex_);
    if (Locate(file->name()) != nullptr) return false;
    uint64_t inode = file->inode();
    return files_.emplace(inode, std::move(file)).second;
  }
  void Erase(uint64_t inode) {
    std::lock_guard lock(mutex_);
    files_.erase(inode);
  }
  std::shared_ptr<ExportedFile> Find(std::string_view name) const {
    std::lock_guard lock(mutex_);
    return Locate(name);
  }
  std::shared_ptr<ExportedFile> Find(uint64_t inode) const {
    std::lock_guard lock(mutex_);
    auto found = files_.find(inode);
    return found == files_.end() ? nullptr : found->second;
  }
  // By inode number.
  std::vector<std::shared_ptr<ExportedFile>> All() const {
    std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<ExportedFile>> result;
    result.reserve(files_.size());
    for (const auto& [inode, file] : files_) result.push_back(file);
    return result;
  }

 private:
  std::shared_ptr<ExportedFile> Locate(std::string_view name) const {
    for (const auto& [inode, file] : files_) {
      if (file->name() == name) return file;
    }
    return nullptr;
  }

  mutable std::mutex mutex_;
  std::map<uint64_t, std::shared_ptr<ExportedFile>> files_;
  uint64_t next_inode_ = kFirstInode;
};

}  // namespace umblock
