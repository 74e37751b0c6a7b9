// ResyncSource: answers a sync target's requests for one volume (drbd-wire.md 5.12).
//
// A request waits until this node has received the writes it depends on (dagtag), then for its
// range, reads, and sends the reply straight from the read buffer. The range is held until the
// target says that it wrote the block, so that a write of the front cannot slip in between (G.3).
// The receiver of the data stream waits while kMaxOutstanding requests are in work: that is the
// bound on what a peer can make this node hold. Threading: one reactor.
#pragma once

#include <array>
#include <boost/intrusive/list.hpp>
#include <cstdint>

#include "engine/base/bytes.h"
#include "engine/block/block_device.h"
#include "engine/drbd/core/io_ranges.h"
#include "engine/drbd/core/object_pool.h"
#include "engine/drbd/link/send_queue.h"
#include "engine/drbd/status.h"
#include "engine/drbd/wire/constants.h"
#include "engine/drbd/wire/data_packets.h"
#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd {

class PeerDevice;
class ResyncSource;

struct ResyncRead final : PoolObject, IoRange, SentNotice {
  ResyncRead() : SentNotice(nullptr), io(nullptr) {}
  ResyncSource* source = nullptr;
  wire::DagtagRequest request;
  bool thin = false;
  bool deallocated = false;  // answered without data
  // Of the target's content, if it asks whether that is equal.
  std::array<std::byte, wire::kMaxDigestBytes> digest{};
  size_t digest_size = 0;
  bool waiting_for_dagtag = false;
  bool reading = false;
  bool queued = false;    // the reply is in the send queue, or was
  bool sent = false;      // the payload left the queue
  bool answered = false;  // nothing more comes from the peer for it
  bool dropped = false;   // the connection is gone
  Buffer buffer;
  iovec iov{};
  BlockIo io;
  boost::intrusive::list_member_hook<> hook;
};

class ResyncSource {
 public:
  static constexpr size_t kMaxOutstanding = 512;
  // Answers without data that the peer has not acknowledged. A kernel gathers them, up to 128 MiB,
  // before it discards and acknowledges any (drbd-io-path.md E.5): to stop reading its requests
  // before would be for ever.
  static constexpr size_t kMaxDeallocated = (size_t{128} << 20) / 4096 + kMaxOutstanding;

  explicit ResyncSource(PeerDevice& device);
  ~ResyncSource();

  // One request off the data stream, its range checked. `digest`: of the target's content, with the
  // size that csums-alg has; empty: the data is wanted. Waits for room; false if stopped meanwhile.
  Task<bool> OnRequest(wire::DagtagRequest request, bool thin, Bytes digest, CancelToken cancel);
  // P_RS_WRITE_ACK (`written`) or P_RS_NEG_ACK / P_NEG_ACK. False: it answers nothing we sent.
  bool OnAck(uint64_t block_id, uint64_t sector, uint32_t bytes, bool written);
  // More writes of a primary have been received.
  void OnDagtagAdvanced();

  // The resync is over while the link lives: no answer is waited for any more, no range held.
  void Abandon();
  // This node pulls ahead (drbd-io-path.md F.6): what was not answered yet is refused; the target
  // asks again later. What was sent it may have written and cleared its bits of, while they stay
  // here: it is told that they are set, or a write that follows would be no news to it.
  void CancelAhead();
  // The connection is gone: forgets what waits; ends when no read is in flight.
  Task<void> Stop();

  uint64_t outstanding_bytes() const { return outstanding_bytes_; }
  SyncProgress progress() const;
  // A resync begins.
  void Begin();

 private:
  using List = boost::intrusive::list<
      ResyncRead, boost::intrusive::member_hook<ResyncRead, boost::intrusive::list_member_hook<>,
                                                &ResyncRead::hook>>;

  bool DependencyMet(const ResyncRead& read) const;
  void Advance(ResyncRead* read);
  void StartRead(ResyncRead* read);
  void OnRead(ResyncRead* read, int error);
  bool EqualAtTarget(const ResyncRead& read) const;
  void ReplyInSync(ResyncRead* read);
  void ReplyDeallocated(ResyncRead* read);
  void Reply(ResyncRead* read);
  void MaybeFree(ResyncRead* read);
  void GiveUpAll();

  PeerDevice& device_;
  Reactor& reactor_;
  ObjectPool<ResyncRead> reads_;
  List in_work_;
  WaitQueue room_;
  bool stopping_ = false;
  uint64_t outstanding_bytes_ = 0;
  size_t unacked_deallocated_ = 0;  // of in_work_
  uint64_t total_bits_ = 0;
  uint64_t equal_bytes_ = 0;        // of this resync
  uint64_t deallocated_bytes_ = 0;  // of this resync
  Time started_{};
};

}  // namespace umblock::drbd
