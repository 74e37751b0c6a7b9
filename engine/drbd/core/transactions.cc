#include "engine/drbd/core/transactions.h"

#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {
namespace {

int WireVolume(int volume) { return volume == kNoVolume ? wire::kNoVolume : volume; }

uint32_t Milliseconds(Duration duration) {
  return static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
}

Transaction FromWire(const wire::TwoPcRequest& request, int volume, bool resize) {
  Transaction result;
  result.id = {request.initiator_node_id, request.tid};
  result.kind = resize ? TransactionKind::kResize : TransactionKind::kStateChange;
  result.proposal.target = request.target_node_id;
  result.proposal.volume = volume;
  result.nodes_to_reach = request.nodes_to_reach;
  if (resize) {
    result.user_size = request.user_size();
    result.dds_flags = request.dds_flags();
  } else {
    result.proposal.mask = request.mask();
    result.proposal.value = request.val();
  }
  return result;
}

wire::TwoPcRequest ToWire(const Transaction& transaction) {
  wire::TwoPcRequest result;
  result.tid = transaction.id.tid;
  result.flags = wire::kTwoPcHasFlags;
  if (transaction.kind == TransactionKind::kStateChange) result.flags |= wire::kTwoPcHasReachable;
  result.initiator_node_id = transaction.id.initiator;
  result.target_node_id = transaction.proposal.target;
  result.nodes_to_reach = transaction.nodes_to_reach;
  return result;
}

}  // namespace

Transactions::Transactions(ResourceImpl& resource)
    : resource_(resource),
      reactor_(resource.reactor()),
      own_lock_(reactor_),
      event_(reactor_),
      participant_(resource.config().node_id, {}),
      own_timer_(this,
                 [](Timer* self) noexcept {
                   Transactions* owner = static_cast<OneShot*>(self)->owner;
                   if (owner->own_active()) {
                     owner->Execute(owner->coordinator_->OnTimeout(owner->OwnFacts()), true);
                   }
                 }),
      participant_timer_(this, [](Timer* self) noexcept {
        Transactions* owner = static_cast<OneShot*>(self)->owner;
        owner->Execute(owner->participant_.OnTimeout(owner->RemoteFacts()), false);
      }) {}

Transactions::~Transactions() = default;

Task<void> Transactions::Stop() {
  stopping_ = true;
  cancel_.Cancel();
  if (own_active()) Execute(coordinator_->OnInterrupted(OwnFacts()), true);
  event_.NotifyAll();
  AsyncMutex::Lock lock = co_await own_lock_.Acquire();
  own_timer_.Disarm();
  participant_timer_.Disarm();
  for (auto& timer : defer_timers_) timer.reset();
}

TransactionTiming Transactions::timing() const {
  const ResourceOptions& options = resource_.config().options;
  TransactionTiming result;
  result.twopc_timeout_ms = Milliseconds(options.twopc_timeout);
  result.twopc_retry_timeout_ms = Milliseconds(options.twopc_retry_timeout);
  for (const auto& [node, connection] : resource_.connections()) {
    result.ping_timeout_ms =
        std::max(result.ping_timeout_ms, Milliseconds(connection->config().net.ping_timeout));
  }
  return result;
}

NodeMask Transactions::direct() const {
  NodeMask mask = 0;
  for (const auto& [node, connection] : resource_.connections()) {
    if (connection->up() && connection->state().connected()) mask |= NodeBit(node);
  }
  return mask;
}

namespace {

HandshakeState CombinedHandshake(const ResourceImpl& resource, int peer) {
  auto it = resource.connections().find(peer);
  if (it == resource.connections().end()) return HandshakeState::kNotNeeded;
  const ConnectHandshake& handshake = it->second->handshake();
  return handshake.begun() ? handshake.state() : HandshakeState::kNotNeeded;
}

bool AnyData(const ResourceState& state) {
  for (const VolumeState& volume : state.volumes) {
    if (DataAccessible(state, volume)) return true;
  }
  return false;
}

}  // namespace

