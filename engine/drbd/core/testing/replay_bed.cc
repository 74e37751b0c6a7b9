#include "engine/drbd/core/testing/replay_bed.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "engine/drbd/meta/bitmap_layout.h"
#include "engine/drbd/meta/geometry.h"
#include "engine/drbd/resource.h"
#include "engine/drbd/state/proposal.h"

namespace umblock::drbd::testing {
namespace {

SocketAddress AddressOf(int node, uint16_t port) {
  return SocketAddress::Ipv4({192, 0, 2, static_cast<uint8_t>(11 + node)}, port);
}

Task<void> Capture(Task<Status> task, std::shared_ptr<std::optional<Status>> result) {
  Status status = co_await std::move(task);
  result->emplace(std::move(status));
}

// The backing device with internal metadata that leaves so many sectors (README of the recordings:
// 1, 8 or 64 MiB).
uint64_t BackingFor(uint64_t usable_sectors, uint32_t max_peers) {
  for (uint64_t mib : {1, 8, 64}) {
    auto geometry = meta::ComputeGeometry({.max_peers = max_peers}, mib << 20);
    if (geometry && meta::UsableSectors(*geometry, (mib << 20) / 512) == usable_sectors) {
      return mib << 20;
    }
  }
  return 0;
}

}  // namespace

ReplayBed::ReplayBed(const RecordedSide& side, std::optional<LinkOffer> ours) : side_(side) {
  verbose_ = std::getenv("UMBLOCK_TEST_LOG") != nullptr;
  world_ = std::make_unique<SimWorld>(1);
  if (verbose_) world_->set_log_to_stderr(true);
  // Causes before effects: what one end sends on its two sockets does not overtake.
  world_->network().link.min_latency = 100us;
  world_->network().link.max_latency = 100us;
  node_ = world_->AddNode({"ours", {AddressOf(side.node, 0)}});
  peer_node_ = world_->AddNode({"recorded", {AddressOf(side.peer, 0)}});
  disk_bytes_ =
      side.prepared.has_disk ? BackingFor(side.prepared.d_size, side.prepared.max_peers) : 8 << 20;
  if (disk_bytes_ != 0) disk_ = node_->files().Create("disk0", {.size = disk_bytes_});
  node_->Start([this, ours](SimNode& self) {
    SimReactor* reactor = self.AddReactor();
    resource_ = self.Make<ResourceImpl>(
        *reactor, ResourceConfig{.name = "r0", .node_id = side_.node, .options = {}}, nullptr);
    if (ours) resource_->offer() = *ours;
  });
  peer_node_->Start([this](SimNode& self) {
    SimReactor* reactor = self.AddReactor();
    const LinkOffer& offer = resource_->offer();
    uint32_t features = offer.features;
    if (!side_.prepared.net.data_integrity_alg.empty()) features &= ~wire::kFeatureWzeroes;
    peer_ = self.Make<RecordedPeer>(*reactor, side_,
                                    PeerOffer{static_cast<uint32_t>(offer.protocol_max), features});
  });
}

ReplayBed::~ReplayBed() {
  if (world_->failed()) {
    ADD_FAILURE() << side_.name << ": " << world_->failure();
    return;
  }
  auto stopped = std::make_shared<std::optional<Status>>();
  peer_node_->reactor()->Spawn(Capture(peer_->Stop(), stopped));
  auto stop = [](ResourceImpl& resource) -> Task<Status> {
    co_await resource.Stop();
    co_return Ok();
  };
  EXPECT_TRUE(Await(stop(*resource_))) << side_.name;
  auto stop_backend = [](Backend& backend) -> Task<Status> {
    co_await backend.Stop();
    co_return Ok();
  };
  if (backend_) EXPECT_TRUE(Await(stop_backend(*backend_))) << side_.name;
  EXPECT_TRUE(world_->RunUntil([&] { return stopped->has_value(); }, 10s)) << side_.name;
  node_->Shutdown();
  peer_node_->Shutdown();
}

std::shared_ptr<std::optional<Status>> ReplayBed::Start(Task<Status> task) {
  auto result = std::make_shared<std::optional<Status>>();
  node_->reactor()->Spawn(Capture(std::move(task), result));
  return result;
}

Status ReplayBed::Await(Task<Status> task, Duration bound) {
  auto result = Start(std::move(task));
  if (!world_->RunUntil([&] { return result->has_value(); }, bound)) {
    return MakeError(ErrorCode::kDeadlineExceeded, "a task did not end: {}", world_->failure());
  }
  return **result;
}

std::string ReplayBed::Log() const {
  std::string text;
  if (verbose_) return text;
  for (const std::string& line : world_->recent_log()) text += line + "\n";
  return text;
}

// The image that the recorded node had: what drbdmeta made, with the recorded generation, flags and
// bits in it.
Status ReplayBed::PatchMetadata() {
  const RecordedNode& from = side_.prepared;
  auto geometry = meta::ComputeGeometry({.max_peers = from.max_peers}, disk_bytes_);
  if (!geometry) return std::unexpected(geometry.error());
  std::array<std::byte, meta::kSuperblockBytes> raw;
  disk_->ReadNow(geometry->superblock_offset, raw);
  auto decoded = meta::DecodeSuperblock(raw);
  if (!decoded) return std::unexpected(decoded.error());
  meta::Superblock& sb = *decoded;
  sb.node_id = side_.node;
  sb.effective_sectors = from.c_size;
  sb.current_uuid = from.uuids.current;
  for (int i = 0; i < wire::kHistoryUuids; ++i) {
    sb.history[static_cast<size_t>(i)] = from.uuids.history[static_cast<size_t>(i)];
  }
  int unallocated = (from.uuids.uuid_flags & wire::kUuidFlagHasUnalloc) != 0
                        ? static_cast<int>(from.uuids.uuid_flags >> wire::kUuidUnallocShift)
                        : -1;
  for (int n = 0; n < wire::kMaxPeers; ++n) {
    if ((from.uuids.bitmap_uuids_mask >> n & 1) == 0) continue;
    meta::PeerEntry& entry = sb.peers[static_cast<size_t>(n)];
    entry.bitmap_uuid = from.uuids.BitmapUuid(n);
    if (n == side_.peer) {
      entry.bitmap_index = 0;
      if (from.c_size != 0) entry.flags |= meta::kPeerDeviceSeen;
      if (from.peer_disk == DiskState::kOutdated) entry.flags |= meta::kPeerOutdated;
    } else if (n != unallocated) {
      entry.flags |= meta::kPeerNodeExists;
    }
  }
  if (unallocated >= 0) {
    // Every entry without a slot and without a node carries the day0 UUID.
    for (int n = 0; n < wire::kMaxPeers; ++n) {
      meta::PeerEntry& entry = sb.peers[static_cast<size_t>(n)];
      if (entry.bitmap_index < 0 && (entry.flags & meta::kPeerNodeExists) == 0) {
        entry.bitmap_uuid = from.uuids.BitmapUuid(unallocated);
      }
    }
  }
  sb.Set(meta::kMdAlClean, true);
  sb.Set(meta::kMdConsistent, from.disk >= DiskState::kOutdated);
  sb.Set(meta::kMdWasUpToDate, from.disk == DiskState::kUpToDate);
  sb.Set(meta::kMdCrashedPrimary, (from.uuids.uuid_flags & wire::kUuidFlagCrashedPrimary) != 0);
  meta::EncodeSuperblock(sb, raw);
  disk_->WriteNow(geometry->superblock_offset, raw);
  std::vector<std::byte> bits(geometry->bm_bytes);
  for (size_t i = 0; i < from.bits.size(); ++i) {
    if (!from.bits[i]) continue;
    size_t at = meta::BitmapByteOffset(i, 0, from.max_peers);
    bits[at] |= std::byte{1} << (i % 8);
  }
  disk_->WriteNow(geometry->bm_offset, bits);
  return Ok();
}

Task<Status> ReplayBed::PrepareNode() {
  const RecordedNode& from = side_.prepared;
  BackendSpec spec;
  spec.name = "disk0";
  spec.path = "disk0";
  auto backend = co_await OpenBackend(*node_->reactor(), spec);
  if (!backend) co_return std::unexpected(backend.error());
  backend_ = std::move(*backend);
  UMBLOCK_CO_TRY(co_await CreateMetadata(
      {.backing = backend_.get(), .max_peers = static_cast<int>(from.max_peers)}));
  UMBLOCK_CO_TRY(PatchMetadata());
  DiskOptions disk_options;
  disk_options.rs_discard_granularity = from.rs_discard_granularity;
  UMBLOCK_CO_TRY(
      resource_->AddVolume({.number = 0, .size = from.u_size * 512, .disk = disk_options}));
  PeerConfig config;
  config.node_id = side_.peer;
  config.name = "recorded";
  config.paths = {{AddressOf(side_.node, 7789), AddressOf(side_.peer, 7789)}};
  config.net = from.net;
  config.resync = from.resync;
  UMBLOCK_CO_TRY(resource_->AddPeer(config));
  if (from.has_disk) {
    UMBLOCK_CO_TRY(co_await resource_->Attach({.volume = 0, .backing = backend_.get()}));
  }
  Role role = from.role;
  DiskState disk = from.disk;
  DiskState peer_disk = from.peer_disk;
  int peer = side_.peer;
  (void)resource_->Change("as recorded", {.hard = true}, [=](ResourceState& next) {
    next.role = role;
    next.Volume(0)->disk = disk;
    next.Volume(0)->peer(peer).disk = peer_disk;
  });
  // What it wrote alone has made its generation already.
  resource_->facts().Volume(0)->owes_new_uuid = false;
  if (resource_->volume(0)->disk() != nullptr) {
    // Promotion and attach keep the generation; the kernel's is what was recorded.
    resource_->volume(0)->disk()->uuids().Load(from.uuids.current);
  }
  resource_->log().RaiseDagtag(from.dagtag);
  if (from.reconnect) connection().OnConnected();
  co_return Ok();
}

::testing::AssertionResult ReplayBed::Prepare() {
  if (disk_ == nullptr) {
    return ::testing::AssertionFailure()
           << "no backing device has " << side_.prepared.d_size << " usable sectors";
  }
  Status prepared = Await(PrepareNode());
  if (!prepared) return ::testing::AssertionFailure() << prepared.error().ToString();
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult ReplayBed::Play(std::vector<RecordedStep> steps) {
  peer_->Start(std::move(steps));
  world_->RunFor(10ms);
  Status connecting =
      Await(resource_->Connect(side_.peer, {.discard_my_data = side_.prepared.discard_my_data}));
  if (!connecting) return ::testing::AssertionFailure() << connecting.error().ToString();
  if (!world_->RunUntil([&] { return peer_->done(); }, 60s)) {
    return ::testing::AssertionFailure() << "the script did not end: " << world_->failure();
  }
  world_->RunFor(80ms);
  if (!peer_->failure().empty()) return ::testing::AssertionFailure() << peer_->failure();
  return ::testing::AssertionSuccess();
}

ReplayBed::Initiative ReplayBed::InitiativeOf(const RecordedStep& step, uint32_t features) {
  using wire::PacketType;
  switch (step.type()) {
    case PacketType::kData:
    case PacketType::kTrim:
    case PacketType::kZeroes:
      return Initiative::kKnown;
    case PacketType::kTwopcPrepare: {
      auto request =
          wire::TwoPcRequest::Decode(step.packet->payload(), wire::TwoPcLayoutFor(features));
      ProposalReading reading = Interpret(
          request->mask(), request->val(),
          step.packet->header.volume == wire::kNoVolume ? kNoVolume : step.packet->header.volume);
      switch (reading.kind) {
        case ProposalKind::kConnect:
        case ProposalKind::kEmpty:
          return Initiative::kNone;
        case ProposalKind::kPromote:
        case ProposalKind::kDemote:
        case ProposalKind::kDisconnect:
        case ProposalKind::kStartVerify:
          return Initiative::kKnown;
        default:
          return Initiative::kUnknown;
      }
    }
    case PacketType::kUuids110: {
      auto uuids = wire::Uuids110::Decode(step.packet->payload());
      return (uuids->uuid_flags & wire::kUuidFlagSkipInitialSync) != 0 ? Initiative::kKnown
                                                                       : Initiative::kNone;
    }
    case PacketType::kTwopcPrepRsz:
    case PacketType::kProtocolUpdate:
    case PacketType::kDataRequest:
      return Initiative::kUnknown;
    default:
      return Initiative::kNone;
  }
}

bool ReplayBed::IsDeclined(const RecordedStep& step) {
  return step.type() == wire::PacketType::kTwopcPrepRsz;
}

void ReplayBed::Begin(const RecordedStep& step) {
  if (InitiativeOf(step, side_.link->agreed_features) != Initiative::kKnown) return;
  acts_.push_back(step);
  if (acting_) return;
  acting_ = true;
  world_->After(0us, SimEventKind::kHarness, [this] { node_->reactor()->Spawn(Act()); });
}

namespace {
bool IsWrite(const RecordedStep& step) {
  return step.type() != wire::PacketType::kTwopcPrepare &&
         step.type() != wire::PacketType::kUuids110;
}
}  // namespace

bool ReplayBed::Writing() const { return std::ranges::any_of(acts_, IsWrite); }

Task<void> ReplayBed::Act() {
  while (!acts_.empty()) {
    RecordedStep step = acts_.front();
    // An administrator acts when all is quiet.
    if (!IsWrite(step)) co_await Sleep(*node_->reactor(), 200ms, CancelToken());
    Status status = co_await ActOn(step);
    acts_.pop_front();
    if (!status && act_failure_.empty()) {
      act_failure_ =
          fmt::format("{}: {}", wire::PacketName(step.type()), status.error().ToString());
    }
  }
  acting_ = false;
}

Task<Status> ReplayBed::ActOn(RecordedStep step) {
  using wire::PacketType;
  Bytes payload = step.packet->payload();
  BlockDevice& device = *resource_->volume(0);
  int error = 0;
  switch (step.type()) {
    case PacketType::kUuids110:
      co_return co_await resource_->NewCurrentUuid(0, true);
    case PacketType::kTwopcPrepare: {
      auto request =
          wire::TwoPcRequest::Decode(payload, wire::TwoPcLayoutFor(side_.link->agreed_features));
      int volume = step.packet->header.volume;
      ProposalReading reading = Interpret(request->mask(), request->val(),
                                          volume == wire::kNoVolume ? kNoVolume : volume);
      if (reading.kind == ProposalKind::kStartVerify) {
        co_return co_await resource_->StartVerify(volume, side_.peer, {});
      }
      if (reading.kind == ProposalKind::kPromote) {
        co_return co_await resource_->Promote(reading.force_up_to_date);
      }
      if (reading.kind == ProposalKind::kDemote) co_return co_await resource_->Demote(false);
      co_return co_await resource_->Disconnect(side_.peer, false);
    }
    case PacketType::kData: {
      auto head = wire::DataHead::Decode(payload);
      // A digest is shorter than a sector.
      std::vector<std::byte> data((payload.size() - wire::DataHead::kSize) / 512 * 512);
      iovec part{data.data(), data.size()};
      error = co_await device.Write(head->sector * 512, {&part, 1},
                                    (head->dp_flags & wire::kDpFua) != 0);
      break;
    }
    default: {
      auto trim = wire::TrimRequest::Decode(payload);
      uint64_t offset = trim->head.sector * 512;
      if (step.type() == PacketType::kTrim) {
        error = co_await device.Discard(offset, trim->size);
      } else {
        error = co_await device.WriteZeroes(offset, trim->size,
                                            (trim->head.dp_flags & wire::kDpDiscard) != 0);
      }
    }
  }
  if (error != 0) co_return std::unexpected(Error::FromErrno(error, "write"));
  co_return Ok();
}

::testing::AssertionResult ReplayBed::PlayAll(std::vector<RecordedStep> steps) {
  PeerBehaviour behaviour;
  behaviour.answers = true;
  behaviour.initiative = [this](const RecordedStep& step) { Begin(step); };
  behaviour.writing = [this] { return Writing(); };
  peer_->Start(std::move(steps), std::move(behaviour));
  world_->RunFor(10ms);
  Status connecting =
      Await(resource_->Connect(side_.peer, {.discard_my_data = side_.prepared.discard_my_data}));
  if (!connecting) return ::testing::AssertionFailure() << connecting.error().ToString();
  if (!world_->RunUntil([&] { return peer_->done() && !acting_; }, 120s)) {
    return ::testing::AssertionFailure() << "the script did not end: " << world_->failure();
  }
  world_->RunFor(400ms);
  if (!peer_->failure().empty()) return ::testing::AssertionFailure() << peer_->failure();
  if (!act_failure_.empty()) return ::testing::AssertionFailure() << act_failure_;
  return ::testing::AssertionSuccess();
}

std::string Differences(const std::vector<SentPacket>& expected,
                        const std::vector<SentPacket>& actual) {
  std::string text;
  for (wire::SocketKind kind : {wire::SocketKind::kData, wire::SocketKind::kControl}) {
    std::vector<std::string> want;
    std::vector<std::string> got;
    for (const SentPacket& packet : WithoutRepetitions(expected)) {
      if (packet.socket == kind) want.push_back(packet.text);
    }
    for (const SentPacket& packet : WithoutRepetitions(actual)) {
      if (packet.socket == kind) got.push_back(packet.text);
    }
    if (want == got) continue;
    text += kind == wire::SocketKind::kData ? "on the data socket\n" : "on the control socket\n";
    for (size_t i = 0; i < std::max(want.size(), got.size()); ++i) {
      bool same = i < want.size() && i < got.size() && want[i] == got[i];
      if (same) {
        text += "    = " + want[i] + "\n";
        continue;
      }
      if (i < want.size()) text += "    - " + want[i] + "\n";
      if (i < got.size()) text += "    + " + got[i] + "\n";
    }
  }
  return text;
}

}  // namespace umblock::drbd::testing
