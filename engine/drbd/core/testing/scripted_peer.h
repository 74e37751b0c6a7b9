// ScriptedPeer: a peer of one of our nodes that speaks the wire by hand, so that a test can do what
// a well-behaved node never does. Its node has a lower or higher id as the test likes; here it is
// always the higher one, so that the resource under test starts the connect.
//
// Pings are answered by itself (unless told not to); all other packets wait in `received` until the
// test takes them. Calls that wait run the world. Threading: the test's.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/drbd/core/testing/bench.h"
#include "engine/drbd/state/proposal.h"
#include "engine/drbd/wire/auth.h"
#include "engine/drbd/wire/config_packets.h"
#include "engine/drbd/wire/packet.h"
#include "engine/drbd/wire/state_word.h"
#include "engine/drbd/wire/twopc_packets.h"
#include "engine/runtime/sim/stream.h"

namespace umblock::drbd::testing {

using wire::PacketType;
using wire::SocketKind;

struct Taken {
  wire::Header header;
  std::vector<std::byte> payload;
  PacketType type() const { return header.type; }
  template <typename T>
  T As() const {
    return *T::Decode(payload);
  }
};

// What the peer claims to be.
struct Persona {
  uint32_t protocol_min = wire::kProtocolMin9;
  uint32_t protocol_max = wire::kProtocolBlockIds;
  uint32_t features = wire::kFeatureTrim | wire::kFeatureWsame | wire::kFeatureWzeroes |
                      wire::kFeatureResyncDagtag | wire::kFeatureTwoPcV2;
  uint32_t sender = 1;
  uint32_t receiver = 0;
  wire::Protocol protocol;  // P_PROTOCOL
  std::string hmac;         // authenticates with it, if not empty
  std::string secret;
  Role role = Role::kSecondary;
  DiskState disk = DiskState::kUpToDate;
  uint64_t current_uuid = 0;  // 0: the same as the resource's
  uint64_t bitmap_uuid = 0;   // for the resource's node
  uint64_t dirty_bits = 0;
  uint64_t uuid_flags = wire::kUuidFlagStable;
  uint64_t size_sectors = 0;  // 0: the same
};

class ScriptedPeer {
 public:
  static constexpr int kNode = 1;

  // One node with a resource, attached, UpToDate; peer 1 configured and not connected.
  explicit ScriptedPeer(ClusterOptions options = {}) {
    options.nodes = 1;
    if (options.max_peers < 1) options.max_peers = 1;
    net_ = options.net;
    bench = std::make_unique<Bench>(options);
    node = bench->world().AddNode({"peer", {Address(1).WithPort(0)}});
    node->Start([](SimNode& self) { self.AddReactor(); });
    bench->CreateAll();
    PeerConfig config;
    config.node_id = kNode;
    config.name = "peer";
    config.paths = {{Address(0), Address(1)}};
    config.net = options.net;
    config.resync = options.resync;
    EXPECT_TRUE(resource().AddPeer(config));
    for (int v = 0; v < options.volumes; ++v) {
      Status status = bench->Await(0, resource().NewCurrentUuid(v, true));
      EXPECT_TRUE(status) << Text(status);
    }
    persona.protocol.protocol = static_cast<uint32_t>(options.net.protocol);
    persona.protocol.two_primaries = options.net.allow_two_primaries ? 1 : 0;
    persona.protocol.integrity_alg = wire::AlgorithmName(options.net.data_integrity_alg);
    persona.hmac = options.net.cram_hmac_alg;
    persona.secret = options.net.shared_secret;
  }
  ~ScriptedPeer() {
    Hangup();
    bench->RunFor(2s);
    node->Shutdown();
  }

  Resource& resource() { return bench->resource(0); }
  SimWorld& world() { return bench->world(); }
  ConnectionState state() { return bench->connection(0, kNode); }
  ReplicationState repl(int volume = 0) { return bench->repl(0, kNode, volume); }
  std::string last_error() { return bench->status(0).connections.at(0).last_error; }
  void StartResource() {
    Status status = bench->Await(0, resource().Connect(kNode, {}));
    ASSERT_TRUE(status) << Text(status);
  }

