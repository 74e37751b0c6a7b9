// FuseMount: a directory with one regular file per exported volume, of the volume's size, fit for
// losetup, mount, dd and qemu.
//
// I/O is direct: the kernel caches neither data nor attributes nor names, so nothing stale is left
// when another node becomes Primary, and a write that was answered is with the volume. fsync is a
// Flush, O_SYNC and O_DSYNC are FUA, fallocate punches holes (PUNCH_HOLE) and zeroes (ZERO_RANGE).
// O_TRUNC is ignored as on a block device; the size changes only with the volume's.
//
// One thread per mount reads requests from the kernel and answers what needs no device (names,
// attributes); the rest it hands to the reactor of the file's device, which answers the kernel
// itself. No lock is taken on that way and none is held across I/O (libfuse guards its own request
// list). Payloads above 8 KiB are received into page-aligned memory and passed on as they are.
// (The kernel cuts transfers at 256 pages of the caller's memory. Where that does not begin on a
// page the pieces end within a sector, and those sectors are copied.)
//
// A volume that does not answer (suspended I/O, a disk that hangs) holds back nobody but those who
// use its file. Names, attributes, opening and closing wait for no volume. The session thread reads
// whatever the kernel has and waits for no request to end: of each file max_requests are with the
// device and the others wait beside it, in order. The memory that requests of a file hold is
// bounded by waiting_bytes. Only a file that has reached that, which takes hundreds of writers at a
// time, holds back its mount, and only while it goes on: if it does not within stall_patience, what
// does not fit fails with ENOBUFS until it does. Large reads use at most an eighth of the reactor's
// buffers per file and memory of their own above that.
//
// The kernel has a bound of its own on asynchronous requests (io_submit and io_uring with O_DIRECT,
// losetup --direct-io=on) and on closes: max_background per mount, for all its files together. One
// above it would wait for those of the other files, so it is set to the highest value, 65535; the
// bound above keeps a stalled file from reaching that. A daemon without CAP_SYS_ADMIN gets at most
// /sys/module/fuse/parameters/max_user_bgreq. congestion_threshold, which only concerns cached I/O,
// is the same. Requests of system calls that wait (read, write, fsync) have no such bound: there is
// one for each thread in a call.
//
// Threading: everything on the reactor given to Start, except IsOnExport (any thread that may
// block). Devices may live on other reactors.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/block/block_device.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/task.h"

namespace umblock {

struct FuseOptions {
  uint32_t max_requests = 128;    // of a file at its device, 4 … 1024
  uint32_t receive_buffers = 32;  // of 1 MiB, kept for the mount, 2 … 256; more come and go
  uint64_t waiting_bytes = uint64_t{256} << 20;  // memory for requests of a file, from 4 MiB
  std::chrono::milliseconds stall_patience{5000};
  uint32_t file_mode = 0600;  // permission bits of the files
  bool allow_other = false;   // let other users in, as file_mode says
};

struct FuseFileOptions {
  bool read_only = false;  // opening for writing fails with EROFS
};

struct FuseFileStatus {
  std::string name;
  std::string device;
  uint64_t size = 0;  // bytes
  std::vector<std::string> openers;
  uint64_t reads = 0, read_bytes = 0;
  uint64_t writes = 0, write_bytes = 0;
  uint64_t flushes = 0;
  uint64_t unaligned = 0;     // requests that needed a bounce buffer
  uint64_t copied_bytes = 0;  // payload copied between receiving it and the device
  uint64_t errors = 0;
};

struct FuseStatus {
  std::string mountpoint;
  bool mounted = false;  // false: stopped, or unmounted by somebody else
  uint64_t requests_in_flight = 0;
  std::vector<FuseFileStatus> files;  // by name
};

class FuseMountImpl;

class FuseMount {
 public:
  // Mounts on `mountpoint`, an existing directory. What a killed daemon left mounted there is
  // cleared away first; a live mount is an error.
  static Task<Result<std::unique_ptr<FuseMount>>> Start(Reactor& reactor, std::string mountpoint,
                                                        FuseOptions options = {});
  // Stop() has been awaited.
  ~FuseMount();

  // Shows `device` as `name`. The device outlives RemoveFile or Stop.
  Task<Status> AddFile(std::string name, BlockDevice* device, FuseFileOptions options = {});
  // Refused while the file is open, naming who has it open. With `force` those handles answer
  // ENODEV from then on.
  Task<Status> RemoveFile(std::string name, bool force);

  // Unmounts and ends all I/O. If files are still open the mount is only taken out of sight, I/O
  // through what is open fails from then on, and the error (kFailedPrecondition) says by whom it
  // was held; the mount has stopped all the same.
  Task<Status> Stop();

  // False once it has stopped, or has been unmounted or aborted (umount -f) by somebody else: what
  // is still open then stays counted as open until Stop.
  bool mounted() const;

  // Openers and counters of all files.
  Task<FuseStatus> status();
  const std::string& mountpoint() const;

  // Does `path` lie on this mount, directly or through loop devices? May block.
  bool IsOnExport(const std::string& path) const;

 private:
  explicit FuseMount(std::unique_ptr<FuseMountImpl> impl);
  std::unique_ptr<FuseMountImpl> impl_;
};

}  // namespace umblock