CoordinatorFacts Transactions::OwnFacts() const {
  const ResourceState& state = resource_.state();
  CoordinatorFacts facts;
  facts.direct = direct();
  for (const auto& [node, connection] : resource_.connections()) {
    if (connection->negotiated() && !connection->state().connected()) {
      facts.connecting |= NodeBit(node);
    }
  }
  facts.self_primary = state.role == Role::kPrimary;
  facts.data_accessible = AnyData(state);
  for (const VolumeState& volume : state.volumes) {
    facts.self_has_disk = facts.self_has_disk || volume.disk > DiskState::kDiskless;
    facts.self_read_only_openers = facts.self_read_only_openers ||
                                   (volume.read_only_openers > 0 && volume.read_write_openers == 0);
  }
  if (request_ != nullptr && request_->resize) {
    const VolumeState* volume = state.Volume(request_->proposal.volume);
    facts.self_has_disk = volume != nullptr && volume->disk > DiskState::kDiskless;
    facts.max_possible_size = resource_.MaxPossibleSectors(request_->proposal.volume);
    facts.least_size = request_->least_size;
  }
  facts.connections = state.configured();
  for (int node : Nodes(facts.connections)) {
    if (state.peer(node).allow_two_primaries) facts.allow_two_primaries |= NodeBit(node);
  }
  if (coordinator_ != nullptr && coordinator_->transaction().is_connect()) {
    facts.handshake = CombinedHandshake(resource_, coordinator_->transaction().proposal.target);
  }
  return facts;
}

ParticipantFacts Transactions::RemoteFacts() const {
  const ResourceState& state = resource_.state();
  ParticipantFacts facts;
  facts.direct = direct();
  facts.self_primary = state.role == Role::kPrimary;
  facts.data_accessible = AnyData(state);
  if (const VolumeState* volume = state.Volume(resize_volume_); volume != nullptr) {
    facts.max_possible_size = resource_.MaxPossibleSectors(resize_volume_);
    facts.diskful_primary = facts.self_primary && volume->disk > DiskState::kDiskless;
  }
  facts.own_transaction = own_active();
  facts.own_tid = own_active() ? coordinator_->transaction().id.tid : 0;
  if (participant_.active() && participant_.transaction().is_connect() &&
      participant_.transaction().proposal.target == resource_.own_node()) {
    facts.handshake = CombinedHandshake(resource_, participant_.transaction().id.initiator);
  }
  return facts;
}

// --- this node's own
// -------------------------------------------------------------------------------

Task<bool> Transactions::WaitIdle(Duration timeout) {
  Time until = reactor_.Now() + timeout;
  while ((participant_.active() || own_active()) && !stopping_) {
    Time now = reactor_.Now();
    if (now >= until) co_return false;
    co_await event_.WaitFor(until - now, cancel_);
  }
  co_return !stopping_;
}

Task<StateResult> Transactions::Run(Request request) {
  AsyncMutex::Lock lock = co_await own_lock_.Acquire();
  for (int retry = 0;; ++retry) {
    Time until = reactor_.Now() + resource_.config().options.twopc_timeout;
    while (participant_.active() && !stopping_ && reactor_.Now() < until) {
      co_await event_.WaitFor(until - reactor_.Now(), cancel_);
    }
    if (stopping_) co_return StateResult::kInterrupted;
    if (participant_.active()) co_return StateResult::kConcurrentStateChange;
    if (request.check) {
      StateCheck check = request.check();
      if (!check) co_return check.error().code;
    }
    Transaction transaction;
    transaction.id.initiator = resource_.own_node();
    do {
      transaction.id.tid = static_cast<uint32_t>(reactor_.Random64());
    } while (transaction.id.tid == 0);
    transaction.proposal = request.proposal;
    if (request.resize) {
      transaction.kind = TransactionKind::kResize;
      transaction.user_size = request.user_size;
      transaction.dds_flags = request.dds_flags;
    }
    coordinator_ = std::make_unique<TwoPhaseCoordinator>(resource_.own_node(), timing());
    request_ = &request;
    finished_ = false;
    Execute(coordinator_->Start(transaction, OwnFacts()), true);
    while (!finished_) co_await event_.Wait();
    own_timer_.Disarm();
    request_ = nullptr;
    StateResult result = coordinator_->result();
    refused_by_ = coordinator_->refused_by();
    max_possible_size_ = coordinator_->max_possible_size();
    if (Succeeded(result)) resource_.UpdateMembers(coordinator_->members());
    coordinator_.reset();
    Execute(participant_.OnOwnTransactionEnded(RemoteFacts()), false);
    event_.NotifyAll();
    bool again = request.retry &&
                 (result == StateResult::kConcurrentStateChange || result == StateResult::kTimeout);
    if (!again || stopping_ || retry >= 30) co_return result;
    int connections = NodeCount(direct()) + 1;
    uint32_t pause = RetryBackoffMs(RetryBackoffBoundMs(timing(), connections, retry),
                                    static_cast<uint32_t>(reactor_.Random64()));
    co_await Sleep(reactor_, std::chrono::milliseconds(pause), cancel_);
  }
}

