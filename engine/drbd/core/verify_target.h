// VerifyTarget: answers a peer's online verify of one volume: VerifyT (drbd-wire.md 5.13;
// drbd-io-path.md G.7).
//
// A request waits until this node has received the writes that the peer had when it asked, reads
// the block and sends its digest; then the peer's result is awaited, and what differs is set out of
// sync here too. A block that a write touches while it is read is not answered: the peer skips it.
// The receiver of the data stream waits while kMaxOutstanding requests are in work; results come on
// the control stream. Threading: one reactor.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstdint>

#include "engine/base/bytes.h"
#include "engine/block/block_device.h"
#include "engine/drbd/core/io_ranges.h"
#include "engine/drbd/core/object_pool.h"
#include "engine/drbd/core/sync_rate.h"
#include "engine/drbd/status.h"
#include "engine/drbd/wire/constants.h"
#include "engine/drbd/wire/data_packets.h"
#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd {

class PeerDevice;
class VerifyTarget;

struct VerifyAnswer final : PoolObject, IoRange {
  VerifyAnswer() : io(nullptr) {}
  VerifyTarget* target = nullptr;
  wire::DagtagRequest request;
  bool waiting = false;  // for writes
  bool reading = false;
  bool answered = false;  // the digest is on its way; the result is not here
  bool dropped = false;   // nobody waits for it any more
  Buffer buffer;
  iovec iov{};
  BlockIo io;
  boost::intrusive::list_member_hook<> hook;
};

class VerifyTarget {
 public:
  static constexpr size_t kMaxOutstanding = 4096;

  explicit VerifyTarget(PeerDevice& device);
  ~VerifyTarget();

  // The peer has begun one: the state is VerifyT.
  void Begin();
  // It is over, or the state left VerifyT; the link lives.
  void End();
  // One request off the data stream, its range checked. Waits for room; false if stopped meanwhile.
  Task<bool> OnRequest(wire::DagtagRequest request, CancelToken cancel);
  // The peer's result for a block that was answered. One for another block is ignored.
  void OnResult(uint64_t block_id, uint64_t sector, uint32_t bytes, wire::VerifyResult result);
  // More writes of a primary have been received.
  void OnDagtagAdvanced();
  // The connection is gone: forgets what waits; ends when no read is in flight.
  Task<void> Stop();

  SyncProgress progress() const;

 private:
  using List = boost::intrusive::list<
      VerifyAnswer, boost::intrusive::member_hook<
                        VerifyAnswer, boost::intrusive::list_member_hook<>, &VerifyAnswer::hook>>;

  void Read(VerifyAnswer* answer);
  void OnRead(VerifyAnswer* answer, int error);
  void Skip(VerifyAnswer* answer);
  void Free(VerifyAnswer* answer);
  void DropAll();
  void MaybeFinish();
  Task<void> Finish(uint64_t session);

  PeerDevice& device_;
  Reactor& reactor_;
  SyncRate rate_;
  ObjectPool<VerifyAnswer> answers_;
  List in_work_;
  WaitQueue room_;
  bool stopping_ = false;
  bool begun_ = false;  // and no request has come yet
  bool finishing_ = false;
  uint64_t position_ = 0;  // sectors: the end of the last request
};

}  // namespace umblock::drbd
