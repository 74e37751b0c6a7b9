// A scripted peer: repeats in the simulator what a recorded kernel node sent, each packet when our
// node has sent what the recorded one had sent before it. Values that depend on the other side
// (transaction ids, authentication, what the features let agree on) are put in as the script runs.
// Pings are answered at once, whatever the script says. Tests only.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/drbd/core/testing/packet_text.h"
#include "engine/drbd/core/testing/recorded_side.h"
#include "engine/drbd/link/packet_reader.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd::testing {

struct PeerOffer {
  uint32_t protocol_max = 0;
  uint32_t features = 0;
};

// Beyond the connect: requests of our node are answered as they come instead of as recorded, since
// their number and size are ours to choose, and generations that our node makes get their own names
// in what the peer sends. `initiative` is called where the recorded node began something of its
// own (a promotion, a write): our node shall now, too. It runs on the peer's reactor.
struct PeerBehaviour {
  bool answers = false;
  std::function<void(const RecordedStep& step)> initiative;
  // Our node is still writing: the script waits.
  std::function<bool()> writing;
};

class RecordedPeer {
 public:
  // `offer`: what our node offers; the peer's packets are scripted down to it. Both referenced
  // objects outlive the peer.
  RecordedPeer(Reactor& reactor, const RecordedSide& side, PeerOffer offer);
  ~RecordedPeer();

  // Makes the sockets and plays the steps.
  void Start(std::vector<RecordedStep> steps, PeerBehaviour behaviour = {});
  Task<Status> Stop();

  bool done() const { return done_; }
  const std::string& failure() const { return failure_; }
  // What our node sent, in order per socket, without what is left out.
  const std::vector<SentPacket>& received() const { return received_; }
  // The same for the recorded node in its place: the packets of the script that were due of us.
  const std::vector<SentPacket>& expected() const { return expected_; }
  // Steps that went on although our node had not sent what was due: "P_STATE before P_DAGTAG".
  const std::vector<std::string>& stalls() const { return stalls_; }
  uint64_t pings_unanswered() const { return pings_sent_ - ping_acks_; }
  uint32_t agreed_features() const { return agreed_features_; }
  bool closed_by_us() const { return closed_; }

 private:
  struct Ours {
    wire::SocketKind socket;
    wire::PacketType type;
    std::vector<std::byte> payload;
  };

  Task<void> Run(std::vector<RecordedStep> steps);
  Task<Status> MakeSockets();
  Task<void> Receive(wire::SocketKind kind);
  Task<bool> WaitForOurs(const RecordedStep& next);
  Task<bool> Send(const RecordedStep& step);
  // What a kernel does with a request of ours; true if it is one.
  Task<void> Answer(const wire::Header& header, Bytes payload);
  void RenameGenerations(MutableBytes payload);
  Task<bool> SendRaw(wire::SocketKind kind, std::vector<std::byte> bytes);
  bool LeftOut(wire::PacketType type) const;
  void Expect(const RecordedStep& step);
  // False: the packet is not sent at all.
  bool Substitute(const RecordedStep& step, std::vector<std::byte>& bytes);
  void SubstituteTid(const RecordedStep& step, MutableBytes payload);
  size_t CountOurs(wire::SocketKind kind, wire::PacketType type) const;
  size_t CountExpected(wire::SocketKind kind, wire::PacketType type) const;

  Reactor& reactor_;
  const RecordedSide& side_;
  PeerOffer offer_;
  uint32_t agreed_features_ = 0;
  uint32_t agreed_protocol_ = 0;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<Stream> streams_[2];
  AsyncMutex send_locks_[2];
  WaitQueue arrived_;
  TaskGroup tasks_;
  CancelSource cancel_;
  std::vector<Ours> ours_;
  std::vector<SentPacket> received_;
  std::vector<SentPacket> expected_;
  std::vector<std::string> stalls_;
  std::map<std::pair<wire::SocketKind, wire::PacketType>, size_t> excused_;
  std::string failure_;
  std::vector<std::pair<uint32_t, size_t>> recorded_tids_;  // ours: tid, which PREPARE
  bool done_ = false;
  bool closed_ = false;
  PeerBehaviour behaviour_;
  uint32_t epoch_writes_ = 0;
  uint64_t recorded_current_ = 0;  // of the last UUIDs that were due of us, and that came
  uint64_t own_current_ = 0;
  std::map<uint64_t, uint64_t> generations_;  // recorded name to ours
  uint64_t pings_sent_ = 0;
  uint64_t ping_acks_ = 0;
};

}  // namespace umblock::drbd::testing
