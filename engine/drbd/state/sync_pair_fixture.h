// Test support: two nodes with data generations that meet in a handshake, seen from either side.
#pragma once

#include <string>

#include "engine/drbd/state/handshake_report.h"
#include "engine/drbd/state/sync_decision.h"
#include "engine/drbd/wire/constants.h"

namespace umblock::drbd::testing {

inline constexpr uint64_t kA = 0xAAAA0000'00000010;
inline constexpr uint64_t kB = 0xBBBB0000'00000020;
inline constexpr uint64_t kC = 0xCCCC0000'00000030;

struct Node {
  UuidSet set;
  uint64_t flags = wire::kUuidFlagStable;
  Role role = Role::kSecondary;
  DiskState disk = DiskState::kUpToDate;
  uint64_t bits = 0;
  bool stable = true;
  bool quorum = true;
  bool can_demote = true;
  bool source_missed_end = false;
  bool peer_missed_end = false;
  uint64_t dagtag = 0;
  SyncPolicies policies;
  explicit Node(int id) : set(id) {}
};

struct Pair {
  Node a{0};
  Node b{1};
  int version = 124;
  ReplicationProtocol protocol = ReplicationProtocol::kC;
  bool a_resolves = false;
  bool quorum_enabled = false;
  bool lost_primary = false;
  bool attach = false;

  SyncDecision FromA() const { return From(a, b, a_resolves); }
  SyncDecision FromB() const { return From(b, a, !a_resolves); }
  HandshakeReport ReportA() const {
    HandshakeReport report;
    From(a, b, a_resolves, &report);
    return report;
  }
  std::string ExplainA() const { return ReportA().Line(); }

 private:
  static PeerUuids Packet(const Node& node) {
    PeerUuids out;
    out.current = node.set.current();
    out.flags = node.flags & ~wire::kUuidFlagStable;
    if (node.stable) out.flags |= wire::kUuidFlagStable;
    out.present = 7;
    out.dirty_bits = node.bits;
    for (int n : Nodes(7)) out.bitmap[static_cast<size_t>(n)] = node.set.bitmap(n).uuid;
    out.history = node.set.history();
    return out;
  }

  SyncDecision From(const Node& self, const Node& peer, bool resolves,
                    HandshakeReport* report = nullptr) const {
    const PeerUuids packet = Packet(peer);
    SyncInput in;
    in.compare.own = &self.set;
    in.compare.own_current = self.set.current();
    in.compare.own_flags = self.flags;
    in.compare.own_with_slot = kAllNodes;
    in.compare.peer = &packet;
    in.compare.peer_node = peer.set.own_node();
    in.compare.agreed_version = version;
    in.compare.protocol = protocol;
    in.compare.resolve_conflicts = resolves;
    in.compare.source_missed_end = self.source_missed_end;
    in.compare.peer_missed_end = self.peer_missed_end;
    in.policies = self.policies;
    in.own_node = self.set.own_node();
    in.own_role = self.role;
    in.peer_role = peer.role;
    in.own_disk = self.disk;
    in.peer_disk = peer.disk;
    in.own_bits = self.bits;
    in.peer_bits = peer.bits;
    in.own_stable = self.stable;
    in.quorum_enabled = quorum_enabled;
    in.own_quorum = self.quorum;
    in.peer_quorum = peer.quorum;
    in.can_demote = self.can_demote;
    in.attach = attach;
    if (lost_primary) in.reconcile = {self.dagtag, peer.dagtag};
    const SyncDecision decision = DecideSync(in);
    if (report != nullptr) *report = Report(in, decision);
    return decision;
  }
};

inline Pair Equal() {
  Pair pair;
  pair.a.set.Load(kB);
  pair.b.set.Load(kB);
  return pair;
}
// A wrote while B was away.
inline Pair OneWrote() {
  Pair pair;
  pair.a.set.Load(kB);
  pair.a.set.LoadBitmap(1, {kA, 0});
  pair.a.bits = 3;
  pair.b.set.Load(kA);
  return pair;
}
inline Pair SplitBrain() {
  Pair pair;
  pair.a.set.Load(kB);
  pair.a.set.LoadBitmap(1, {kA, 0});
  pair.a.bits = 3;
  pair.b.set.Load(kC);
  pair.b.set.LoadBitmap(0, {kA, 0});
  pair.b.bits = 5;
  return pair;
}
inline Pair Diverged() {
  Pair pair;
  pair.a.set.Load(kB);
  pair.a.set.LoadHistory(0, kA);
  pair.b.set.Load(kC);
  pair.b.set.LoadHistory(0, kA);
  return pair;
}
inline void SetPolicies(Pair& pair, AfterSplitBrain p0,
                        AfterSplitBrain p1 = AfterSplitBrain::kDisconnect,
                        AfterSplitBrain p2 = AfterSplitBrain::kDisconnect) {
  for (Node* node : {&pair.a, &pair.b}) {
    node->policies.after_sb_0pri = p0;
    node->policies.after_sb_1pri = p1;
    node->policies.after_sb_2pri = p2;
  }
}

}  // namespace umblock::drbd::testing