  // --- sockets ---
  bool Dial() {
    Hangup();
    link_ = std::make_shared<Link>();
    for (SocketKind kind : {SocketKind::kData, SocketKind::kControl}) {
      node->reactor()->Spawn(Open(node->reactor(), link_, kind));
    }
    return world().RunUntil([&] { return link_->of[0].stream && link_->of[1].stream; }, 30s);
  }
  // Lets go of both sockets.
  void Hangup() {
    if (link_ == nullptr) return;
    for (auto& side : link_->of) {
      if (side.stream != nullptr) node->reactor()->Spawn(CloseIt(link_, &side));
    }
    auto link = std::exchange(link_, nullptr);
    world().RunUntil([&] { return link->tasks == 0; }, 10s);
  }
  // The resource has let go.
  bool closed() const { return link_ == nullptr || link_->of[0].ended || link_->of[1].ended; }
  bool WaitClosed(Duration bound = 20s) {
    return world().RunUntil([&] { return closed(); }, bound);
  }
  void set_answer_pings(bool on) { link_->answer_pings = on; }
  void set_reading(bool on) {
    link_->reading = on;
    if (!on) return;
    for (auto& side : link_->of) {
      node->reactor()->Spawn(Receive(link_, &side));
    }
  }

  // --- sending ---
  void SendRaw(SocketKind kind, std::vector<std::byte> bytes) {
    Side& side = SideOf(kind);
    side.out.push_back(std::move(bytes));
    if (!side.sending) {
      side.sending = true;
      node->reactor()->Spawn(Drain(link_, &side));
    }
  }
  template <typename T>
  void Send(SocketKind kind, PacketType type, int volume, const T& packet,
            std::span<const std::byte> trailing = {}) {
    SendRaw(kind, Encoded(type, volume, packet, trailing));
  }
  void SendEmpty(SocketKind kind, PacketType type, int volume = wire::kNoVolume) {
    std::vector<std::byte> raw(wire::kMaxHeaderSize);
    wire::EncodeEmptyPacket(type, volume, raw);
    SendRaw(kind, std::move(raw));
  }
  template <typename T>
  static std::vector<std::byte> Encoded(PacketType type, int volume, const T& packet,
                                        std::span<const std::byte> trailing = {}) {
    std::vector<std::byte> raw(1024);
    size_t size =
        wire::EncodePacket(type, volume, packet, raw, static_cast<uint32_t>(trailing.size()));
    raw.resize(size);
    raw.insert(raw.end(), trailing.begin(), trailing.end());
    return raw;
  }
  // A header that claims `length`, followed by `bytes` of payload.
  static std::vector<std::byte> Claimed(PacketType type, int volume, uint32_t length,
                                        size_t bytes) {
    std::vector<std::byte> raw(wire::kMaxHeaderSize);
    wire::EncodeHeader({.type = type, .volume = volume, .length = length}, raw);
    raw.resize(wire::kMaxHeaderSize + bytes);
    return raw;
  }
  uint64_t Write(uint64_t sector, size_t bytes, uint8_t fill,
                 uint32_t flags = wire::kDpSendWriteAck, int volume = 0) {
    uint64_t id = ++block_id_ << 8;
    std::vector<std::byte> data(bytes, static_cast<std::byte>(fill));
    Send(SocketKind::kData, PacketType::kData, volume,
         wire::DataHead{sector, id, ++sequence_, flags}, data);
    return id;
  }
  void Ack(PacketType type, uint64_t sector, uint64_t id, uint32_t bytes, int volume = 0) {
    Send(SocketKind::kControl, type, volume, wire::BlockAck{sector, id, bytes, ++sequence_});
  }

  // --- receiving ---
  // The next packet of this type; what came before it is forgotten.
  std::optional<Taken> Wait(SocketKind kind, PacketType type, Duration bound = 20s) {
    if (link_ == nullptr) return std::nullopt;
    std::shared_ptr<Link> link = link_;
    Side& side = SideOf(kind);
    std::optional<Taken> result;
    world().RunUntil(
        [&] {
          while (!side.received.empty() && !result) {
            Taken taken = std::move(side.received.front());
            side.received.pop_front();
            if (taken.type() == type) result = std::move(taken);
          }
          return result.has_value() || side.ended;
        },
        bound);
    return result;
  }
  size_t CountReceived(SocketKind kind, PacketType type) {
    size_t count = 0;
    for (const Taken& taken : SideOf(kind).received) count += taken.type() == type ? 1 : 0;
    return count;
  }
  uint64_t bytes_received(SocketKind kind) { return SideOf(kind).bytes; }

