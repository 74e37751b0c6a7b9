// Resizes with a peer that proposes, votes and commits by hand, rightly and wrongly.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/scripted_fixture.h"

namespace umblock::drbd {
namespace {

using testing::kControl;
using testing::kData;
using testing::PacketType;
using testing::ScriptedOptions;
using testing::ScriptedPeer;
using testing::Text;

constexpr uint64_t kMiB = 1 << 20;

class ScriptedResize : public ::testing::Test {
 protected:
  void Up(Role role = Role::kPrimary) {
    peer.emplace(ScriptedOptions());
    peer->persona.role = role;
    peer->StartResource();
    ASSERT_TRUE(peer->Establish()) << peer->last_error();
    before = Size();
  }
  uint64_t Size() { return peer->bench->volume_status(0).size_bytes; }
  void GrowBacking(uint64_t bytes) {
    Status grown = peer->bench->Await(0, peer->bench->program(0).backends[0]->Grow(bytes));
    ASSERT_TRUE(grown) << Text(grown);
    ASSERT_TRUE(peer->world().RunUntil(
        [&] { return peer->bench->volume_status(0).backing_bytes == bytes; }, 10s));
  }
  void Send(PacketType type, const wire::TwoPcRequest& request) {
    std::vector<std::byte> raw(wire::kMaxHeaderSize + wire::TwoPcRequest::kSize);
    wire::EncodeHeader({.type = type, .volume = 0, .length = wire::TwoPcRequest::kSize}, raw);
    wire::Encode(request, wire::TwoPcLayout::kV2, MutableBytes(raw).subspan(wire::kMaxHeaderSize));
    peer->SendRaw(kData, raw);
  }
  wire::TwoPcRequest Proposal(uint64_t user_size, uint16_t flags = 0) {
    wire::TwoPcRequest request;
    request.tid = ++tid;
    request.flags = wire::kTwoPcHasFlags;
    request.initiator_node_id = 1;
    request.target_node_id = -1;
    request.nodes_to_reach = ~uint64_t{3};
    request.SetResize(user_size, flags);
    return request;
  }
  std::optional<wire::TwoPcReply> Propose(const wire::TwoPcRequest& request,
                                          PacketType vote = PacketType::kTwopcYes) {
    Send(PacketType::kTwopcPrepRsz, request);
    auto packet = peer->Wait(kControl, vote, 5s);
    if (!packet) return std::nullopt;
    EXPECT_EQ(packet->header.volume, 0);
    return packet->As<wire::TwoPcReply>();
  }
  void Commit(wire::TwoPcRequest request, uint64_t size) {
    request.SetResizeCommit(peer->persona.role == Role::kPrimary ? NodeBit(1) : 0, size);
    Send(PacketType::kTwopcCommit, request);
  }
  // The next state of this node that is in `repl`.
  std::optional<wire::StateWord> StateIn(ReplicationState repl) {
    while (auto packet = peer->Wait(kData, PacketType::kState, 5s)) {
      auto word = wire::DecodeStateWord(packet->As<wire::State>().word);
      if (word && word->replication == repl) return *word;
    }
    return std::nullopt;
  }
  void Promote() {
    auto promotion = peer->bench->Start(0, peer->resource().Promote(false));
    auto prepare = peer->Wait(kData, PacketType::kTwopcPrepare);
    ASSERT_TRUE(prepare);
    peer->Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*prepare));
    ASSERT_TRUE(peer->world().RunUntil([&] { return promotion->has_value(); }, 20s));
    ASSERT_TRUE(**promotion) << Text(**promotion);
  }

  std::optional<ScriptedPeer> peer;
  uint64_t before = 0;
  uint32_t tid = 40;
};

