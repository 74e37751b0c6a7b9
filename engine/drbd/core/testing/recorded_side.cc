#include "engine/drbd/core/testing/recorded_side.h"

#include <algorithm>

#include "engine/base/assert.h"
#include "engine/drbd/wire/bitmap_stream.h"
#include "engine/drbd/wire/state_word.h"
#include "engine/drbd/wire/twopc_packets.h"

namespace umblock::drbd::testing {

using wire::PacketType;

namespace {

constexpr uint32_t AddressOf(int node) { return 0xC000020Bu + static_cast<uint32_t>(node); }

bool IsConnectPrepare(const RecordedStep& step, uint32_t features) {
  if (step.type() != PacketType::kTwopcPrepare) return false;
  auto request = wire::TwoPcRequest::Decode(step.packet->payload(), wire::TwoPcLayoutFor(features));
  return request && (request->mask() & wire::kConnMask) != 0 &&
         (request->val() & wire::kConnMask) == 0x90;
}

std::optional<wire::StateWord> WordOf(const RecordedStep& step) {
  if (step.type() != PacketType::kState || step.packet->header.volume == wire::kNoVolume) {
    return std::nullopt;
  }
  auto state = wire::State::Decode(step.packet->payload());
  if (!state) return std::nullopt;
  auto word = wire::DecodeStateWord(state->word);
  return word ? std::optional(*word) : std::nullopt;
}

// What may follow a connect's commit without anybody having asked for anything.
bool BelongsToConnect(const RecordedStep& step) {
  switch (step.type()) {
    case PacketType::kState:
    case PacketType::kDagtag:
    case PacketType::kBitmap:
    case PacketType::kCompressedBitmap:
    case PacketType::kPing:
    case PacketType::kPingAck:
    case PacketType::kUnplugRemote:
      return true;
    case PacketType::kUuids110: {
      auto uuids = wire::Uuids110::Decode(step.packet->payload());
      return uuids && (uuids->uuid_flags &
                       (wire::kUuidFlagSkipInitialSync | wire::kUuidFlagNewDatagen)) == 0;
    }
    default:
      return false;
  }
}

class BitList final : public wire::BitSink {
 public:
  explicit BitList(std::vector<bool>& bits) : bits_(bits) {}
  void SetRange(uint64_t begin, uint64_t end) override {
    for (uint64_t i = begin; i < end && i < bits_.size(); ++i) bits_[i] = true;
  }