  // --- the handshake, step by step ---
  void SendFeatures() {
    wire::ConnectionFeatures features;
    features.protocol_min = persona.protocol_min;
    features.protocol_max = persona.protocol_max;
    features.feature_flags = persona.features;
    features.sender_node_id = persona.sender;
    features.receiver_node_id = persona.receiver;
    std::vector<std::byte> raw(wire::kMinHeaderSize + wire::ConnectionFeatures::kSize);
    wire::EncodeHeader({.type = PacketType::kConnectionFeatures,
                        .volume = 0,
                        .length = wire::ConnectionFeatures::kSize,
                        .kind = wire::HeaderKind::kH80},
                       raw);
    wire::Encode(features, MutableBytes(raw).subspan(wire::kMinHeaderSize));
    SendRaw(SocketKind::kData, std::move(raw));
  }
  bool Authenticate() {
    wire::AuthChallenge own;
    own.bytes.fill(std::byte{0x5a});
    Send(SocketKind::kData, PacketType::kAuthChallenge, wire::kNoVolume, own);
    auto theirs = Wait(SocketKind::kData, PacketType::kAuthChallenge);
    if (!theirs) return false;
    auto answer = wire::ComputeAuthResponse(persona.hmac, persona.secret, theirs->payload,
                                            static_cast<int>(agreed_protocol()), persona.sender);
    if (!answer) return false;
    std::vector<std::byte> raw(wire::kMaxHeaderSize);
    wire::EncodeHeader({.type = PacketType::kAuthResponse,
                        .volume = wire::kNoVolume,
                        .length = static_cast<uint32_t>(answer->size)},
                       raw);
    raw.insert(raw.end(), answer->bytes.begin(),
               answer->bytes.begin() + static_cast<long>(answer->size));
    SendRaw(SocketKind::kData, std::move(raw));
    return Wait(SocketKind::kData, PacketType::kAuthResponse).has_value();
  }
  void SendProtocol() {
    Send(SocketKind::kData, PacketType::kProtocol, wire::kNoVolume, persona.protocol);
  }
  // Features, authentication, P_PROTOCOL both ways.
  bool Negotiate() {
    SendFeatures();
    if (!Wait(SocketKind::kData, PacketType::kConnectionFeatures)) return false;
    if (!persona.hmac.empty() && !Authenticate()) return false;
    SendProtocol();
    return Wait(SocketKind::kData, PacketType::kProtocol).has_value();
  }
  void SendStates() {
    for (const VolumeStatus& volume : bench->status(0).volumes) {
      Send(SocketKind::kData, PacketType::kSyncParam89, volume.number, SyncParam());
      Send(SocketKind::kData, PacketType::kSizes, volume.number, Sizes(volume.number));
      SendUuids(volume.number);
      SendState(volume.number);
    }
  }
  wire::SyncParam89 SyncParam() const {
    wire::SyncParam89 param;
    param.verify_alg = wire::AlgorithmName(net_.verify_alg);
    param.csums_alg = wire::AlgorithmName(net_.csums_alg);
    return param;
  }
  wire::Sizes Sizes(int volume) {
    uint64_t own = bench->volume_status(0, volume).size_bytes / 512;
    wire::Sizes sizes;
    sizes.d_size = persona.disk == DiskState::kDiskless ? 0
                   : persona.size_sectors != 0          ? persona.size_sectors
                                                        : own;
    sizes.c_size = sizes.d_size;
    sizes.max_bio_size = 1 << 20;
    if ((persona.features & wire::kFeatureWsame) != 0) sizes.limits.emplace();
    return sizes;
  }
  uint64_t CurrentUuid(int volume = 0) {
    if (persona.current_uuid != 0) return persona.current_uuid;
    return std::stoull(bench->volume_status(0, volume).current_uuid, nullptr, 16);
  }
  void SendUuids(int volume = 0, uint64_t extra_flags = 0) {
    wire::Uuids110 uuids;
    uuids.current = CurrentUuid(volume);
    uuids.dirty_bits = persona.dirty_bits;
    uuids.uuid_flags = persona.uuid_flags | extra_flags;
    uuids.SetBitmapUuid(0, persona.bitmap_uuid);
    Send(SocketKind::kData, PacketType::kUuids110, volume, uuids);
  }
  wire::StateWord StateWordNow(ReplicationState now) const {
    wire::StateWord word;
    word.role = persona.role;
    word.peer_role = Role::kSecondary;
    word.disk = persona.disk;
    word.peer_disk = DiskState::kUpToDate;
    word.quorum = true;
    word.connection = ConnectionState::kConnected;
    word.replication = now;
    return word;
  }
  void SendState(int volume = 0, ReplicationState now = ReplicationState::kOff) {
    Send(SocketKind::kData, PacketType::kState, volume,
         wire::State{wire::EncodeStateWord(StateWordNow(now))});
  }
  void Vote(PacketType type, const wire::TwoPcRequest& request) {
    wire::TwoPcReply reply;
    reply.tid = request.tid;
    reply.initiator_node_id = request.initiator_node_id;
    reply.reachable_nodes = NodeBit(kNode) | NodeBit(0);
    reply.primary_nodes = persona.role == Role::kPrimary ? NodeBit(kNode) : 0;
    Send(SocketKind::kControl, type, wire::kNoVolume, reply);
  }
  static wire::TwoPcRequest Request(const Taken& packet) {
    return *wire::TwoPcRequest::Decode(packet.payload, wire::TwoPcLayout::kV2);
  }
  // Everything, until the volumes are in their first replication state.
  bool Establish() {
    if (!Dial() || !Negotiate()) return false;
    auto prepare = Wait(SocketKind::kData, PacketType::kTwopcPrepare, 40s);
    if (!prepare) return false;
    SendStates();
    if (!Wait(SocketKind::kData, PacketType::kState)) return false;
    Vote(PacketType::kTwopcYes, Request(*prepare));
    if (!Wait(SocketKind::kData, PacketType::kTwopcCommit)) return false;
    for (const VolumeStatus& volume : bench->status(0).volumes) {
      SendState(volume.number, ReplicationState::kEstablished);
    }
    return world().RunUntil([&] { return state() == ConnectionState::kConnected; }, 10s);
  }
  // The resource starts anew with a peer that behaves.
  void ExpectUsable() {
    Hangup();
    bench->RunFor(1s);  // a refusal ends in StandAlone when the peer has closed
    if (state() == ConnectionState::kStandAlone) StartResource();
    ASSERT_TRUE(Establish()) << ConnectionStateName(state()) << ": " << last_error();
    bench->RunFor(1s);
    EXPECT_EQ(state(), ConnectionState::kConnected) << last_error();
  }
  // PREPARE, and the answer to it: YES, NO or RETRY.
  void SendTransaction(PacketType type, const Proposal& proposal, uint32_t tid,
                       int initiator = kNode) {
    wire::TwoPcRequest request;
    request.tid = tid;
    request.flags = wire::kTwoPcHasFlags;
    request.initiator_node_id = initiator;
    request.target_node_id = proposal.target;
    request.nodes_to_reach = NodeBit(0);
    if (type == PacketType::kTwopcPrepare) {
      request.SetStateChange(proposal.mask, proposal.value);
    } else if (type == PacketType::kTwopcCommit) {
      request.flags |= wire::kTwoPcHasReachable;
      request.SetCommit(proposal.value & 3, NodeBit(0) | NodeBit(kNode));
    }
    std::vector<std::byte> raw(wire::kMaxHeaderSize + wire::TwoPcRequest::kSize);
    wire::EncodeHeader({.type = type,
                        .volume = proposal.volume == kNoVolume ? wire::kNoVolume : proposal.volume,
                        .length = wire::TwoPcRequest::kSize},
                       raw);
    wire::Encode(request, wire::TwoPcLayout::kV2, MutableBytes(raw).subspan(wire::kMaxHeaderSize));
    SendRaw(SocketKind::kData, std::move(raw));
  }
  uint32_t agreed_protocol() const {
    return std::min<uint32_t>(persona.protocol_max, wire::kProtocolBlockIds);
  }