// --- packets
// ---------------------------------------------------------------------------------------

void Transactions::OnPrepare(Connection& from, int volume, const wire::TwoPcRequest& request,
                             bool resize) {
  if (resize) resize_volume_ = volume;
  Execute(participant_.OnPrepare(from.node(), FromWire(request, volume, resize), RemoteFacts()),
          false);
}

void Transactions::OnCommit(Connection& from, int volume, const wire::TwoPcRequest& request) {
  TransactionCommit commit;
  bool mine = participant_.active() && participant_.transaction().id ==
                                           TransactionId{request.initiator_node_id, request.tid};
  bool resize = mine && participant_.transaction().kind == TransactionKind::kResize;
  commit.transaction = FromWire(request, volume, resize);
  if (mine) {
    // V2 commits do not repeat what was prepared.
    commit.transaction.proposal = participant_.transaction().proposal;
    commit.transaction.user_size = participant_.transaction().user_size;
    commit.transaction.dds_flags = participant_.transaction().dds_flags;
  }
  commit.primary_nodes = request.primary_nodes();
  commit.has_reachable = request.has_reachable();
  if (commit.has_reachable) commit.reachable_nodes = request.reachable_nodes();
  commit.primaries_incapable = (request.flags & wire::kTwoPcPrimaryIncapable) != 0;
  if (resize) commit.exposed_size = request.exposed_size();
  Execute(participant_.OnCommit(from.node(), commit, RemoteFacts()), false);
}

void Transactions::OnAbort(Connection& from, int volume, const wire::TwoPcRequest& request) {
  Execute(participant_.OnAbort(from.node(), FromWire(request, volume, false), RemoteFacts()),
          false);
}

void Transactions::OnReply(Connection& from, Vote vote, const wire::TwoPcReply& packet) {
  TransactionReply reply;
  reply.id = {packet.initiator_node_id, packet.tid};
  reply.vote = vote;
  reply.reachable_nodes = packet.reachable_nodes;
  reply.primary_nodes = packet.primary_nodes;
  reply.weak_nodes = packet.weak_nodes;
  reply.max_possible_size = packet.max_possible_size();
  if (own_active() && coordinator_->transaction().id == reply.id) {
    Execute(coordinator_->OnReply(from.node(), reply, OwnFacts()), true);
  } else {
    Execute(participant_.OnSubReply(from.node(), reply, RemoteFacts()), false);
  }
}

void Transactions::OnHandshake() {
  if (own_active()) Execute(coordinator_->OnHandshake(OwnFacts()), true);
  if (participant_.active()) Execute(participant_.OnHandshake(RemoteFacts()), false);
}

void Transactions::OnConnectionLost(int node) {
  if (own_active()) Execute(coordinator_->OnPeerLost(node, OwnFacts()), true);
  Execute(participant_.OnPeerLost(node, RemoteFacts()), false);
}

// --- carrying it out
// -------------------------------------------------------------------------------

