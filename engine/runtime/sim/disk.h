// SimDisk: a disk with a volatile cache, out of sparse 4 KiB pages in memory.
//
// What a power cut leaves: flushed and FUA writes, whole; of everything else any subset of sectors
// (or of 4 KiB units, SimDiskOptions::atomic_bytes), in the newest or an earlier version; of writes
// in flight any subset of their sectors too. Without a volatile cache completed writes are stable.
// Operations in flight complete in any order; a write reads its buffers when it completes, so a
// buffer that changes meanwhile shows. Threading: the world's.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/runtime/sim/random.h"
#include "engine/runtime/sim/world.h"
#include "engine/runtime/time.h"

namespace umblock {

class SimFile;

enum class SimDiskOp : uint8_t { kRead, kWrite, kSync, kDiscard, kWriteZeroes };
inline constexpr size_t kSimDiskOps = 5;

struct SimDiskOptions {
  uint64_t size = 0;  // bytes, multiple of 4096
  bool volatile_cache = true;
  uint32_t atomic_bytes = 512;  // unit that is never torn: 512 or 4096
  uint32_t alignment = 512;     // of offsets and lengths of direct I/O, bytes
  bool is_block_device = false;
  bool can_discard = true;
  Duration min_latency = 20us;
  Duration max_latency = 1ms;
  Duration max_sync_latency = 4ms;
  uint64_t bytes_per_second = uint64_t{400} << 20;
};

// An operation as an observer sees it.
struct SimDiskEvent {
  enum class What : uint8_t {
    kStarted,
    kCompleted,  // `error` says how
    kTorn,       // a power cut hit it in flight: some of its sectors arrived, others did not
    kDropped,    // a crash hit it in flight: nothing, or all of it, arrived
  };
  What what;
  SimDiskOp op;
  uint64_t offset;
  uint64_t length;
  bool durable;
  int error;  // 0 or a positive errno
};

class SimDisk {
 public:
  static constexpr size_t kPage = 4096;
  static constexpr size_t kSector = 512;

  SimDisk(SimWorld& world, std::string name, const SimDiskOptions& options);
  SimDisk(const SimDisk&) = delete;
  SimDisk& operator=(const SimDisk&) = delete;

  const std::string& name() const { return name_; }
  const SimDiskOptions& options() const { return options_; }

  // For oracles and tests: what a read would give now, and what would be left if all that is not
  // stable were lost. Bytes beyond what was ever written are zero.
  void ReadNow(uint64_t offset, MutableBytes into) const;
  void ReadStable(uint64_t offset, MutableBytes into) const;
  // Puts bytes there, stable.
  void WriteNow(uint64_t offset, Bytes bytes);
  // True if the page [4096 · n, 4096 · (n + 1)) may hold something other than zeroes.
  bool PageInUse(uint64_t page) const;
  uint64_t unstable_sectors() const;
  size_t in_flight() const { return in_flight_.size(); }
  uint64_t count(SimDiskOp op) const { return counts_[static_cast<size_t>(op)]; }

  // Faults. The next `count` operations of this kind, after `skip` more, fail; a failed write may
  // have reached the medium in part.
  void FailNext(SimDiskOp op, int error, uint32_t count = 1, uint32_t skip = 0);
  void SetErrorPermille(SimDiskOp op, uint32_t permille, int error);
  // Reads and writes that touch these bytes fail.
  void AddBadRange(uint64_t offset, uint64_t length, int error);
  void ClearFaults();
  // While it hangs nothing completes; afterwards everything does.
  void SetHang(bool hang);
  void set_slowdown(uint32_t factor) { slowdown_ = factor; }
  void SetObserver(std::function<void(const SimDiskEvent&)> observer) {
    observer_ = std::move(observer);
  }

  // By SimFile. The operation ends in file->OnDone(cookie, result).
  void Start(SimFile* file, void* cookie, SimDiskOp op, uint64_t offset, uint64_t length,
             std::vector<iovec> iov, bool durable);
  // The lock of an exclusive opener.
  bool locked() const { return locked_; }
  void set_locked(bool locked) { locked_ = locked; }
  // Larger from now on, stable.
  void Grow(uint64_t bytes);
  // By SimNode.
  void PowerCut();
  void ProcessKilled();
  void Abandon();

 private:
  using Page = std::array<std::byte, kPage>;
  static constexpr size_t kSectorsPerPage = kPage / kSector;
  static constexpr size_t kPagesPerChunk = 512;
  struct Chunk {
    std::array<std::unique_ptr<Page>, kPagesPerChunk> pages;
  };
  // A page of which some sectors differ, or may differ, from what is stable.
  struct Unstable {
    Page stable;
    std::array<uint64_t, kSectorsPerPage> written{};  // number of the last write; 0: is stable
  };
  struct Operation {
    SimFile* file;
    void* cookie;
    SimDiskOp op;
    uint64_t offset;
    uint64_t length;
    std::vector<iovec> iov;
    bool durable;
    uint64_t sync_covers = 0;  // kSync: writes up to this number
  };
  struct Fault {
    uint32_t skip = 0;
    uint32_t count = 0;
    int error = 0;
    uint32_t permille = 0;
    int permille_error = 0;
  };
  struct BadRange {
    uint64_t offset;
    uint64_t end;
    int error;
  };
  enum class Survival : uint8_t { kNothing, kEverything, kRandom, kPrefix };

  Page* FindPage(uint64_t page) const;
  Page& MakePage(uint64_t page);
  void WriteSector(uint64_t sector, const std::byte* data, bool stable);  // data null: zeroes
  void Apply(const Operation& operation, const std::vector<bool>* sectors);
  void FillFrom(Operation& operation);
  void Complete(uint64_t id);
  void CompleteSync(const Operation& operation);
  int ErrorFor(const Operation& operation);
  Duration LatencyOf(const Operation& operation);
  bool SyncCovers(uint64_t write) const;
  void LoseUnstable();
  void TearInFlight();
  void Observe(SimDiskEvent::What what, const Operation& operation, int error);
  std::vector<bool> ChooseUnits(const Operation& operation, Survival survival);

  SimWorld& world_;
  const std::string name_;
  SimDiskOptions options_;
  SimRandom random_;
  std::vector<std::unique_ptr<Chunk>> chunks_;
  std::map<uint64_t, Unstable> unstable_;  // by page
  std::map<uint64_t, Operation> in_flight_;
  std::vector<uint64_t> held_;  // due while the disk hangs
  uint64_t next_id_ = 1;
  uint64_t writes_ = 0;
  SimTime medium_free_{};
  std::array<Fault, kSimDiskOps> faults_;
  std::vector<BadRange> bad_;
  bool hang_ = false;
  bool locked_ = false;
  uint32_t slowdown_ = 1;
  std::array<uint64_t, kSimDiskOps> counts_{};
  std::function<void(const SimDiskEvent&)> observer_;
};

}  // namespace umblock