  Persona persona;
  std::unique_ptr<Bench> bench;
  SimNode* node;

  static SocketAddress Address(int i) {
    return SocketAddress::Ipv4({192, 0, 2, static_cast<uint8_t>(11 + i)}, 7789);
  }

 private:
  struct Side {
    std::unique_ptr<Stream> stream;
    bool control = false;
    bool ended = false;
    bool sending = false;
    bool receiving = false;
    uint64_t bytes = 0;
    std::deque<std::vector<std::byte>> out;
    std::vector<std::byte> buffer;
    std::deque<Taken> received;
  };
  struct Link {
    Side of[2];
    bool answer_pings = true;
    bool reading = true;
    int tasks = 0;
  };

  Side& SideOf(SocketKind kind) { return link_->of[kind == SocketKind::kData ? 0 : 1]; }

  static Task<void> Open(Reactor* reactor, std::shared_ptr<Link> link, SocketKind kind) {
    ++link->tasks;
    Side& side = link->of[kind == SocketKind::kData ? 0 : 1];
    side.control = kind == SocketKind::kControl;
    std::unique_ptr<Stream> stream;
    for (int attempt = 0; attempt < 20 && stream == nullptr; ++attempt) {
      auto opened = co_await reactor->Connect({.local = Address(1).WithPort(0),
                                               .bind_local = true,
                                               .remote = Address(0),
                                               .timeout = 2s},
                                              {});
      if (opened) {
        stream = std::move(*opened);
      } else {
        co_await Sleep(*reactor, 100ms);
      }
    }
    if (stream != nullptr) {
      std::vector<std::byte> raw(wire::kMinHeaderSize);
      wire::EncodeHeader(
          {.type = side.control ? PacketType::kInitialMeta : PacketType::kInitialData,
           .volume = 0,
           .length = 0,
           .kind = wire::HeaderKind::kH80},
          raw);
      iovec part{raw.data(), raw.size()};
      (void)co_await stream->Send({&part, 1});
      side.stream = std::move(stream);
      static_cast<SimReactor*>(reactor)->Spawn(Receive(link, &side));
    }
    --link->tasks;
  }

