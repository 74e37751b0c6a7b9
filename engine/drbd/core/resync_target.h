// ResyncTarget: fetches the out-of-sync blocks of one volume from one peer
// (drbd-metadata-resync.md 6.2, 6.4, 6.5; drbd-wire.md 5.12).
//
// A loop walks the bitmap slot, asks for ranges within the controller's budget, and waits; replies
// arrive through OnReply and are written as soon as the range table lets them. A block stays in the
// range table from before its request until it is written, so that no write of the front and no
// other resync touches it (INV-27, INV-28). The bit is cleared when the write completed. When the
// walk finds no bit left and nothing is outstanding, Done is reported; failed blocks keep their
// bits.
//
// With rs-discard-granularity whole units of it are asked for with P_RS_THIN_REQ: the source may
// say that they are zeroes, which costs no data, and the backing device may release them (6.4.3,
// E.5).
//
// With csums-alg the own content is read first and its digest sent: a block that is equal at the
// source costs no data (6.9). Which resyncs do that is decided when one starts.
//
// Life cycle: Start() … Stop(); Stop() is awaited and returns when no write of it is in flight.
// Threading: one reactor.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstdint>
#include <vector>

#include "engine/block/block_device.h"
#include "engine/drbd/core/io_ranges.h"
#include "engine/drbd/core/object_pool.h"
#include "engine/drbd/core/resync_controller.h"
#include "engine/drbd/status.h"
#include "engine/drbd/wire/data_packets.h"
#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd {

class PeerDevice;
class ResyncTarget;

// One block that was asked for.
struct ResyncBlock final : PoolObject, IoRange {
  ResyncBlock() : io(nullptr) {}
  ResyncTarget* target = nullptr;
  uint64_t first = 0;  // sectors
  uint64_t end = 0;
  bool replied = false;
  bool thin = false;         // may be answered as deallocated
  bool deallocated = false;  // was: zeroes are written
  bool writing = false;
  bool stale = false;    // the source has said since that the block is out of sync
  bool reading = false;  // the own content, for its digest; not asked for yet
  bool by_digest = false;
  Buffer buffer;
  iovec iov{};
  BlockIo io;
  boost::intrusive::list_member_hook<> hook;
};

class ResyncTarget {
 public:
  explicit ResyncTarget(PeerDevice& device);
  ~ResyncTarget();

  // While an earlier one is just being stopped: once that is done.
  void Start();
  Task<void> Stop();
  bool running() const { return running_; }
  bool stopping() const { return stopping_; }
  // The blocks are there; what remains is to record it.
  bool finishing() const { return finishing_; }
  void Pause(bool paused);

  // The block that a reply with this id, sector and size answers; nullptr if none does.
  ResyncBlock* FindRequest(uint64_t block_id, uint64_t sector, uint32_t bytes);
  // The block's data is in block->buffer.
  void OnReply(ResyncBlock* block);
  // P_RS_DEALLOCATED: the block reads as zeroes there. False: it was not asked so.
  bool OnDeallocated(ResyncBlock* block);
  // P_NEG_RS_DREPLY: the source cannot read it. P_RS_CANCEL: try again later.
  void OnFailed(ResyncBlock* block);
  void OnCancelled(ResyncBlock* block);
  // P_RS_IS_IN_SYNC. False: it was not asked by digest, so nothing was compared.
  bool OnInSync(ResyncBlock* block);
  // P_OUT_OF_SYNC: data that came before it does not make these sectors in sync (INV-26).
  void OnOutOfSync(uint64_t first, uint64_t end);

  void Configure(const ResyncOptions& options) { controller_.Configure(options); }
  SyncProgress progress() const;
  uint64_t failed_blocks() const { return failed_blocks_; }
  uint64_t outstanding() const { return blocks_.in_use(); }

 private:
  using List = boost::intrusive::list<
      ResyncBlock, boost::intrusive::member_hook<ResyncBlock, boost::intrusive::list_member_hook<>,
                                                 &ResyncBlock::hook>>;

  Task<void> Loop();
  // What became of a range that was to be asked for.
  enum class Asked : uint8_t { kYes, kConflict, kNoMemory };

  bool UsesDigests() const;
  uint64_t ThinBits() const;
  bool Yields();
  uint64_t LargestRequest() const;
  Task<bool> Finish();
  uint64_t RequestSome(uint64_t budget_sectors);
  // What to ask for at a bit that is set: up to `most_sectors`, except for a whole thin unit.
  struct Extent {
    uint64_t end_bit;
    bool thin;
  };
  Extent ExtentAt(uint64_t bit, uint64_t most_sectors) const;
  Asked RequestRange(uint64_t first, uint64_t end, bool thin);
  void ReadOwn(ResyncBlock* block);
  void OnOwnRead(ResyncBlock* block, int error);
  void OnAnswered(ResyncBlock* block);
  void WriteBlock(ResyncBlock* block);
  void OnWritten(ResyncBlock* block, int error);
  void Release(ResyncBlock* block);
  void Sample();

  PeerDevice& device_;
  Reactor& reactor_;
  ResyncController controller_;
  ObjectPool<ResyncBlock> blocks_;
  List active_;
  TaskGroup tasks_;
  WaitQueue changed_;
  bool running_ = false;
  bool stopping_ = false;
  bool start_again_ = false;
  bool paused_ = false;
  bool finishing_ = false;
  uint64_t position_ = 0;         // next bit of the walk
  uint64_t arrived_ = 0;          // sectors answered since the last tick
  uint64_t request_sectors_ = 0;  // size of the next request, doubles
  uint64_t total_bits_ = 0;
  uint64_t failed_blocks_ = 0;
  uint64_t conflicts_ = 0;
  uint64_t equal_bytes_ = 0;  // of this resync
  bool by_digest_ = false;
  uint64_t deallocated_bytes_ = 0;  // of this resync
  uint64_t thin_bits_ = 0;          // the unit of thin requests; 0: none are sent
  uint64_t seen_other_bytes_ = 0;   // of others' I/O to the disk, when it was last noticed
  Time started_{};
  struct Mark {
    Time at;
    uint64_t left_bits;
  };
  std::vector<Mark> marks_;
};

}  // namespace umblock::drbd