void Transactions::Send(const TransactionAction& action) {
  Connection* connection = resource_.connection(action.node);
  if (connection == nullptr) return;
  using Kind = TransactionAction::Kind;
  switch (action.kind) {
    case Kind::kSendPrepare: {
      wire::TwoPcRequest packet = ToWire(action.transaction);
      bool resize = action.transaction.kind == TransactionKind::kResize;
      if (resize) {
        packet.SetResize(action.transaction.user_size, action.transaction.dds_flags);
      } else {
        packet.SetStateChange(action.transaction.proposal.mask, action.transaction.proposal.value);
      }
      connection->SendTransaction(
          resize ? wire::PacketType::kTwopcPrepRsz : wire::PacketType::kTwopcPrepare,
          WireVolume(action.transaction.proposal.volume), packet);
      return;
    }
    case Kind::kSendCommit: {
      const Transaction& transaction = action.commit.transaction;
      wire::TwoPcRequest packet = ToWire(transaction);
      if (action.commit.primaries_incapable) packet.flags |= wire::kTwoPcPrimaryIncapable;
      if (transaction.kind == TransactionKind::kResize) {
        packet.SetResizeCommit(action.commit.primary_nodes, action.commit.exposed_size);
      } else if ((connection->agreed_features() & wire::kFeatureTwoPcV2) != 0) {
        packet.SetCommit(action.commit.primary_nodes, action.commit.reachable_nodes);
      } else {
        packet.first = action.commit.primary_nodes;
        packet.SetStateChange(transaction.proposal.mask, transaction.proposal.value);
      }
      connection->SendTransaction(wire::PacketType::kTwopcCommit,
                                  WireVolume(transaction.proposal.volume), packet);
      return;
    }
    case Kind::kSendAbort:
      connection->SendTransaction(wire::PacketType::kTwopcAbort,
                                  WireVolume(action.transaction.proposal.volume),
                                  ToWire(action.transaction));
      return;
    case Kind::kSendReply: {
      wire::TwoPcReply packet;
      packet.tid = action.reply.id.tid;
      packet.initiator_node_id = action.reply.id.initiator;
      packet.reachable_nodes = action.reply.reachable_nodes;
      packet.primary_nodes = action.reply.primary_nodes;
      packet.weak_nodes = action.reply.weak_nodes;
      if (action.transaction.kind == TransactionKind::kResize) {
        packet.weak_nodes = action.reply.max_possible_size;
      }
      wire::PacketType type = action.reply.vote == Vote::kYes  ? wire::PacketType::kTwopcYes
                              : action.reply.vote == Vote::kNo ? wire::PacketType::kTwopcNo
                                                               : wire::PacketType::kTwopcRetry;
      connection->SendVote(type, WireVolume(action.transaction.proposal.volume), packet);
      return;
    }
    default:
      return;
  }
}

void Transactions::Execute(const TransactionActions& actions, bool own) {
  using Kind = TransactionAction::Kind;
  for (const TransactionAction& action : actions) {
    switch (action.kind) {
      case Kind::kSendPrepare:
      case Kind::kSendCommit:
      case Kind::kSendAbort:
      case Kind::kSendReply:
        Send(action);
        break;
      case Kind::kPing:
        if (Connection* connection = resource_.connection(action.node)) connection->SendPing();
        break;
      case Kind::kSendInitialStates:
        if (Connection* connection = resource_.connection(action.node)) {
          connection->SendInitialStates();
        }
        break;
      case Kind::kCheckLocally: {
        StateResult result = resource_.CheckRemote(action.transaction);
        // A kernel that is told no sends its operator here for the reason.
        if (!Succeeded(result)) {
          resource_.logger().Info("resource {}: refused what node {} proposes: {}",
                                  resource_.name(), action.transaction.id.initiator,
                                  StateResultText(result));
        }
        Execute(participant_.OnLocalVote(result, RemoteFacts()), false);
        break;
      }
      case Kind::kApply:
        if (own) {
          if (request_ != nullptr && request_->apply) request_->apply(action.commit);
        } else {
          resource_.ApplyRemote(action.commit);
        }
        break;
      case Kind::kUndo:
        if (!own) resource_.UndoRemote();
        break;
      case Kind::kStartTimer:
        reactor_.ArmIn(own ? &own_timer_ : &participant_timer_,
                       std::chrono::milliseconds(action.milliseconds));
        break;
      case Kind::kStopTimer:
        (own ? own_timer_ : participant_timer_).Disarm();
        break;
      case Kind::kStartDeferTimer: {
        auto& timer = defer_timers_[static_cast<size_t>(action.node)];
        if (timer == nullptr) {
          timer = std::make_unique<OneShot>(this, [](Timer* self) noexcept {
            auto* shot = static_cast<OneShot*>(self);
            Transactions* owner = shot->owner;
            owner->Execute(owner->participant_.OnDeferTimeout(shot->node, owner->RemoteFacts()),
                           false);
          });
          timer->node = action.node;
        }
        reactor_.ArmIn(timer.get(), std::chrono::milliseconds(action.milliseconds));
        break;
      }
      case Kind::kStopDeferTimer:
        if (auto& timer = defer_timers_[static_cast<size_t>(action.node)]) timer->Disarm();
        break;
      case Kind::kAbortOwn:
        if (own_active()) Execute(coordinator_->OnAbortRequested(OwnFacts()), true);
        break;
      case Kind::kFinished:
        finished_ = true;
        break;
    }
  }
  event_.NotifyAll();
}

}  // namespace umblock::drbd