  static Task<void> Receive(std::shared_ptr<Link> link, Side* side) {
    if (side->receiving || side->ended) co_return;
    ++link->tasks;
    side->receiving = true;
    std::vector<std::byte> chunk(65536);
    while (link->reading) {
      iovec part{chunk.data(), chunk.size()};
      int32_t got = co_await side->stream->Receive({&part, 1});
      if (got <= 0) {
        side->ended = true;
        break;
      }
      side->bytes += static_cast<uint64_t>(got);
      side->buffer.insert(side->buffer.end(), chunk.begin(), chunk.begin() + got);
      Parse(link, side);
    }
    side->receiving = false;
    --link->tasks;
  }
  static void Parse(const std::shared_ptr<Link>& link, Side* side) {
    size_t at = 0;
    while (true) {
      Bytes rest = Bytes(side->buffer).subspan(at);
      auto header = wire::DecodeHeader(rest);
      if (!header || rest.size() < header->size() + header->length) break;
      Bytes payload = rest.subspan(header->size(), header->length);
      at += header->size() + header->length;
      if (header->type == PacketType::kPing) {
        if (link->answer_pings) Answer(link, side);
        continue;
      }
      side->received.push_back({*header, {payload.begin(), payload.end()}});
    }
    side->buffer.erase(side->buffer.begin(), side->buffer.begin() + static_cast<long>(at));
  }
  static void Answer(const std::shared_ptr<Link>& link, Side* side) {
    std::vector<std::byte> raw(wire::kMaxHeaderSize);
    wire::EncodeEmptyPacket(PacketType::kPingAck, wire::kNoVolume, raw);
    side->out.push_back(std::move(raw));
    if (side->sending) return;
    side->sending = true;
    auto& stream = static_cast<SimStream&>(*side->stream);
    static_cast<SimReactor*>(stream.connection().node(stream.end()).reactor())
        ->Spawn(Drain(link, side));
  }
  static Task<void> Drain(std::shared_ptr<Link> link, Side* side) {
    ++link->tasks;
    while (!side->out.empty() && side->stream != nullptr) {
      std::vector<std::byte> bytes = std::move(side->out.front());
      side->out.pop_front();
      iovec part{bytes.data(), bytes.size()};
      if (co_await side->stream->Send({&part, 1}) < 0) break;
    }
    side->sending = false;
    --link->tasks;
  }
  static Task<void> CloseIt(std::shared_ptr<Link> link, Side* side) {
    ++link->tasks;
    link->reading = false;
    side->out.clear();
    co_await side->stream->Close();
    --link->tasks;
  }

  NetOptions net_;
  std::shared_ptr<Link> link_;
  uint64_t block_id_ = 0;
  uint32_t sequence_ = 0;
};

}  // namespace umblock::drbd::testing
