// PeerWrites: the writes a node receives on one connection, from the socket to the peer ack
// (drbd-io-path.md C, B.5, B.6).
//
// Received writes queue up; the writes of an epoch start only when the epoch before has completed,
// was flushed (write ordering flush) and acknowledged (INV-7, INV-8). Within an epoch they take
// their activity-log extents in the order received, wait for overlapping ranges, go to the disk,
// and are acknowledged; the record stays until a P_PEER_ACK covers it, and with it the extents.
// When the log runs out of extents the part of the open epoch that is complete is reported by
// P_CONFIRM_STABLE.
//
// Every write that was received completely is written, also when the connection is lost meanwhile:
// its sender may have been told that it arrived (protocol B). Drain() ends when that is done.
// Memory is bounded by the buffer pool, as the receiver waits for a buffer before it reads a
// payload, and by kMaxRecords: a peer that sends no peer acks is not listened to any more.
// Threading: one reactor.
#pragma once

#include <boost/circular_buffer.hpp>
#include <boost/intrusive/list.hpp>
#include <cstdint>

#include "engine/drbd/core/disk.h"
#include "engine/drbd/core/io_ranges.h"
#include "engine/drbd/core/object_pool.h"
#include "engine/drbd/wire/data_packets.h"
#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd {

class Connection;
class PeerDevice;
class PeerWrites;
class Volume;

struct PeerWrite final : PoolObject, IoRange, AlUser {
  enum class Stage : uint8_t { kQueued, kExtents, kRange, kDisk, kAcked };

  PeerWrite() : io(nullptr) {}

  PeerWrites* owner = nullptr;
  PeerDevice* device = nullptr;
  IoOp op = IoOp::kWrite;
  uint64_t first = 0;  // sectors
  uint64_t end = 0;
  uint64_t block_id = 0;
  uint32_t dp_flags = 0;
  uint64_t epoch = 0;   // serial
  uint64_t dagtag = 0;  // of the sender, after this write
  Stage stage = Stage::kQueued;
  bool failed = false;
  bool confirmed = false;  // reported by P_CONFIRM_STABLE
  bool extents_held = false;
  uint64_t disk_generation = 0;
  Buffer buffer;
  iovec iov{};
  BlockIo io;
  boost::intrusive::list_member_hook<> hook;
};

class PeerWrites {
 public:
  // More than max-io-depth and the peer-ack window of a kernel's peer amount to.
  static constexpr size_t kMaxRecords = 65536;

  explicit PeerWrites(Connection& connection);
  ~PeerWrites();

  bool full() const { return writes_.in_use() >= kMaxRecords; }
  // Ends when there is room for another record, or the token is cancelled.
  Task<void> WaitForRoom(CancelToken cancel);

  // A record to fill: device, op, first, end, block_id, dp_flags, buffer. Then Receive().
  PeerWrite* Take() { return writes_.Take(); }
  // Joins the current epoch and starts as soon as it may.
  void Receive(PeerWrite* write);
  // A write for a volume without a disk: counted in the epoch, answered by P_NEG_ACK at once.
  void Refuse(PeerDevice& device, const wire::DataHead& head, uint32_t bytes);
  // P_BARRIER. False: an epoch without a write, which a peer never closes.
  bool OnBarrier(uint32_t barrier);
  // P_PEER_ACK: `mask` has everything up to `dagtag`.
  void OnPeerAck(uint64_t mask, uint64_t dagtag);
  // The activity log of a volume starves: confirm what is stable so that the peer may release it.
  void OnLogStarving();
  // After Drain, before a new connect: nothing received is unfinished or unacknowledged.
  void Reset();

  // The connection is lost. Ends when every received write is on disk or failed, and the records
  // are gone (blocks out of sync towards everybody but the sender, drbd-io-path.md O11).
  Task<void> Drain();

  // The position in the sender's change stream, as far as received.
  uint64_t last_dagtag() const { return last_dagtag_; }
  bool dagtag_known() const { return dagtag_known_; }
  void SetDagtag(uint64_t dagtag);

  bool idle() const { return unfinished_ == 0; }
  // Ends when everything received so far is acknowledged, or the token is cancelled.
  Task<void> WaitIdle(CancelToken cancel);
  size_t in_use() const { return writes_.in_use(); }
  uint64_t epochs_finished() const { return epochs_finished_; }

 private:
  struct Epoch {
    uint32_t barrier = 0;  // opaque
    bool closed = false;
    uint32_t size = 0;       // write packets, refused ones included
    uint32_t active = 0;     // received, ack not sent
    uint32_t confirmed = 0;  // reported by P_CONFIRM_STABLE
    bool flushing = false;
    bool flushed = false;
  };
  using List = boost::intrusive::list<
      PeerWrite, boost::intrusive::member_hook<PeerWrite, boost::intrusive::list_member_hook<>,
                                               &PeerWrite::hook>>;

  Epoch& EpochOf(uint64_t serial);
  Epoch& CurrentEpoch();
  void StartEligible();
  void TakeExtents(PeerWrite* write);
  void OnExtents(PeerWrite* write, bool granted);
  void TakeRange(PeerWrite* write);
  void Submit(PeerWrite* write);
  Task<void> FlushThen(Volume* volume, PeerWrite* write);
  void OnFailed(PeerWrite* write);
  void OnDisk(PeerWrite* write, int error);
  void Acknowledge(PeerWrite* write);
  void FinishEpochs();
  Task<void> FlushEpoch(uint64_t serial);
  Task<void> ConfirmStable();
  Task<bool> FlushVolumes();
  void Retire(PeerWrite* write, uint64_t mask, bool have_mask);
  void RetireFinished();

  Connection& connection_;
  Reactor& reactor_;
  ObjectPool<PeerWrite> writes_;
  List records_;  // in the order received, until peer-acked
  PeerWrite* next_to_start_ = nullptr;
  bool extents_blocked_ = false;  // one waits for the log; those behind it wait too
  boost::circular_buffer<Epoch> epochs_;
  uint64_t first_serial_ = 0;  // of epochs_.front()
  uint64_t unfinished_ = 0;    // records not yet acknowledged
  uint64_t last_dagtag_ = 0;
  bool dagtag_known_ = false;
  bool draining_ = false;
  // A flush has failed: nothing received on this connection is confirmed any more.
  bool unstable_ = false;
  bool confirming_ = false;
  bool confirm_wanted_ = false;
  uint64_t epochs_finished_ = 0;
  WaitQueue drained_;
  WaitQueue room_;
  TaskGroup tasks_;
};

}  // namespace umblock::drbd
