// Decisions about a peer: the connect handshake, states that arrive later, what others propose
// (drbd-states.md 4.3, 4.7, 4.8; drbd-metadata-resync.md 5).
#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/state/disk_state.h"
#include "engine/drbd/state/membership.h"
#include "engine/drbd/state/uuid_events.h"

namespace umblock::drbd {

SyncInput ResourceImpl::InputFor(PeerDevice& device, const wire::StateWord& theirs) {
  Volume& of = device.volume();
  const Disk& disk = *of.disk();
  const NetOptions& net = device.connection().config().net;
  SyncInput in;
  in.compare.own = &disk.uuids();
  PeerUuids own = UuidsFor(device, 0, 0);
  in.compare.own_current = own.current;
  in.compare.own_flags = own.flags;
  for (int node = 0; node < kNodeIds; ++node) {
    if (disk.SlotOf(node)) in.compare.own_with_slot |= NodeBit(node);
  }
  in.compare.peer = &device.uuids;
  in.compare.peer_node = device.node();
  in.compare.agreed_version = device.connection().agreed_protocol();
  in.compare.protocol = static_cast<ReplicationProtocol>(net.protocol);
  in.compare.resolve_conflicts = device.connection().resolve_conflicts();
  in.compare.source_missed_end = device.source_missed_end;
  in.compare.peer_missed_end = device.peer_missed_end;
  in.policies.after_sb_0pri = static_cast<AfterSplitBrain>(net.after_sb_0pri);
  in.policies.after_sb_1pri = static_cast<AfterSplitBrain>(net.after_sb_1pri);
  in.policies.after_sb_2pri = static_cast<AfterSplitBrain>(net.after_sb_2pri);
  in.policies.rr_conflict = static_cast<AfterSplitBrain>(net.rr_conflict);
  in.policies.always_asbp = net.always_asbp;
  in.own_node = own_node();
  in.own_role = state_.role;
  in.peer_role = theirs.role;
  in.own_disk = of.state().disk;
  in.own_disk_from_metadata = of.state().disk_from_metadata;
  in.peer_disk = ResolvePeerDisk(theirs.disk, device.uuids.Has(wire::kUuidFlagInconsistent));
  in.own_bits = device.out_of_sync_bits();
  in.peer_bits = device.uuids.dirty_bits;
  in.own_stable = stable();
  in.own_quorum = of.state().have_quorum;
  in.peer_quorum = theirs.quorum;
  return in;
}

// The peer's data is not what this diskless Primary has been working on (drbd-states.md 9.4): to
// read it would undo acknowledged writes. Which of the two is older cannot be told without the
// disk. A peer that may not have heard of the present generation yet has the one before.
bool ResourceImpl::HasOtherData(PeerDevice& device, const wire::StateWord& theirs) const {
  const Volume& of = device.volume();
  if (state_.role != Role::kPrimary || FollowsGenerations(of)) return false;
  if (!device.uuids_known || of.exposed_uuid == 0) return false;
  if (theirs.disk < DiskState::kNegotiating || IsZeroUuid(device.uuids.current)) return false;
  if (SameUuid(of.exposed_uuid, device.uuids.current)) return false;
  return of.exposed_before == 0 || !SameUuid(of.exposed_before, device.uuids.current);
}

// At a connect, without a disk: what the peer has is certain, and so is what it never heard of.
// True if this node told it another generation than it holds for its own now.
bool ResourceImpl::MeetGeneration(PeerDevice& device, const wire::StateWord& theirs) {
  Volume& of = device.volume();
  if (FollowsGenerations(of) || !device.uuids_known || of.exposed_uuid == 0) return false;
  if (theirs.disk < DiskState::kNegotiating || IsZeroUuid(device.uuids.current)) return false;
  if (SameUuid(of.exposed_uuid, device.uuids.current)) {
    of.exposed_before = 0;
    return false;
  }
  if (state_.role != Role::kPrimary) {
    of.exposed_uuid = device.uuids.current;  // nobody looks at the old one any more
    return false;
  }
  if (of.exposed_before == 0 || !SameUuid(of.exposed_before, device.uuids.current)) return false;
  // Nothing was acknowledged under the one that it does not have: once more.
  of.exposed_uuid = std::exchange(of.exposed_before, 0);
  OweNewUuid(of);
  return true;
}

std::string ResourceImpl::WhyOtherData(PeerDevice& device) {
  return fmt::format(
      "{}: this Primary, now without its disk, has shown data of generation {:016X}; the peer's "
      "is {:016X}; attach the disk again, or demote this node to go on with the peer's data",
      device.name(), device.volume().exposed_uuid, device.uuids.current);
}

SyncDecision ResourceImpl::DecideConnect(PeerDevice& device, const wire::StateWord& theirs,
                                         std::string* why) {
  RefreshFacts();
  SyncDecision none;
  none.verdict = SyncVerdict::kProceed;
  Volume& of = device.volume();
  // The handshake is given up for it and begins again (ApplyConnect).
  if (GenerationIsDue(of) && !MayResend(device, theirs)) StartOwedUuid(of);
  if (HasOtherData(device, theirs)) {
    none.verdict = SyncVerdict::kRetry;
    *why = WhyOtherData(device);
    return none;
  }
  const uint64_t told = of.exposed_uuid;
  if (MeetGeneration(device, theirs)) {
    none.verdict = SyncVerdict::kRetry;
    *why = fmt::format("{}: the peer never heard of generation {:016X}; once more without it",
                       device.name(), told);
    logger().Info("{}", *why);
    return none;
  }
  // Without a disk on one side there is nothing to sync.
  if (of.disk() == nullptr || of.state().disk < DiskState::kNegotiating ||
      theirs.disk < DiskState::kNegotiating) {
    return none;
  }
  SyncInput in = InputFor(device, theirs);
  std::optional<SentUuids> now;
  if (device.sent_uuids) {
    now = SentUuids::Of(UuidsFor(device, 0, 0), device.node());
    in.compare.sent = &*device.sent_uuids;
    in.compare.now = &*now;
  }
  SyncDecision decision = DecideSync(in);
  device.handshake = Report(in, decision);
  const std::string text = device.handshake->Line();
  CallHandlersFor(device, decision);
  // What is tried again is the connection's to log: it knows how often.
  if (decision.verdict != SyncVerdict::kRetry) logger().Info("{}: {}", device.name(), text);
  if (decision.verdict != SyncVerdict::kProceed) *why = fmt::format("{}: {}", device.name(), text);
  return decision;
}

// The effect of a decision on the slot for the peer (5.8), before the bitmap is sent.
void ResourceImpl::DoBitmapAction(PeerDevice& device, const SyncDecision& decision) {
  Volume& of = device.volume();
  if (of.disk() == nullptr) return;
  meta::Bitmap& bitmap = of.disk()->bitmap();
  std::optional<uint32_t> slot = device.slot();
  if (decision.drop_own_bitmap_uuid && DropBitmapUuid(of.disk()->uuids(), device.node())) {
    of.disk()->ScheduleSuperblock();
  }
  if (!slot) return;
  switch (decision.bitmap) {
    case BitmapAction::kNone:
      break;
    case BitmapAction::kSetAll:
      if (IsJustCreated(of.disk()->uuids().current())) {
        for (uint32_t each = 0; each < bitmap.max_peers(); ++each) bitmap.SetAll(each);
      } else {
        bitmap.SetAll(*slot);
        if (decision.direction == SyncDirection::kSource && device.uuids_known &&
            !IsJustCreated(device.uuids.current)) {
          SetAllAsSource(of.disk()->uuids(), device.node(), device.uuids.current, log_.dagtag());
          of.disk()->ScheduleSuperblock();
        }
      }
      break;
    case BitmapAction::kClear:
      bitmap.ClearAll(*slot);
      break;
    case BitmapAction::kCopyFrom: {
      std::optional<uint32_t> from =
          decision.node == kNoNode ? std::nullopt : of.disk()->SlotOf(decision.node);
      if (from) {
        bitmap.CopySlot(*from, *slot);
      } else {
        bitmap.SetAll(*slot);
      }
      break;
    }
  }
}

void ResourceImpl::ApplyConnect(int node, Role peer_role) {
  Connection& link = *connections_.at(node);
  ConnectHandshake& handshake = link.handshake();
  // What was decided on must still hold: a write may have begun a new generation meanwhile.
  for (auto& [number, of] : volumes_) {
    PeerDevice& device = *of->peer(node);
    if (!device.sent_uuids || of->disk() == nullptr) continue;
    if (!of->making_uuid && device.sent_uuids->SameAs(SentUuids::Of(UuidsFor(device, 0, 0), node)))
      continue;
    handshake.End();
    link.Fail(ConnectionState::kNetworkFailure,
              "the data generation changed during the handshake; once more");
    return;
  }
  for (auto& [number, of] : volumes_) {
    const SyncDecision* decision = handshake.decision(number);
    if (decision != nullptr) DoBitmapAction(*of->peer(node), *decision);
  }
  link.ForgetDiscardMyData();
  StateCheck check = Change("connected", {.hard = true}, [&](ResourceState& next) {
    next.peer(node).connection = ConnectionState::kConnected;
    next.peer(node).role = peer_role;
    for (VolumeState& volume : next.volumes) {
      Volume* of = this->volume(volume.number);
      PeerDevice* device = of == nullptr ? nullptr : of->peer(node);
      const SyncDecision* decision = handshake.decision(volume.number);
      if (device == nullptr || decision == nullptr) continue;
      PeerDeviceState& peer = volume.peer(node);
      ApplyPeerStateWord(next, node, volume.number, device->handshake_word,
                         device->uuids.Has(wire::kUuidFlagInconsistent));
      peer.repl = decision->direction == SyncDirection::kNone ? ReplicationState::kEstablished
                                                              : decision->repl();
      // Nothing was acknowledged without the peer: it has all of this generation, soon.
      if (peer.repl == ReplicationState::kEstablished &&
          MayResend(*device, device->handshake_word) && of->owes_for_writes) {
        volume.owes_new_uuid = of->owes_for_writes = false;
      }
    }
    next.peer(node).role = peer_role;
  });
  handshake.End();
  if (!check) {
    link.Fail(ConnectionState::kProtocolError,
              fmt::format("the agreed connect cannot be applied: {}", check.error().text()));
    return;
  }
  link.OnConnected();
}

void ResourceImpl::OutdateWouldBeTargets(Connection& link) {
  if (state_.role == Role::kPrimary) return;
  for (int number : link.handshake().WouldBeTargets()) {
    if (state_.Volume(number) == nullptr || state_.Volume(number)->disk <= DiskState::kOutdated) {
      continue;
    }
    (void)Change("the peer has newer data", {.hard = true}, [number](ResourceState& next) {
      next.Volume(number)->disk = DiskState::kOutdated;
    });
  }
}

// --- states of a connected peer
// --------------------------------------------------------------------

// Does the peer's state give a reason to compare data on an established link?
bool ResourceImpl::MustCompare(PeerDevice& device, const wire::StateWord& theirs) {
  if (device.consider_resync && theirs.disk >= DiskState::kNegotiating) return true;
  if (device.state().repl != ReplicationState::kEstablished) return false;
  // The peer has decided on a resync that we have not heard of.
  if (theirs.replication == ReplicationState::kWFBitMapS ||
      theirs.replication == ReplicationState::kWFBitMapT) {
    return true;
  }
  Volume& of = device.volume();
  if (of.disk() == nullptr) return false;
  const DiskState own = of.state().disk;
  // A fresh replica next to one that has just got its first data (2.6, forced promotion).
  if (own == DiskState::kInconsistent && theirs.disk == DiskState::kUpToDate &&
      !SameUuid(of.disk()->uuids().current(), device.uuids.current)) {
    return true;
  }
  // Its disk has come without asking this node, as this node's did: attached at the same moment.
  return device.uuids_known && device.state().disk < DiskState::kNegotiating &&
         theirs.disk >= DiskState::kInconsistent && theirs.disk != DiskState::kUnknown &&
         own >= DiskState::kInconsistent;
}

void ResourceImpl::OnPeerState(PeerDevice& device, const wire::StateWord& theirs) {
  int node = device.node();
  int number = device.volume_number();
  ReplicationState own = device.state().repl;
  Volume& of = device.volume();

  // A disk is being attached at the peer: it compares, so do we (5.9).
  bool attaching_there = theirs.disk == DiskState::kNegotiating;
  bool attaching_here = of.state().disk == DiskState::kNegotiating;
  bool compare = MustCompare(device, theirs);
  device.reported = theirs.replication;
  if (own == ReplicationState::kEstablished && theirs.disk >= DiskState::kConsistent &&
      HasOtherData(device, theirs)) {
    device.connection().Fail(ConnectionState::kNetworkFailure, WhyOtherData(device));
    return;
  }
  bool ends_resync =
      theirs.replication == ReplicationState::kEstablished &&
      (own == ReplicationState::kSyncSource || own == ReplicationState::kPausedSyncS);
  bool ends_verify =
      theirs.replication == ReplicationState::kEstablished && own == ReplicationState::kVerifyT;
  // A congested peer sends no data any more, only what is out of sync; this node's data is old from
  // now on. Later the peer becomes the source of a resync, with the bits that both have (7.7).
  bool falls_behind =
      theirs.replication == ReplicationState::kAhead && of.disk() != nullptr &&
      (own == ReplicationState::kEstablished || own == ReplicationState::kSyncTarget ||
       own == ReplicationState::kPausedSyncT);
  bool catches_up = own == ReplicationState::kBehind && !device.starting_target &&
                    (theirs.replication == ReplicationState::kSyncSource ||
                     theirs.replication == ReplicationState::kPausedSyncS);
  StateCheck check = Change("the peer's state", {.hard = true}, [&](ResourceState& next) {
    ApplyPeerStateWord(next, node, number, theirs, device.uuids.Has(wire::kUuidFlagInconsistent));
    PeerDeviceState& peer = next.Volume(number)->peer(node);
    if (falls_behind) peer.repl = ReplicationState::kBehind;
    // Its writes come again, and the resync has only begun.
    if (catches_up) next.Volume(number)->disk = DiskState::kInconsistent;
    if (theirs.role == Role::kPrimary || theirs.role == Role::kSecondary) {
      next.peer(node).role = theirs.role;
    }
    if (ends_resync || ends_verify) peer.repl = ReplicationState::kEstablished;
  });
  if (!check) {
    logger().Warn("{}: the peer's state is not acceptable: {}", device.name(),
                  check.error().text());
    return;
  }
  if (ends_resync) OnResyncEndedAsSource(device);
  if (catches_up) {
    device.tasks.Spawn(RunStartTarget(&device, device.connection().session(), own));
    return;
  }
  if (attaching_here) {
    NegotiateAttach(device, theirs);
    return;
  }
  if (attaching_there && of.disk() != nullptr && of.state().disk >= DiskState::kInconsistent) {
    device.tasks.Spawn(AnswerAttach(&device, theirs, device.connection().session()));
    return;
  }
  if (compare) DecideConnected(device, theirs, false);
}

// A generation that is due comes first: the peer would else compare with a name that says less than
// this node has.
Task<void> ResourceImpl::AnswerAttach(PeerDevice* device, wire::StateWord theirs,
                                      uint64_t session) {
  Volume& of = device->volume();
  co_await SettleGeneration(of);
  Connection& link = device->connection();
  if (!link.up() || link.session() != session || of.disk() == nullptr) co_return;
  if (of.state().disk < DiskState::kInconsistent) co_return;
  link.SendUuids(*device, 0);
  link.SendState(*device);
  DecideConnected(*device, theirs, true);
}

// A decision on an established link.
void ResourceImpl::DecideConnected(PeerDevice& device, const wire::StateWord& theirs, bool attach) {
  device.consider_resync = false;
  Volume& of = device.volume();
  if (of.disk() == nullptr || !device.uuids_known ||
      device.state().repl != ReplicationState::kEstablished) {
    return;
  }
  RefreshFacts();
  SyncInput in = InputFor(device, theirs);
  in.attach = attach;
  SyncDecision decision = DecideSync(in);
  device.handshake = Report(in, decision);
  logger().Info("{}: {}", device.name(), device.handshake->Line());
  CallHandlersFor(device, decision);
  if (decision.verdict != SyncVerdict::kProceed) {
    if (!attach) {
      device.connection().Fail(decision.verdict == SyncVerdict::kRetry
                                   ? ConnectionState::kNetworkFailure
                                   : ConnectionState::kDisconnecting,
                               device.handshake->Line());
    }
    return;
  }
  if (decision.direction == SyncDirection::kNone) {
    if (attach) ForgetDifferences(device);
    return;
  }
  DoBitmapAction(device, decision);
  int node = device.node();
  int number = device.volume_number();
  StateCheck check = Change(SyncRuleName(decision.rule), {.hard = true}, [&](ResourceState& next) {
    next.Volume(number)->peer(node).repl = decision.repl();
  });
  if (!check) logger().Warn("{}: no resync: {}", device.name(), check.error().text());
}

// The own disk is Negotiating: the result of each peer decides what it becomes (2.4.1).
void ResourceImpl::NegotiateAttach(PeerDevice& device, const wire::StateWord& theirs) {
  if (!device.uuids_known) return;
  RefreshFacts();
  SyncInput in = InputFor(device, theirs);
  in.attach = true;
  SyncDecision decision = DecideSync(in);
  device.handshake = Report(in, decision);
  logger().Info("{}: {}", device.name(), device.handshake->Line());
  int node = device.node();
  int number = device.volume_number();
  PeerDeviceState& fact = state_.Volume(number)->peer(node);
  if (decision.verdict == SyncVerdict::kProceed) {
    DoBitmapAction(device, decision);
    if (decision.direction == SyncDirection::kNone) ForgetDifferences(device);
    fact.negotiation_result = decision.direction == SyncDirection::kNone
                                  ? ReplicationState::kEstablished
                                  : decision.repl();
  } else {
    device.volume().disk_reason = device.handshake->Line();
    fact.negotiation_result = ReplicationState::kBehind;
  }
  (void)Change("attached", {.hard = true}, [](ResourceState&) {});
}

// --- what others propose
// ---------------------------------------------------------------------------

ResourceImpl::RemoteEdit ResourceImpl::EditFor(const Transaction& transaction) {
  const Proposal& proposal = transaction.proposal;
  ProposalReading reading = Interpret(proposal.mask, proposal.value, proposal.volume);
  int from = transaction.id.initiator;
  bool concerns_me = proposal.target == kNoNode || proposal.target == own_node();
  bool direct = connections_.contains(from) && state_.peer(from).connected();
  RemoteEdit result;
  if (!concerns_me) return result;
  switch (reading.kind) {
    case ProposalKind::kPromote:
      if (!direct) break;
      result.edit = [=](ResourceState& next) { next.peer(from).role = Role::kPrimary; };
      if (reading.force_up_to_date) {
        result.edit = [=](ResourceState& next) { next.peer(from).role = Role::kPrimary; };
      }
      result.reason = "the peer is promoted";
      break;
    case ProposalKind::kDemote:
      if (!direct) break;
      result.edit = [=](ResourceState& next) { next.peer(from).role = Role::kSecondary; };
      result.reason = "the peer is demoted";
      break;
    case ProposalKind::kDisconnect:
      if (!direct) break;
      result.edit = [=](ResourceState& next) {
        next.peer(from).connection = ConnectionState::kTearDown;
        for (VolumeState& volume : next.volumes) {
          if (reading.outdate == OutdateOnDisconnect::kPeer && volume.disk > DiskState::kOutdated) {
            volume.disk = DiskState::kOutdated;
          }
          if (reading.outdate == OutdateOnDisconnect::kSelf) {
            volume.peer(from).disk = DiskState::kOutdated;
          }
        }
      };
      result.options.ignore_failed_outdate = true;
      result.reason = "the peer disconnects";
      break;
    case ProposalKind::kDetach:
      if (!direct) break;
      result.edit = [=](ResourceState& next) {
        if (VolumeState* volume = next.Volume(proposal.volume)) {
          volume->peer(from).disk = DiskState::kDetaching;
        }
      };
      result.reason = "the peer detaches its disk";
      break;
    case ProposalKind::kStartResync:
      if (!direct) break;
      result.edit = [=](ResourceState& next) {
        if (VolumeState* volume = next.Volume(proposal.volume)) {
          volume->peer(from).repl = CounterpartOf(reading.repl);
        }
      };
      result.reason = "the peer starts a resync";
      break;
    case ProposalKind::kConnect:
      result.edit = [=](ResourceState& next) {
        next.peer(from).connection = ConnectionState::kConnected;
        next.peer(from).role = reading.role;
      };
      result.reason = "connected";
      break;
    case ProposalKind::kAttach:
    case ProposalKind::kEmpty:
      break;
    case ProposalKind::kStartVerify:
      if (!direct) break;
      result.edit = [=](ResourceState& next) {
        if (VolumeState* volume = next.Volume(proposal.volume)) {
          volume->peer(from).repl = ReplicationState::kVerifyT;
        }
      };
      result.reason = "the peer starts a verify";
      break;
    case ProposalKind::kRemoveVolume:
    case ProposalKind::kOther:
      result.refused = true;
      break;
  }
  return result;
}

StateResult ResourceImpl::CheckRemote(const Transaction& transaction) {
  if (transaction.kind == TransactionKind::kResize) return CheckResize(transaction);
  RemoteEdit remote = EditFor(transaction);
  if (remote.refused) return StateResult::kNotSupported;
  if (transaction.proposal.target == own_node() &&
      !connections_.contains(transaction.id.initiator)) {
    return StateResult::kNeedConnection;
  }
  if (transaction.is_connect() && transaction.proposal.target == own_node()) {
    Connection* link = connection(transaction.id.initiator);
    if (link == nullptr || !link->negotiated()) return StateResult::kNeedConnection;
    if (state_.role == Role::kPrimary &&
        Interpret(transaction.proposal.mask, transaction.proposal.value, kNoVolume).role ==
            Role::kPrimary &&
        !link->config().net.allow_two_primaries) {
      link->set_handshake_reason(
          "both nodes are Primary and allow-two-primaries is off; demote one of them");
      return StateResult::kTwoPrimaries;
    }
    return StateResult::kSuccess;
  }
  if (!remote.edit) return StateResult::kSuccess;
  StateCheck check = Check(remote.options, remote.edit);
  return check ? StateResult::kSuccess : check.error().code;
}

void ResourceImpl::ApplyRemote(const TransactionCommit& commit) {
  const Transaction& transaction = commit.transaction;
  int from = transaction.id.initiator;
  if (transaction.kind == TransactionKind::kResize) {
    if (Volume* of = volume(transaction.proposal.volume)) BeginResize(*of, commit, false);
    return;
  }
  MemberCommit members;
  members.self = own_node();
  members.reachable = commit.reachable_nodes;
  members.has_reachable = commit.has_reachable;
  members.connect = transaction.is_connect();
  members.initiator = from;
  members.target = transaction.proposal.target;
  members.own_volumes_have_quorum = true;
  state_.members = MembersAfterCommit(state_.members, members);
  if (transaction.is_connect()) {
    if (transaction.proposal.target == own_node() && connections_.contains(from)) {
      Role role = Interpret(transaction.proposal.mask, transaction.proposal.value, kNoVolume).role;
      ApplyConnect(from, role);
    }
    return;
  }
  RemoteEdit remote = EditFor(transaction);
  if (remote.edit) {
    StateCheck check = Change(remote.reason, remote.options, remote.edit);
    if (!check) {
      logger().Error("resource {}: a committed change cannot be applied: {}", name(),
                     check.error().text());
    }
  }
  // A Primary with data exists that this node does not see (drbd-states.md 4.7, 4.6.1).
  NodeMask direct = state_.connected();
  if (transaction.is_disconnect() && transaction.proposal.target == own_node()) {
    direct &= ~NodeBit(from);
  }
  if (MustOutdateAtCommit(own_node(), commit.primary_nodes, direct, commit.primaries_incapable)) {
    (void)Change("a Primary exists that is not connected to this node", {.hard = true},
                 [](ResourceState& next) {
                   for (VolumeState& volume : next.volumes) {
                     if (volume.disk > DiskState::kOutdated) volume.disk = DiskState::kOutdated;
                   }
                 });
  }
  if (transaction.is_disconnect() && transaction.proposal.target == own_node()) {
    if (Connection* link = connection(from)) {
      link->Fail(ConnectionState::kTearDown, "the peer disconnected");
    }
  }
}

void ResourceImpl::UndoRemote() {
  for (auto& [node, link] : connections_) {
    if (!link->state().connected()) link->OnConnectAborted();
  }
}

}  // namespace umblock::drbd
