// What a cluster-wide transaction proposes: purposes <-> mask and value (drbd-states.md 4.6).
//
// Mask and value use the bits of the 32-bit state word, in the initiator's view. A builder makes
// what this node sends; Interpret says what a received pair asks for. To see a received pair in the
// own view use wire::MirrorStateChange.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/drbd/state/node_mask.h"
#include "engine/drbd/wire/state_word.h"

namespace umblock::drbd {

inline constexpr int kNoVolume = 0xFFFF;  // the volume field of transactions without a volume

struct Proposal {
  uint32_t mask = 0;
  uint32_t value = 0;
  int target = kNoNode;  // kNoNode = all
  int volume = kNoVolume;

  bool operator==(const Proposal&) const = default;
};

enum class ProposalKind {
  kEmpty,  // lost-peer probe
  kConnect,
  kDisconnect,
  kPromote,
  kDemote,
  kAttach,
  kDetach,
  kStartResync,  // StartingSyncS/T, WFBitMapS/T: see `repl`
  kStartVerify,
  kRemoveVolume,  // conn := Off on a volume
  kOther,         // a combination this version does not know; checked as a plain state change
};
std::string_view ProposalKindName(ProposalKind kind);

// On a graceful disconnect somebody may be outdated with it (4.6.1).
enum class OutdateOnDisconnect { kNobody, kSelf, kPeer };

Proposal ProposeConnect(int peer, Role own_role);
Proposal ProposeDisconnect(int peer, OutdateOnDisconnect outdate);
Proposal ProposePromote(bool force_up_to_date);
Proposal ProposeDemote();
Proposal ProposeEmpty();
Proposal ProposeAttach(int volume);
Proposal ProposeDetach(int volume);
// `repl` is one of StartingSyncS, StartingSyncT, WFBitMapS, WFBitMapT.
Proposal ProposeResync(int peer, int volume, ReplicationState repl);
Proposal ProposeVerify(int peer, int volume);
Proposal ProposeRemoveVolume(int peer, int volume);

// 4.6.1: what the initiator of a disconnect proposes.
struct DisconnectFacts {
  bool connected = true;
  bool fencing = false;  // policy >= resource-only
  bool quorum = false;   // quorum is enabled
  Role own_role = Role::kSecondary;
  Role peer_role = Role::kSecondary;
};
OutdateOnDisconnect WhoIsOutdated(const DisconnectFacts& facts);

// The typed reading of a received proposal (initiator's view).
struct ProposalReading {
  ProposalKind kind = ProposalKind::kOther;
  Role role = Role::kUnknown;                                  // kConnect: the initiator's role
  bool force_up_to_date = false;                               // kPromote
  OutdateOnDisconnect outdate = OutdateOnDisconnect::kNobody;  // initiator's view
  ReplicationState repl = ReplicationState::kOff;              // kStartResync
};
ProposalReading Interpret(uint32_t mask, uint32_t value, int volume);

// 4.2 step 14: COMMIT leaves before the change is applied locally.
bool CommitBeforeLocal(const Proposal& proposal);

}  // namespace umblock::drbd
