// Connection: a resource's link to one peer (drbd-wire.md 1 to 8, drbd-states.md 4.8).
//
// Life cycle: configured StandAlone; Start() makes it try for as long as it is wanted: find
// sockets, exchange features, authenticate, connect by two-phase commit, replicate, and after a
// loss clean up and begin again. Stop() ends it. What may fail it from outside calls Fail() once or
// more; the session loop then tears down in order: sockets, received writes, sent writes, state.
//
// Sending: everything for a peer passes through two ordered queues (data, control). The order of
// the calls is the order on the wire (INV-13). Nothing here waits for room. Threading: one reactor.
// The receive loops of the two sockets are its only coroutines besides the session loop and the
// keep-alive; the control loop never waits for disk, log or data (9.3).
#pragma once

#include <algorithm>
#include <boost/circular_buffer.hpp>
#include <memory>
#include <optional>
#include <string>

#include "engine/drbd/config.h"
#include "engine/drbd/core/congestion.h"
#include "engine/drbd/core/failure_log.h"
#include "engine/drbd/core/named_digest.h"
#include "engine/drbd/core/peer_reads.h"
#include "engine/drbd/core/peer_writes.h"
#include "engine/drbd/core/request.h"
#include "engine/drbd/link/connector.h"
#include "engine/drbd/link/packet_reader.h"
#include "engine/drbd/link/send_queue.h"
#include "engine/drbd/resource.h"
#include "engine/drbd/state/connect_handshake.h"
#include "engine/drbd/state/resource_state.h"
#include "engine/drbd/state/two_phase_commit.h"
#include "engine/drbd/wire/config_packets.h"
#include "engine/drbd/wire/digest.h"
#include "engine/drbd/wire/packet.h"
#include "engine/drbd/wire/twopc_packets.h"
#include "engine/drbd/wire/validate.h"
#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd {

class PeerDevice;
class ResourceImpl;
class Volume;

// What this node offers (drbd-wire.md 3.4): a flag is a promise.
struct LinkOffer {
  int protocol_min = wire::kProtocolMin9;
  int protocol_max = wire::kProtocolBlockIds;  // 122
  uint32_t features = wire::kFeatureTrim | wire::kFeatureWsame | wire::kFeatureWzeroes |
                      wire::kFeatureThinResync | wire::kFeatureResyncDagtag | wire::kFeatureTwoPcV2;
};

class Connection final : private SendQueue::Owner {
 public:
  Connection(ResourceImpl& resource, PeerConfig config);
  ~Connection() override;

  int node() const { return config_.node_id; }
  const PeerConfig& config() const { return config_; }
  const std::string& name() const { return name_; }  // "connection r0/1"
  const PeerState& state() const;
  ResourceImpl& resource() { return resource_; }
  Reactor& reactor() { return reactor_; }

  // --- being connected ---
  // Starts trying; fails if the addresses cannot be used.
  Task<Status> Start(ConnectOptions options);
  // Ends the connection whatever its state is; the state becomes StandAlone.
  Task<void> Stop();
  bool wanted() const { return wanted_; }
  const std::string& last_error() const { return last_error_; }

  // Gives the current link up. `next` is the state that says why (Timeout … ProtocolError,
  // TearDown, Disconnecting: StandAlone afterwards).
  void Fail(ConnectionState next, std::string reason);
  void FailWith(const Error& error);
  // The connect is refused for now; it is tried again on the same link.
  void NoteRefusal(std::string reason);
  // The peer has broken its connect off.
  void OnConnectAborted();
  bool up() const { return link_up_ && !failed_; }
  // The link has failed and the state does not say so yet: writes wait, for a moment.
  bool failing() const { return link_up_ && failed_ && state().connected(); }
  // Features and authentication are through.
  bool negotiated() const { return up() && negotiated_; }
  int agreed_protocol() const { return agreed_.protocol; }
  uint32_t agreed_features() const { return agreed_.features; }
  bool resolve_conflicts() const { return resolve_conflicts_; }
  bool has_been_connected() const { return has_been_connected_; }
  // Counts the links: whoever waited asks whether it is still the same one.
  uint64_t session() const { return session_; }
  // The connect was committed.
  void OnConnected() {
    connected_now_ = true;
    last_error_.clear();
    failures_.Clear();
    ArmHandshakeTimer();
  }
  void set_handshake_reason(std::string reason) { handshake_reason_ = std::move(reason); }
  bool discard_my_data() const { return connect_options_.discard_my_data; }
  // It holds for one connect: the resync that it asked for is decided.
  void ForgetDiscardMyData() { connect_options_.discard_my_data = false; }
  ConnectHandshake& handshake() { return handshake_; }
  const ConnectHandshake& handshake() const { return handshake_; }

