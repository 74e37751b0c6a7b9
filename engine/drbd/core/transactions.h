// Transactions: cluster-wide state changes of one resource (drbd-states.md part D). Drives the two
// pure machines — coordinator for what this node starts, participant for what others start — with
// packets, timers and the resource's state.
//
// At most one own transaction at a time; it waits for a remote one that is under way, and yields to
// a remote one of a lower node id. Threading: one reactor.
#pragma once

#include <array>
#include <functional>
#include <memory>

#include "engine/drbd/state/two_phase_coordinator.h"
#include "engine/drbd/state/two_phase_participant.h"
#include "engine/drbd/wire/twopc_packets.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd {

class Connection;
class ResourceImpl;

class Transactions {
 public:
  explicit Transactions(ResourceImpl& resource);
  ~Transactions();
  Task<void> Stop();

  struct Request {
    Proposal proposal;
    // Makes the change here, at the moment that 4.2 step 14 says; `commit` has the collected masks.
    std::function<void(const TransactionCommit& commit)> apply;
    // Checks the change here before each attempt.
    std::function<StateCheck()> check;
    // Repeat after -19 and -23 with a pause (not for promote, demote and connect, whose own loops
    // do that).
    bool retry = true;
    // A resize of proposal.volume instead of a change of state; sectors.
    bool resize = false;
    uint64_t user_size = 0;
    uint16_t dds_flags = 0;
    uint64_t least_size = 0;  // refused (kHandshakeDisconnect) if a node has not this much room
  };
  Task<StateResult> Run(Request request);
  int refused_by() const { return refused_by_; }
  // Of the last resize: what all nodes could hold, sectors.
  uint64_t max_possible_size() const { return max_possible_size_; }

  // Packets.
  void OnPrepare(Connection& from, int volume, const wire::TwoPcRequest& request, bool resize);
  void OnCommit(Connection& from, int volume, const wire::TwoPcRequest& request);
  void OnAbort(Connection& from, int volume, const wire::TwoPcRequest& request);
  void OnReply(Connection& from, Vote vote, const wire::TwoPcReply& reply);
  // A connect handshake got further.
  void OnHandshake();
  void OnConnectionLost(int node);

  // A remote transaction is between PREPARE and its end: no role change, no open that changes the
  // open state (13.4).
  bool remote_active() const { return participant_.active(); }
  bool own_active() const { return coordinator_ != nullptr && coordinator_->active(); }
  // Waits until neither is under way.
  Task<bool> WaitIdle(Duration timeout);

 private:
  struct OneShot : Timer {
    Transactions* owner;
    int node = -1;
    OneShot(Transactions* o, Timer::Fn fn) : Timer(fn), owner(o) {}
  };

  void Execute(const TransactionActions& actions, bool own);
  void Send(const TransactionAction& action);
  CoordinatorFacts OwnFacts() const;
  ParticipantFacts RemoteFacts() const;
  TransactionTiming timing() const;
  NodeMask direct() const;

  ResourceImpl& resource_;
  Reactor& reactor_;
  AsyncMutex own_lock_;
  WaitQueue event_;
  std::unique_ptr<TwoPhaseCoordinator> coordinator_;
  TwoPhaseParticipant participant_;
  const Request* request_ = nullptr;  // of the attempt that runs
  int refused_by_ = kNoNode;
  uint64_t max_possible_size_ = 0;
  int resize_volume_ = kNoVolume;  // the last PREP_RSZ of another node was about this one
  bool finished_ = false;
  bool stopping_ = false;
  CancelSource cancel_;
  OneShot own_timer_;
  OneShot participant_timer_;
  std::array<std::unique_ptr<OneShot>, kNodeIds> defer_timers_;
};

}  // namespace umblock::drbd
