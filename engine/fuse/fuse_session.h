// FuseSession: the conversation with the kernel of one mount: mounting, the thread that reads
// requests, and the answers that need no device.
//
// Mount, StopThread and Unmount may block: they are for a thread that may. The thread runs from
// Mount to StopThread (or until somebody else unmounts). Source: fuse(4), <linux/fuse.h>.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "engine/base/error.h"
#include "engine/base/log.h"
#include "engine/fuse/file_table.h"
#include "engine/fuse/fuse_mount.h"
#include "engine/fuse/request_slot.h"

namespace umblock {

class FuseSession {
 public:
  FuseSession(std::string mountpoint, const FuseOptions& options, FileTable* files, SlotPool* slots,
              Logger* logger);
  FuseSession(const FuseSession&) = delete;
  FuseSession& operator=(const FuseSession&) = delete;
  ~FuseSession();

  Status Mount();
  void StopThread();
  // After the thread has stopped and every request is answered.
  void Unmount();

  bool serving() const { return serving_.load(std::memory_order_acquire); }
  dev_t device() const { return device_; }

 private:
  struct Operations;  // what libfuse calls

  Status ClearStaleMount();
  Status CheckMountpoint();
  void Run();
  bool WaitForRequest();

  void FillAttributes(const ExportedFile* file, struct stat* info) const;
  bool StatInode(uint64_t inode, struct stat* info) const;
  void Initialize(fuse_conn_info* connection);
  void Lookup(fuse_req_t request, uint64_t parent, const char* name);
  void SetAttributes(fuse_req_t request, uint64_t inode, const struct stat* wanted, int which);
  void ReadDirectory(fuse_req_t request, size_t size, off_t after);
  void StatFileSystem(fuse_req_t request);
  void Open(fuse_req_t request, uint64_t inode, const fuse_file_info* info);
  void Write(fuse_req_t request, const char* data, size_t size, off_t offset,
             const fuse_file_info* info);
  void Allocate(fuse_req_t request, int mode, off_t offset, off_t length,
                const fuse_file_info* info);
  void Release(fuse_req_t request, const fuse_file_info* info);
  // Both give null if `request` cannot be taken and is answered. A request for the device holds
  // `payload` bytes besides its slot.
  RequestSlot* NewSlot(fuse_req_t request, RequestKind kind, const fuse_file_info* info);
  RequestSlot* NewDeviceSlot(fuse_req_t request, RequestKind kind, const fuse_file_info* info,
                             uint64_t payload);
  bool TakeMemory(ExportedFile* file, uint64_t bytes);
  static void Hand(RequestSlot* slot);
  void Refuse(RequestSlot* slot, int error);

  const std::string mountpoint_;
  const FuseOptions options_;
  FileTable* files_;
  SlotPool* slots_;
  Logger* logger_;
  fuse_session* session_ = nullptr;
  int wake_fd_ = -1;
  dev_t device_ = 0;
  timespec started_{};
  std::thread thread_;
  std::atomic<bool> serving_{false};
  ReceiveBuffer* current_ = nullptr;  // what the request being handled was read into
};

}  // namespace umblock