  // A P_PING and its answer: proves that the peer is there and has processed all control packets
  // before it. False if the link was lost meanwhile.
  Task<bool> PingRoundTrip();
  void SendPing();
  // Ends when all that was queued has been handed to the sockets, the link is lost, or the peer has
  // not taken it for `timeout`.
  Task<void> FlushSends();
  // After a goodbye (the commit of a disconnect, P_DISCONNECT) the peer closes. Whoever closes
  // first instead may be seen to be gone on one socket before the goodbye is read on the other.
  Task<void> AwaitPeerClose();

  // --- what this node sends ---
  void SendPacket(wire::SocketKind socket, wire::PacketType type, int volume, auto&& packet) {
    SendQueue& queue = socket == wire::SocketKind::kData ? data_queue_ : control_queue_;
    if (!up() || !queue.running()) return;
    size_t size;
    if constexpr (requires { packet.EncodedSize(); }) {
      size = packet.EncodedSize();
    } else {
      size = std::remove_cvref_t<decltype(packet)>::kSize;
    }
    wire::EncodePacket(type, volume, packet, queue.Append(wire::kMaxHeaderSize + size));
  }
  void SendEmpty(wire::SocketKind socket, wire::PacketType type);
  void SendState(PeerDevice& device);
  void SendRoleNotice();
  void SendUuids(PeerDevice& device, uint64_t extra_flags, NodeMask weak = 0);
  void SendSizes(PeerDevice& device);
  // P_SYNC_PARAM89, P_SIZES, UUIDs, P_STATE for every volume (drbd-wire.md 8.2).
  void SendInitialStates();
  void SendBitmap(PeerDevice& device);
  // Bitmaps are being exchanged from now on: the link ends when none comes.
  void ExpectBitmap(PeerDevice& device);
  void SendBlockAck(wire::PacketType type, PeerDevice& device, uint64_t sector, uint64_t block_id,
                    uint32_t bytes);
  void SendOutOfSync(PeerDevice& device, uint64_t first, uint64_t end);
  // With a digest: whether the content, which has this one here, is equal there. `thin`: or whether
  // it is zeroes.
  void SendResyncRequest(PeerDevice& device, uint64_t first, uint64_t end, uint64_t block_id,
                         Bytes digest, bool thin);
  // The answer to a thin one: all of it is zeroes.
  void SendDeallocated(PeerDevice& device, uint64_t sector, uint64_t block_id, uint32_t bytes);
  // Online verify (drbd-wire.md 5.13): request, answer, result.
  void SendVerifyRequest(PeerDevice& device, uint64_t first, uint64_t end, uint64_t block_id);
  void SendVerifyReply(PeerDevice& device, const wire::DagtagRequest& request, Bytes digest);
  void SendVerifyResult(PeerDevice& device, uint64_t first, uint64_t end, uint64_t block_id,
                        wire::VerifyResult result);
  // The reply to a resync or remote read; the payload is referenced until `notice` is called.
  void SendDataReply(wire::PacketType type, PeerDevice& device, uint64_t sector, uint64_t block_id,
                     std::span<const iovec> payload, SentNotice* notice);
  void SendReadRequest(PeerDevice& device, uint64_t sector, uint32_t bytes, uint64_t block_id);
  void SendPeerAck(NodeMask mask, uint64_t dagtag);
  void SendDagtag(uint64_t dagtag);
  void SendTransaction(wire::PacketType type, int volume, const wire::TwoPcRequest& request);
  void SendVote(wire::PacketType type, int volume, const wire::TwoPcReply& reply);
  void SendProtocol(wire::PacketType type);

  // --- writes of the front ---
  // Queues the leg's data: barrier if due, dagtag if the peer's count would be wrong, the write.
  void QueueWrite(Request* request, int leg, PeerDevice& device);
  // P_BARRIER for an epoch that ended, now that nothing of it can follow.
  void SendBarrierIfDue();
  bool sends_in_epoch() const { return epoch_writes_ > 0; }
  uint64_t ap_in_flight() const { return ap_in_flight_; }
  // Bytes asked for by the peer's resync and not acknowledged.
  uint64_t rs_in_flight();
  Congestion& congestion() { return congestion_; }
  AckProtocol ack_protocol() const;
  // Writes wait for this peer to be fenced or to come back.
  bool holds() const { return !held_.empty(); }
  // Each is sent again or given up, as the state says now.
  void SettleHeldWrites();
  // The last write sent as data on this link has this dagtag or a later one.
  bool WasSent(uint64_t dagtag) const { return first_dagtag_ != 0 && dagtag >= first_dagtag_; }
  // Every barrier that was sent has been acknowledged.
  bool barriers_settled() const { return epoch_writes_ == 0 && unacked_head_ == nullptr; }