// As recorded of a kernel (93-93-resize): no sizes, no bitmaps; the Primary is the source, and what
// is new is asked for from the old end on.
TEST_F(ScriptedResize, APrimaryThatGrowsIsFollowed) {
  Up();
  GrowBacking(160 * kMiB);
  wire::TwoPcRequest request = Proposal(128 * kMiB / 512);
  auto yes = Propose(request);
  ASSERT_TRUE(yes);
  EXPECT_GT(yes->max_possible_size(), 159 * kMiB / 512);
  EXPECT_LT(yes->max_possible_size(), 160 * kMiB / 512);
  EXPECT_EQ(yes->primary_nodes, 0U);
  EXPECT_EQ(Size(), before) << "not before the commit";
  const size_t sizes = peer->CountReceived(kData, PacketType::kSizes);
  Commit(request, 128 * kMiB / 512);
  auto state = StateIn(ReplicationState::kSyncTarget);
  ASSERT_TRUE(state);
  EXPECT_EQ(state->disk, DiskState::kInconsistent);
  EXPECT_EQ(Size(), 128 * kMiB);
  auto asked = peer->Wait(kData, PacketType::kRsDagtagReq, 5s);
  ASSERT_TRUE(asked);
  EXPECT_EQ(asked->As<wire::DagtagRequest>().sector / 8, before / 4096);
  EXPECT_EQ(peer->CountReceived(kData, PacketType::kSizes), sizes);
  // A write to what is new, sent right behind the commit, is taken.
  peer->Write(127 * kMiB / 512, 4096, 0x66);
  EXPECT_TRUE(peer->Wait(kControl, PacketType::kWriteAck, 5s)) << peer->last_error();
}

TEST_F(ScriptedResize, ASecondaryMayAskAPrimaryHere) {
  Up(Role::kSecondary);
  Promote();
  GrowBacking(160 * kMiB);
  wire::TwoPcRequest request = Proposal(0);
  auto yes = Propose(request);
  ASSERT_TRUE(yes);
  EXPECT_EQ(yes->primary_nodes, NodeBit(0));
  request.SetResizeCommit(NodeBit(0), 100 * kMiB / 512);
  Send(PacketType::kTwopcCommit, request);
  ASSERT_TRUE(StateIn(ReplicationState::kSyncSource));
  EXPECT_EQ(Size(), 100 * kMiB);
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 100 * kMiB - before / 4096 * 4096);
}

TEST_F(ScriptedResize, AssumedCleanItIsOnlyLarger) {
  Up();
  GrowBacking(160 * kMiB);
  wire::TwoPcRequest request = Proposal(128 * kMiB / 512, wire::kDdsNoResync);
  ASSERT_TRUE(Propose(request));
  Commit(request, 128 * kMiB / 512);
  ASSERT_TRUE(peer->world().RunUntil([&] { return Size() == 128 * kMiB; }, 5s));
  peer->bench->RunFor(2s);
  EXPECT_EQ(peer->repl(), ReplicationState::kEstablished);
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 0U);
}

TEST_F(ScriptedResize, AnAbortChangesNothing) {
  Up();
  GrowBacking(160 * kMiB);
  wire::TwoPcRequest request = Proposal(128 * kMiB / 512);
  ASSERT_TRUE(Propose(request));
  Send(PacketType::kTwopcAbort, request);
  Commit(request, 128 * kMiB / 512);
  peer->bench->RunFor(2s);
  EXPECT_EQ(Size(), before);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected);
}

// Sizes that were not agreed on: beyond the room here, or smaller although nobody asked for that.
TEST_F(ScriptedResize, ACommitOfAnotherSizeEndsTheLink) {
  for (uint64_t size : {uint64_t{1} << 30, uint64_t{1} << 50, uint64_t{0}, kMiB / 512}) {
    SCOPED_TRACE(size);
    Up();
    GrowBacking(160 * kMiB);
    wire::TwoPcRequest request = Proposal(0);
    ASSERT_TRUE(Propose(request));
    Commit(request, size);
    EXPECT_TRUE(peer->WaitClosed());
    EXPECT_EQ(Size(), before);
    EXPECT_NE(peer->last_error().find("has not said it can be"), std::string::npos)
        << peer->last_error();
    peer.reset();
  }
}

TEST_F(ScriptedResize, WhatIsOpenDoesNotShrink) {
  Up(Role::kSecondary);
  Promote();
  auto opener = peer->bench->volume(0).Open({"a test", true});
  ASSERT_TRUE(opener);
  wire::TwoPcRequest request = Proposal(8 * kMiB / 512);
  EXPECT_TRUE(Propose(request, PacketType::kTwopcNo));
  Send(PacketType::kTwopcAbort, request);
  peer->bench->volume(0).Close(*opener);
  request = Proposal(8 * kMiB / 512);
  EXPECT_TRUE(Propose(request));
  Send(PacketType::kTwopcAbort, request);
}

