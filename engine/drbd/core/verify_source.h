// VerifySource: an online verify that this node drives, of one volume with one peer: VerifyS
// (drbd-metadata-resync.md 6.10.3; drbd-wire.md 5.13; drbd-io-path.md G.7).
//
// A loop asks the peer for the digest of one block after the other, as fast as the resync
// controller lets it; when the digest is there the own block is read and compared, and the peer is
// told. What differs is set out of sync on both sides, never more than was compared. A block is
// watched from before its request until it is compared: one that a write touches meanwhile is
// skipped, since the two reads may lie on either side of the write. Nothing ever waits for a
// verify.
//
// Life cycle: Prepare(), then the state VerifyS, which calls Start(); it ends by itself at the end,
// after RequestStop(), or with Stop(), which is awaited. The place that was reached is kept, so
// that the next one may go on from there. Threading: one reactor.
#pragma once

#include <array>
#include <boost/intrusive/list.hpp>
#include <cstdint>

#include "engine/base/bytes.h"
#include "engine/block/block_device.h"
#include "engine/drbd/core/io_ranges.h"
#include "engine/drbd/core/object_pool.h"
#include "engine/drbd/core/resync_controller.h"
#include "engine/drbd/core/sync_rate.h"
#include "engine/drbd/status.h"
#include "engine/drbd/wire/constants.h"
#include "engine/drbd/wire/data_packets.h"
#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd {

class PeerDevice;
class VerifySource;

struct VerifyBlock final : PoolObject, IoRange {
  VerifyBlock() : io(nullptr) {}
  VerifySource* source = nullptr;
  bool replied = false;
  bool waiting = false;  // for writes that the peer had when it read
  bool reading = false;
  uint32_t dagtag_node_id = 0;
  uint64_t dagtag = 0;
  std::array<std::byte, wire::kMaxDigestBytes> digest{};  // the peer's
  size_t digest_size = 0;
  Buffer buffer;
  iovec iov{};
  BlockIo io;
  boost::intrusive::list_member_hook<> hook;
};

class VerifySource {
 public:
  static constexpr uint64_t kBlockSectors = 8;  // asked for at a time: what one bit stands for

  explicit VerifySource(PeerDevice& device);
  ~VerifySource();

  // What Start() is to compare: sectors [first, end), `first` on a block.
  void Prepare(uint64_t first, uint64_t end);
  // Where the last one got to, in sectors; 0 if it came to the end of the device.
  uint64_t resume_sector() const { return resume_sector_; }
  void Start();
  // Asks for nothing more; ends when all is answered.
  void RequestStop();
  Task<void> Stop();
  bool running() const { return running_; }
  // All is compared; what remains is to record it.
  bool finishing() const { return finishing_; }

  // The block that an answer with this id, sector and size is for; nullptr if there is none.
  VerifyBlock* FindRequest(uint64_t block_id, uint64_t sector, uint32_t bytes);
  // P_OV_REPLY. The digest has the size of verify-alg.
  void OnReply(VerifyBlock* block, uint32_t dagtag_node_id, uint64_t dagtag, Bytes digest);
  // P_RS_CANCEL and the like: the peer cannot say.
  void OnCancelled(VerifyBlock* block);
  // More writes of a primary have been received.
  void OnDagtagAdvanced();

  void Configure(const ResyncOptions& options) { controller_.Configure(options); }
  SyncProgress progress() const;

 private:
  using List = boost::intrusive::list<
      VerifyBlock, boost::intrusive::member_hook<VerifyBlock, boost::intrusive::list_member_hook<>,
                                                 &VerifyBlock::hook>>;

  Task<void> Loop();
  Task<void> Finish();
  uint64_t RequestSome(uint64_t budget_sectors);
  void Read(VerifyBlock* block);
  void OnRead(VerifyBlock* block, int error);
  wire::VerifyResult Compare(const VerifyBlock& block, int error);
  void Conclude(VerifyBlock* block, wire::VerifyResult result);
  void Release(VerifyBlock* block);
  uint64_t Reached() const;

  PeerDevice& device_;
  Reactor& reactor_;
  ResyncController controller_;
  SyncRate rate_;
  ObjectPool<VerifyBlock> blocks_;
  List active_;  // in the order of their sectors
  TaskGroup tasks_;
  WaitQueue changed_;
  bool running_ = false;
  bool stopping_ = false;
  bool stop_asked_ = false;
  bool finishing_ = false;
  uint64_t first_ = 0;  // sectors
  uint64_t end_ = 0;
  uint64_t position_ = 0;  // next to be asked for
  uint64_t arrived_ = 0;   // sectors answered since the last tick
  uint64_t resume_sector_ = 0;
};

}  // namespace umblock::drbd