  // By verify-alg and csums-alg; nullptr while none is configured.
  wire::Digest* verify_digest() { return verify_.For(config_.net.verify_alg); }
  wire::Digest* csums_digest() { return csums_.For(config_.net.csums_alg); }

  PeerWrites& writes() { return writes_; }
  // For what comes from this peer and for answers to it: apart from the front's buffers, which may
  // all be waiting for this peer.
  BufferPool& buffers() { return buffers_; }
  uint64_t data_bytes_sent() const { return data_queue_.counters().bytes; }
  uint64_t copied_bytes() const {
    return data_reader_ == nullptr ? 0 : data_reader_->bytes_copied();
  }

  Status UpdateNet(const NetOptions& options);
  void UpdateResync(const ResyncOptions& options);

 private:
  static constexpr size_t kMaxHeldWrites = 65536;
  static constexpr uint32_t kMaxOwedPingAcks = 64;
  static constexpr size_t kMaxControlBacklog = size_t{8} << 20;

  // --- session ---
  Task<void> Run();
  Task<void> Session(LinkSockets sockets);
  Task<Status> Negotiate();
  Task<Status> Authenticate();
  Task<Result<wire::Header>> ExpectHeader(wire::PacketType type);
  Status EvaluateFeatures(const wire::ConnectionFeatures& theirs, uint32_t own_features);
  Status UsePeerDigest(std::string_view name);
  Task<void> RunConnectTransaction();
  Task<void> CleanUp();
  Task<void> RenewGenerations();
  void LoseSentWrites();
  void SetState(ConnectionState next, std::string_view reason);
  void ArmHandshakeTimer();
  void LogFailure(std::string_view reason);

  template <typename Packet>
  void SendWithDigest(wire::PacketType type, int volume, const Packet& packet, Bytes digest) {
    if (!up() || !data_queue_.running()) return;
    MutableBytes out = data_queue_.Append(wire::kMaxHeaderSize + Packet::kSize + digest.size());
    wire::EncodePacket(type, volume, packet, out, static_cast<uint32_t>(digest.size()));
    std::ranges::copy(digest, out.begin() + wire::kMaxHeaderSize + Packet::kSize);
  }
  // The position in the Primary's stream that an answer must not fall behind.
  wire::DagtagRequest AtPosition(uint64_t sector, uint64_t block_id, uint32_t bytes);

  // --- receiving (connection_data.cc, connection_config.cc, connection_control.cc,
  // connection_verify.cc) ---
  Task<void> DataLoop();
  Task<void> ControlLoop();
  Task<void> KeepAlive();
  Task<Status> HandleData(const wire::Header& header);
  Task<Status> OnWrite(const wire::Header& header, PeerDevice& device);
  Task<Status> OnTrim(const wire::Header& header, PeerDevice& device);
  static Status CheckDigest(wire::PacketType type, std::string_view option, const wire::Digest* own,
                            Bytes digest);
  Task<Status> OnResyncRequest(const wire::Header& header, PeerDevice& device);
  Task<Status> OnResyncReply(const wire::Header& header, PeerDevice& device);
  Task<Status> OnDeallocated(const wire::Header& header, PeerDevice& device);
  Task<Status> OnReadRequest(const wire::Header& header, PeerDevice& device);
  Task<Status> OnReadReply(const wire::Header& header, PeerDevice& device);
  Task<Status> OnOutOfSync(const wire::Header& header, PeerDevice& device);
  Task<void> AwaitBitmap(PeerDevice* device);
  Task<Status> OnBitmap(const wire::Header& header, PeerDevice& device);
  Status CheckHeldWrites() const;
  Task<Status> OnVerifyRequest(const wire::Header& header, PeerDevice& device);
  Task<Status> OnVerifyReply(const wire::Header& header, PeerDevice& device);
  Status OnVerifyResult(const wire::Header& header, Bytes payload, PeerDevice& device);
  Status OnProtocol(Bytes payload);
  Status OnProtocolUpdate(Bytes payload);
  Status OnSyncParam(Bytes payload);
  Task<Status> OnSizes(Bytes payload, PeerDevice& device);
  Status OnUuids(Bytes payload, PeerDevice& device);
  Status OnCurrentUuid(Bytes payload, PeerDevice& device);
  Status OnState(Bytes payload, PeerDevice& device);
  Status OnRoleNotice(Bytes payload);
  Status OnTwoPcRequest(const wire::Header& header, Bytes payload);
  Status HandleControl(const wire::Header& header, Bytes payload);
  Status OnBlockAck(const wire::Header& header, Bytes payload);
  Status OnWriteAck(PeerDevice& device, const wire::BlockAck& ack, LegEvent event);
  Status OnNegAck(PeerDevice& device, const wire::BlockAck& ack);
  Status OnBarrierAck(Bytes payload);
  Status OnConfirmStable(Bytes payload);
  Status OnPeersInSync(Bytes payload, PeerDevice& device);
  Status OnTwoPcReply(const wire::Header& header, Bytes payload);
  Result<PeerDevice*> DeviceFor(const wire::Header& header);

