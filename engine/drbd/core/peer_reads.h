// PeerReads: reads that a peer asks for over the wire (P_DATA_REQUEST, drbd-wire.md 5.10.4),
// because its own disk is missing or not current. The receiver waits while kMaxOutstanding are in
// work. With protocols A and B the peer's users may have been told of a write that is still on its
// way to the disk here: a read waits for the writes that came before it on the stream.
// Threading: one reactor.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstdint>

#include "engine/block/block_device.h"
#include "engine/drbd/core/io_ranges.h"
#include "engine/drbd/core/object_pool.h"
#include "engine/drbd/link/send_queue.h"
#include "engine/drbd/wire/data_packets.h"
#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd {

class Connection;
class PeerDevice;

class PeerReads {
 public:
  static constexpr size_t kMaxOutstanding = 256;

  explicit PeerReads(Connection& connection);

  // A request off the data stream, its range checked. False if stopped meanwhile.
  Task<bool> OnRequest(PeerDevice& device, wire::BlockRequest request, CancelToken cancel);
  // Ends when none is in flight; the send queue has been stopped before. What still waits for
  // writes is dropped.
  Task<void> Stop();

 private:
  struct Read final : PoolObject, IoRange, SentNotice {
    Read() : SentNotice(nullptr), io(nullptr) {}
    PeerReads* owner = nullptr;
    PeerDevice* device = nullptr;
    wire::BlockRequest request;
    Buffer buffer;
    iovec iov{};
    BlockIo io;
    boost::intrusive::list_member_hook<> hook;
  };
  using List = boost::intrusive::list<
      Read, boost::intrusive::member_hook<Read, boost::intrusive::list_member_hook<>, &Read::hook>>;

  void Start(Read* read);
  void OnRead(Read* read, int error);
  void Free(Read* read);

  Connection& connection_;
  Reactor& reactor_;
  ObjectPool<Read> reads_;
  List waiting_;  // for writes
  WaitQueue room_;
};

}  // namespace umblock::drbd