 private:
  std::vector<bool>& bits_;
};

}  // namespace

std::string SecretOf(const std::string& recording, size_t index, int node) {
  if (recording == "93-93-auth-failure") {
    return index == 0 && node == 1 ? "other-secret" : "one-secret";
  }
  return "vector-secret";
}

RecordedSide RecordedSide::Make(const std::string& recording, const wire::testing::Capture& capture,
                                size_t index, int node) {
  RecordedSide side;
  side.node = node;
  side.peer = 1 - node;
  side.name = recording + "/" + std::to_string(index) + "/n" + std::to_string(node + 1);
  side.link = &capture.links().at(index);
  side.peer_secret = SecretOf(recording, index, side.peer);
  for (const wire::testing::CapturedEvent& event : side.link->Timeline()) {
    PacketType type = event.packet->header.type;
    if (type == PacketType::kInitialData || type == PacketType::kInitialMeta) continue;
    side.all.push_back({event.sender_ip == AddressOf(node), event.socket, event.packet});
  }
  side.FindHandshake();
  side.prepared.reconnect = index > 0;
  side.Prepare(recording, index);
  return side;
}

void RecordedSide::FindHandshake() {
  bool prepared_connect = false;
  std::optional<size_t> commit;
  for (size_t i = 0; i < all.size() && !commit; ++i) {
    connect.push_back(all[i]);
    if (IsConnectPrepare(all[i], link->agreed_features)) prepared_connect = true;
    if (all[i].type() == PacketType::kTwopcCommit) commit = i;
    if (all[i].type() == PacketType::kDisconnect) outcome = RecordedOutcome::kRefused;
  }
  if (!prepared_connect) outcome = RecordedOutcome::kAuthFailed;
  if (!commit) return;
  outcome = RecordedOutcome::kEstablished;
  constexpr int64_t kQuiet = 250'000'000;
  int64_t last = all[*commit].packet->time_ns;
  std::optional<ReplicationState> states[2];
  auto settled = [&](int who) {
    return states[who] && *states[who] != ReplicationState::kWFBitMapS &&
           *states[who] != ReplicationState::kWFBitMapT;
  };
  for (size_t i = *commit + 1; i < all.size(); ++i) {
    bool both = settled(0) && settled(1);
    if (!BelongsToConnect(all[i])) {
      if (both || all[i].type() == PacketType::kTwopcPrepare) break;
      continue;  // a resync request overtakes the source's state
    }
    if (both && all[i].packet->time_ns - last > kQuiet) break;
    last = all[i].packet->time_ns;
    connect.push_back(all[i]);
    if (auto word = WordOf(all[i])) {
      states[all[i].ours ? 0 : 1] = word->replication;
      if (word->replication >= ReplicationState::kWFBitMapS) outcome = RecordedOutcome::kResync;
    }
  }
}

const RecordedStep* RecordedSide::First(bool ours, PacketType type) const {
  for (const RecordedStep& step : all) {
    if (step.ours == ours && step.type() == type) return &step;
  }
  return nullptr;
}

void RecordedSide::Prepare(const std::string& recording, size_t index) {
  RecordedNode& to = prepared;
  if (First(true, PacketType::kAuthChallenge) != nullptr) {
    const RecordedStep* response = First(true, PacketType::kAuthResponse);
    to.net.cram_hmac_alg =
        response != nullptr && response->packet->payload().size() == 20 ? "sha1" : "sha256";
    to.net.shared_secret = SecretOf(recording, index, node);
  }
  if (const RecordedStep* step = First(true, PacketType::kProtocol)) {
    auto protocol = wire::Protocol::Decode(step->packet->payload());
    to.net.protocol = static_cast<Protocol>(protocol->protocol);
    to.net.allow_two_primaries = protocol->two_primaries != 0;
    to.net.data_integrity_alg = std::string(protocol->integrity_alg.view());
    to.net.after_sb_0pri = static_cast<SplitBrainPolicy>(protocol->after_sb_0p);
    to.net.after_sb_1pri = static_cast<SplitBrainPolicy>(protocol->after_sb_1p);
    to.net.after_sb_2pri = static_cast<SplitBrainPolicy>(protocol->after_sb_2p);
    to.discard_my_data = (protocol->conn_flags & wire::kConnDiscardMyData) != 0;
  }
  if (const RecordedStep* step = First(true, PacketType::kSyncParam89)) {
    auto param = wire::SyncParam89::Decode(step->packet->payload());
    to.net.verify_alg = std::string(param->verify_alg.view());
    to.net.csums_alg = std::string(param->csums_alg.view());
    to.resync.resync_rate = param->resync_rate;
    to.resync.c_plan_ahead = param->c_plan_ahead;
    to.resync.c_delay_target = param->c_delay_target;
    to.resync.c_fill_target = param->c_fill_target;
    to.resync.c_max_rate = param->c_max_rate;
  }
  for (PacketType type : {PacketType::kRsThinReq, PacketType::kRsThinDagtagReq}) {
    if (const RecordedStep* step = First(true, type)) {
      to.rs_discard_granularity = wire::BlockRequest::Decode(step->packet->payload())->blksize;
    }
  }
  to.net.use_rle = First(true, PacketType::kBitmap) == nullptr;
  if (const RecordedStep* step = First(true, PacketType::kSizes)) {
    auto sizes = wire::Sizes::Decode(step->packet->payload());
    to.d_size = sizes->d_size;
    to.u_size = sizes->u_size;
    to.c_size = sizes->c_size;
    to.large_bitmap_blocks = sizes->limits && sizes->limits->bm_block_shift_minus_12 != 0;
  }
  for (const RecordedStep& step : all) {
    if (!step.ours) continue;
    if (auto word = WordOf(step)) {
      to.role = word->role;
      to.disk = word->disk;
      to.peer_disk = word->peer_disk;
      break;
    }
  }
  const RecordedStep* uuids = First(true, PacketType::kUuids110);
  to.has_disk = uuids != nullptr;
  if (uuids != nullptr) {
    to.uuids = *wire::Uuids110::Decode(uuids->packet->payload());
    to.reconnect = (to.uuids.uuid_flags & wire::kUuidFlagReconnect) != 0;
  }
  if (const RecordedStep* step = First(true, PacketType::kDagtag)) {
    to.dagtag = wire::Dagtag::Decode(step->packet->payload())->dagtag;
  }
  PrepareBits();
}

// The number of bits is in the UUIDs; which ones shows only if a bitmap was sent. A target sends
// the union of both.
void RecordedSide::PrepareBits() {
  uint64_t count = wire::BitmapStreamBits(prepared.c_size);
  std::vector<bool> sent[2];
  bool have[2] = {false, false};
  for (int who = 0; who < 2; ++who) {
    sent[who].resize(count);
    BitList sink(sent[who]);
    std::optional<wire::BitmapReceiver> receiver;
    for (const RecordedStep& step : connect) {
      if (step.ours != (who == 0)) continue;
      if (step.type() != PacketType::kBitmap && step.type() != PacketType::kCompressedBitmap) {
        continue;
      }
      if (!receiver) receiver.emplace(count, sink);
      have[who] = true;
      auto complete = receiver->Receive(step.type(), step.packet->payload());
      if (!complete || *complete) break;
    }
  }
  uint64_t want = std::min(prepared.uuids.dirty_bits, count);
  std::vector<bool>& bits = prepared.bits;
  bits.assign(count, false);
  if (prepared.large_bitmap_blocks && have[0]) {
    // The count is in larger units; what was sent says all.
    bits = sent[0];
    return;
  }
  uint64_t have_bits = 0;
  auto take = [&](auto&& eligible) {
    for (uint64_t i = 0; i < count && have_bits < want; ++i) {
      if (bits[i] || !eligible(i)) continue;
      bits[i] = true;
      ++have_bits;
    }
  };
  if (have[0]) {
    take([&](uint64_t i) { return sent[0][i] && !(have[1] && sent[1][i]); });
    take([&](uint64_t i) { return static_cast<bool>(sent[0][i]); });
  }
  take([](uint64_t) { return true; });
}

}  // namespace umblock::drbd::testing