  void OnSendFailed(SendQueue& queue, int error) override;
  void OnSendStalled(SendQueue& queue, uint32_t left) override;
  void CheckAckAge();
  Request* PopUnacked();
  void MarkDone(Request* request);
  void NoLongerPending(Request* request, int leg);
  void SendBarrier();
  uint32_t DpFlags(const PeerDevice& device) const;

  friend class PeerWrites;

  ResourceImpl& resource_;
  Reactor& reactor_;
  PeerConfig config_;
  std::string name_;
  ConnectOptions connect_options_;
  Connector connector_;
  SendQueue data_queue_;
  SendQueue control_queue_;
  BufferPool buffers_;
  PeerWrites writes_;
  PeerReads reads_;
  ConnectHandshake handshake_;
  std::string handshake_reason_;  // why a connect was refused

  // session
  bool wanted_ = false;
  bool running_ = false;
  std::unique_ptr<CancelSource> cancel_;
  std::unique_ptr<TaskGroup> session_tasks_;
  TaskGroup run_task_;
  std::unique_ptr<Stream> data_;
  std::unique_ptr<Stream> control_;
  std::unique_ptr<PacketReader> data_reader_;
  std::unique_ptr<PacketReader> control_reader_;
  wire::Agreement agreed_;
  bool link_up_ = false;     // sockets exist
  bool negotiated_ = false;  // features and authentication are through
  bool protocol_seen_ = false;
  uint64_t session_ = 0;
  bool failed_ = false;
  bool leaving_ = false;    // in AwaitPeerClose
  bool peer_gone_ = false;  // and what it waits for
  bool retry_soon_ = false;
  ConnectionState failure_ = ConnectionState::kUnconnected;
  std::string last_error_;
  FailureLog failures_;
  WaitQueue failure_event_;
  bool resolve_conflicts_ = false;
  bool connected_now_ = false;               // in this session
  bool has_been_connected_ = false;          // in an earlier one
  std::optional<wire::Digest> peer_digest_;  // of data the peer sends
  std::optional<wire::Digest> own_digest_;   // of data we send
  NamedDigest verify_;
  NamedDigest csums_;
  struct UnexpectedSocket : umblock::Completion {
    Connection* connection;
    explicit UnexpectedSocket(Connection* c);
  } unexpected_socket_;

  // keep-alive
  uint64_t pings_sent_ = 0;
  uint64_t ping_acks_ = 0;
  uint32_t owed_ping_acks_ = 0;  // of pings that came before the features
  WaitQueue ping_event_;
  Time last_control_{};
  Time oldest_ping_{};

  // writes of the front on this link
  uint32_t sent_epoch_ = 0;
  uint32_t epoch_writes_ = 0;
  uint64_t sent_dagtag_ = 0;
  bool sent_dagtag_known_ = false;
  uint64_t first_dagtag_ = 0;  // of the first write sent as data on this link
  Request* unacked_head_ = nullptr;
  Request* unacked_tail_ = nullptr;
  std::vector<Request*> held_;  // of links before, in the order of the log
  uint64_t ap_in_flight_ = 0;   // bytes
  boost::circular_buffer<uint32_t> sent_barriers_{1024};  // not acknowledged, oldest first
  Congestion congestion_{*this};

  struct HandshakeTimer : Timer {
    Connection* connection;
    explicit HandshakeTimer(Connection* c);
  } handshake_timer_;
};

}  // namespace umblock::drbd