TEST_F(ScriptedResize, DuringAResyncTheAnswerIsNo) {
  Up();
  peer->persona.disk = DiskState::kUpToDate;
  peer->SendState(0, ReplicationState::kAhead);
  ASSERT_TRUE(
      peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kBehind; }, 5s));
  EXPECT_TRUE(Propose(Proposal(0), PacketType::kTwopcNo));
}

// This node proposes.
TEST_F(ScriptedResize, APeerWithoutRoomEndsItWithTheReason) {
  Up(Role::kSecondary);
  GrowBacking(160 * kMiB);
  auto resized = peer->bench->Start(0, peer->resource().Resize(0, {.size = 128 * kMiB}));
  auto prepare = peer->Wait(kData, PacketType::kTwopcPrepRsz, 5s);
  ASSERT_TRUE(prepare);
  EXPECT_EQ(prepare->header.volume, 0);
  wire::TwoPcRequest request = ScriptedPeer::Request(*prepare);
  EXPECT_EQ(request.flags, wire::kTwoPcHasFlags);
  EXPECT_EQ(request.user_size(), 128 * kMiB / 512);
  EXPECT_EQ(request.dds_flags(), 0);
  wire::TwoPcReply reply{.tid = request.tid, .initiator_node_id = 0, .reachable_nodes = 3};
  reply.weak_nodes = 70 * kMiB / 512;  // max_possible_size
  peer->Send(kControl, PacketType::kTwopcYes, 0, reply);
  ASSERT_TRUE(peer->Wait(kData, PacketType::kTwopcAbort, 5s));
  ASSERT_TRUE(peer->world().RunUntil([&] { return resized->has_value(); }, 5s));
  ASSERT_FALSE(**resized);
  EXPECT_NE((**resized).error().message().find("73400320"), std::string::npos) << Text(**resized);
  EXPECT_EQ(Size(), before);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected);
}

TEST_F(ScriptedResize, TheCommitNamesTheSmallestRoom) {
  Up(Role::kSecondary);
  GrowBacking(160 * kMiB);
  auto resized = peer->bench->Start(0, peer->resource().Resize(0, {.assume_clean = true}));
  auto prepare = peer->Wait(kData, PacketType::kTwopcPrepRsz, 5s);
  ASSERT_TRUE(prepare);
  wire::TwoPcRequest request = ScriptedPeer::Request(*prepare);
  EXPECT_EQ(request.user_size(), 0U);
  EXPECT_EQ(request.dds_flags(), wire::kDdsNoResync);
  wire::TwoPcReply reply{.tid = request.tid, .initiator_node_id = 0, .reachable_nodes = 3};
  reply.weak_nodes = 80 * kMiB / 512;
  peer->Send(kControl, PacketType::kTwopcYes, 0, reply);
  auto commit = peer->Wait(kData, PacketType::kTwopcCommit, 5s);
  ASSERT_TRUE(commit);
  EXPECT_EQ(ScriptedPeer::Request(*commit).exposed_size(), 80 * kMiB / 512);
  ASSERT_TRUE(peer->world().RunUntil([&] { return resized->has_value(); }, 5s));
  EXPECT_TRUE(**resized) << Text(**resized);
  EXPECT_EQ(Size(), 80 * kMiB);
}

TEST_F(ScriptedResize, APeerThatDoesNotAnswerMakesItFailAndNotHang) {
  Up(Role::kSecondary);
  GrowBacking(160 * kMiB);
  auto resized = peer->bench->Start(0, peer->resource().Resize(0, {}));
  ASSERT_TRUE(peer->Wait(kData, PacketType::kTwopcPrepRsz, 5s));
  peer->Hangup();
  ASSERT_TRUE(peer->world().RunUntil([&] { return resized->has_value(); }, 120s));
  EXPECT_FALSE(**resized);
  EXPECT_EQ(Size(), before);
}

}  // namespace
}  // namespace umblock::drbd
