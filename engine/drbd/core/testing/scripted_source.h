// ScriptedSource: a scripted peer with newer data; our node becomes its sync target, and the test
// answers the requests.
#pragma once

#include <optional>
#include <vector>

#include "engine/drbd/core/testing/scripted_fixture.h"

namespace umblock::drbd::testing {

// The peer has newer data: this node becomes the target and the peer answers.
class ScriptedSource : public ::testing::Test {
 protected:
  virtual ClusterOptions PeerOptions() { return ScriptedOptions(); }
  virtual void Prepare(ScriptedPeer&) {}
  void Up(uint64_t bits = 64) {
    peer.emplace(PeerOptions());
    Prepare(*peer);
    peer->persona.bitmap_uuid = peer->CurrentUuid();
    peer->persona.current_uuid = 0x1122334455667788;
    peer->persona.dirty_bits = bits;
    peer->StartResource();
    ASSERT_TRUE(peer->Dial());
    ASSERT_TRUE(peer->Negotiate());
    auto prepare = peer->Wait(kData, PacketType::kTwopcPrepare);
    ASSERT_TRUE(prepare);
    peer->SendStates();
    ASSERT_TRUE(peer->Wait(kData, PacketType::kState));
    peer->Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*prepare));
    ASSERT_TRUE(peer->Wait(kData, PacketType::kTwopcCommit)) << peer->last_error();
    peer->SendState(0, ReplicationState::kWFBitMapS);
    ASSERT_TRUE(
        peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kWFBitMapT; }, 10s))
        << ReplicationStateName(peer->repl());
  }
  uint64_t words() { return (peer->bench->volume_status(0).size_bytes / 4096 + 63) / 64; }
  void SendBitmap(uint64_t bits) {
    std::vector<std::byte> raw = ScriptedPeer::Claimed(
        PacketType::kBitmap, 0, static_cast<uint32_t>(words() * 8), words() * 8);
    for (uint64_t bit = 0; bit < bits; ++bit) {
      raw[16 + bit / 8] |= static_cast<std::byte>(1 << (bit % 8));
    }
    peer->SendRaw(kData, raw);
    peer->SendRaw(kData, ScriptedPeer::Claimed(PacketType::kBitmap, 0, 0, 0));  // the end of it
  }
  // All that was asked for has been said.
  bool Ends() {
    return peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kEstablished; },
                                  10s);
  }
  // The next request of this node.
  std::optional<wire::DagtagRequest> Request() {
    auto request = peer->Wait(kData, PacketType::kRsDagtagReq);
    if (!request) return std::nullopt;
    return request->As<wire::DagtagRequest>();
  }
  void Reply(const wire::DagtagRequest& request, uint8_t fill) {
    std::vector<std::byte> data(request.blksize, static_cast<std::byte>(fill));
    peer->Send(kData, PacketType::kRsDataReply, 0,
               wire::DataHead{request.sector, request.block_id, 0, 0}, data);
  }
  void Begin(uint64_t bits = 64) {
    Up(bits);
    SendBitmap(bits);
    peer->SendState(0, ReplicationState::kSyncSource);
    ASSERT_TRUE(
        peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kSyncTarget; }, 10s))
        << peer->last_error();
  }
  std::optional<ScriptedPeer> peer;
};

}  // namespace umblock::drbd::testing
