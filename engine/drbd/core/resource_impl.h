// ResourceImpl: the parts of a resource and the one place through which its state changes.
//
// Change() is the transition engine of drbd-states.md 2.1: edit a copy, derive what follows, check,
// commit, publish, and set off what the change entails (after_change.cc). Nothing else writes
// state_. Acts (acts.cc) are tasks on top of it; they are serialised where the rules demand it by
// Transactions. Threading: one reactor.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/drbd/core/connection.h"
#include "engine/drbd/core/handler_calls.h"
#include "engine/drbd/core/peer_acks.h"
#include "engine/drbd/core/transactions.h"
#include "engine/drbd/core/transfer_log.h"
#include "engine/drbd/core/volume.h"
#include "engine/drbd/link/listener_pool.h"
#include "engine/drbd/resource.h"
#include "engine/drbd/state/resource_state.h"

namespace umblock::drbd {

class ResourceImpl {
 public:
  ResourceImpl(Reactor& reactor, ResourceConfig config, ResourceObserver* observer,
               ProcessRunner* programs = nullptr);
  ~ResourceImpl();
  Task<void> Stop();

  Reactor& reactor() { return reactor_; }
  Logger& logger() { return reactor_.logger(); }
  const ResourceConfig& config() const { return config_; }
  const std::string& name() const { return config_.name; }
  int own_node() const { return config_.node_id; }
  ListenerPool& listeners() { return listeners_; }
  TransferLog& log() { return log_; }
  Transactions& transactions() { return transactions_; }
  PeerAcks& peer_acks() { return peer_acks_; }
  HandlerCalls& handlers() { return handlers_; }
  TaskGroup& tasks() { return tasks_; }
  LinkOffer& offer() { return offer_; }

  // --- objects ---
  std::map<int, std::unique_ptr<Volume>>& volumes() { return volumes_; }
  std::map<int, std::unique_ptr<Connection>>& connections() { return connections_; }
  const std::map<int, std::unique_ptr<Connection>>& connections() const { return connections_; }
  Volume* volume(int number);
  Connection* connection(int node);
  const Connection* connection(int node) const;

  // --- state ---
  const ResourceState& state() const { return state_; }
  // For facts and configuration only (resource_state.h): they never appear as a change.
  ResourceState& facts() { return state_; }
  using Edit = std::function<void(ResourceState& next)>;
  StateCheck Change(std::string_view reason, const ChangeOptions& options, const Edit& edit);
  // The same without doing it.
  StateCheck Check(const ChangeOptions& options, const Edit& edit);
  // Notified after every change; for acts that wait for a state.
  WaitQueue& changed() { return changed_; }
  bool suspended() const { return state_.suspended(); }
  bool stable() const;

  // --- what others propose (drbd-states.md 4.3, 4.7) ---
  StateResult CheckRemote(const Transaction& transaction);
  void UndoRemote();
  void ApplyRemote(const TransactionCommit& commit);
  // Takes the stashed result of a connect handshake into the state (4.8).
  void ApplyConnect(int node, Role peer_role);
  void UpdateMembers(NodeMask members) { state_.members = members; }

  // --- writes ---
  // Closes the current epoch; barriers leave at the end of the turn.
  void CloseEpoch();
  // Requests at the front of the transfer log may be done.
  void AdvanceDone();
  void ScheduleProgress();
  void Readmit();
  void OnDagtagAdvanced();
  // This node has all that the Primary `node` wrote up to `dagtag`, or nobody waits for it here.
  bool HasReceived(uint32_t node, uint64_t dagtag) const;
  // drbd-io-path.md B.6: drain if a volume with a disk has disk-flushes off, or a device cannot.
  const char* write_ordering() const { return flush_ordering() ? "flush" : "drain"; }
  bool flush_ordering() const;
  void DegradeToDrain(std::string_view reason);

  // --- generations (drbd-metadata-resync.md 4.3) ---
  void OweNewUuid(Volume& volume);
  void StartOwedUuid(Volume& volume);
  // Before data is compared by its name (a disk attached here or there, a demotion, a connect), the
  // generation that acknowledged writes are owed is made.
  bool GenerationIsDue(Volume& volume);
  Task<void> SettleGeneration(Volume& volume);
  // A new data generation now: durable, then told to the peers.
  Task<Status> MakeNewUuid(Volume& volume, bool forced);

  // The end of a resync of this node: UUIDs durable, then the state (drbd-metadata-resync.md 6.8).
  // False: something came out of sync meanwhile, the resync goes on.
  Task<bool> FinishResyncAsTarget(PeerDevice& device);

  // --- after loss of a peer ---
  void OnConnectionLost(int node, bool ungraceful, bool peer_was_primary);
  void ProbeForPrimaries();

  // --- a peer's packets (handshake.cc, uuids.cc) ---
  SyncDecision DecideConnect(PeerDevice& device, const wire::StateWord& theirs, std::string* why);
  // --- sizes (resize.cc) ---
  // What a peer has said of its sizes, or a disk that has come, may change the size here.
  Task<Status> AgreeOnSize(Volume& volume);
  // How large the volume could be as far as this node is concerned, sectors.
  uint64_t MaxPossibleSectors(int number);
  StateResult CheckResize(const Transaction& transaction);
  // A committed resize: `initiator` if this node proposed it.
  void BeginResize(Volume& volume, const TransactionCommit& commit, bool initiator);
  // A resize is under way here: what peers send next waits.
  bool resizing() const;
  static bool FollowsGenerations(const Volume& of);
  static bool HasGoodData(Volume& of);
  bool HasOtherData(PeerDevice& device, const wire::StateWord& theirs) const;
  bool MeetGeneration(PeerDevice& device, const wire::StateWord& theirs);
  static std::string WhyOtherData(PeerDevice& device);
  bool UsesOtherData(const VolumeState& volume) const;
  void OnUuids(PeerDevice& device);
  void OnCurrentUuid(PeerDevice& device);
  void OnPeerState(PeerDevice& device, const wire::StateWord& theirs);
  void OnBitmapReceived(PeerDevice& device);
  PeerUuids UuidsFor(PeerDevice& device, uint64_t extra_flags, NodeMask weak);
  // After a connect that failed: what would have become a sync target knows that it is old.
  void OutdateWouldBeTargets(Connection& connection);

  ResourceStatus status() const;
  void Publish(const std::vector<StateChange>& changes, std::string_view reason);
  // Something that is no change of state: into the log and to the observer.
  void PublishEvent(StateEvent event);
  uint64_t last_dagtag_of(int node) const;

  // --- acts (acts.cc) ---
  Status AddVolume(const VolumeConfig& config);
  Task<Status> RemoveVolume(int number);
  Task<Status> Attach(AttachRequest request);
  Task<Status> Detach(int number, bool force);
  Status AddPeer(const PeerConfig& config);
  Task<Status> RemovePeer(int node, bool force);
  Task<Status> ForgetPeer(int volume, int node);
  Task<Status> Connect(int node, ConnectOptions options);
  Task<Status> Disconnect(int node, bool force);
  Task<Status> Promote(bool force);
  Task<Status> Demote(bool force);
  Task<Status> Invalidate(int volume, int node, bool remote, bool only_marked);
  Task<Status> SetPause(int volume, int node, bool paused);
  Task<Status> StartVerify(int volume, int node, VerifyRequest request);
  Task<Status> StopVerify(int volume, int node);
  Task<Status> Outdate(int number);
  Task<Status> NewCurrentUuid(int number, bool clear_bitmap, bool force = false);
  Task<Status> SetSuspended(bool suspended);
  Task<Status> Resize(int number, ResizeRequest request);
  // For the end of the program: what a suspension holds back, and what comes, fails with ENODEV.
  void FailHeldIo();
  Status UpdateOptions(const ResourceOptions& options);

  // The states of a connect handshake are sent: what fence-peer finds out is overtaken.
  void NoteContact(int node) { ++contacts_[static_cast<size_t>(node)]; }

  // Detaches a disk that failed (on-io-error, metadata error): Failed, then Diskless. `io_error`:
  // by itself, not because somebody asked for it.
  void FailDisk(Volume& volume, std::string reason, bool io_error);

 private:
  void RefreshFacts();
  void AfterChange(const ResourceState& before, std::string_view reason);
  void AfterPeerDeviceChange(const ResourceState& before, VolumeState& now, int node,
                             std::string_view reason);
  void AnnouncePosition(const VolumeState& old, const VolumeState& now, PeerDevice& device);
  void OnResyncEndedAsSource(PeerDevice& device);
  void DoBitmapAction(PeerDevice& device, const SyncDecision& decision);
  bool RoutesDiffer(const ResourceState& before) const;
  // From WFBitMapT or Behind.
  Task<void> RunStartTarget(PeerDevice* device, uint64_t session, ReplicationState from);
  Task<void> StartTarget(PeerDevice* device, uint64_t session, ReplicationState from);
  Task<void> RunFullSync(PeerDevice* device, uint64_t session, ReplicationState from);
  Task<void> WriteBitmapSoon(Volume* volume);
  uint64_t AgreedSectors(Volume& of) const;
  Task<Status> GrowWithPeers(Volume& of, uint64_t sectors);
  Status MayHaveSize(Volume& of, const ResizeRequest& request) const;
  Status MayResize(Volume& of, const ResizeRequest& request) const;
  Status WhyNotResized(const Volume& of, const ResizeRequest& request, StateResult result) const;
  Task<void> RunResize(Volume* of, TransactionCommit commit, bool initiator);
  Task<void> SyncNewBlocks(PeerDevice& device, const TransactionCommit& commit, bool initiator);
  void StartOwedSync(PeerDevice& device);
  Task<void> RunOwedSync(PeerDevice* device, uint64_t session);
  Task<void> StoreAndTell(Volume* volume);
  Task<void> FinishSkip(Volume* volume, bool initiator);
  Task<void> DrainWrites();
  Task<StateCheck> TryDemote(const ChangeOptions& options, const Edit& edit);
  bool AdoptSkip(PeerDevice& device);
  void ReceiveGeneration(PeerDevice& device, uint64_t current, NodeMask weak);
  SyncInput InputFor(PeerDevice& device, const wire::StateWord& theirs);
  bool MustCompare(PeerDevice& device, const wire::StateWord& theirs);
  void DecideConnected(PeerDevice& device, const wire::StateWord& theirs, bool attach);
  void NegotiateAttach(PeerDevice& device, const wire::StateWord& theirs);
  Task<void> AnswerAttach(PeerDevice* device, wire::StateWord theirs, uint64_t session);
  Task<void> StopTarget(PeerDevice* device);
  void AfterVerifyChange(PeerDevice& device, ReplicationState was, ReplicationState is);
  Task<void> StopVerifySource(PeerDevice* device);
  Result<std::pair<uint64_t, uint64_t>> VerifyRange(PeerDevice& device,
                                                    const VerifyRequest& request) const;
  Status MayVerify(PeerDevice& device) const;
  void ForgetDifferences(PeerDevice& device);
  void MarkInFlightOutOfSync(PeerDevice& device);
  void TellInFlightOutOfSync(PeerDevice& device);
  void SendPeersInSync(PeerDevice& device, NodeMask mask);
  uint64_t NewUuid();
  // What a proposal of another node means here.
  struct RemoteEdit {
    Edit edit;
    ChangeOptions options;
    std::string_view reason;
    bool refused = false;
  };
  RemoteEdit EditFor(const Transaction& transaction);
  Task<void> RunDiskFailure(Volume* volume, std::string reason, bool call_handler);
  // Handlers (handler_events.cc).
  void CallHandlersFor(const ResourceState& before);
  void CallHandlersFor(PeerDevice& device, const SyncDecision& decision);
  Task<bool> MayBeginResync(PeerDevice* device, uint64_t session, ReplicationState from);
  Task<void> RunStartSource(PeerDevice* device, uint64_t session);
  void BeginAsSource(PeerDevice& device);
  // Fencing (fencing.cc).
  DiskState BestOwnDisk() const;
  DiskState BestPeerDisk(int node) const;
  bool FencingWanted(int node) const;
  Task<void> RunFencing(int node);
  Task<bool> FencePeer(int node);
  void ApplyFencing(int node, int code);
  Task<bool> FenceUnknownPeers();
  bool ConsistentIsBest() const;
  bool MayResend(PeerDevice& device, const wire::StateWord& theirs) const;
  bool HoldsWrites() const;
  void SettleHeldWrites(const ResourceState& before);
  Task<Status> ReleaseHeldWrites(int node);
  Task<void> RunProbe();
  Task<void> RunOwedUuid(Volume* volume);
  Task<void> RunSuspendedUuids();
  Task<Status> FinishAttach(Volume& volume);
  std::vector<int> TakeLocalData(ResourceState& next) const;
  void TakePeersForOutdated(ResourceState& next) const;
  Task<Status> BeginForcedGenerations(std::vector<int> taken);
  Task<Status> ForceLocalData();
  Task<Status> AwaitMarkedSync(Volume& of, int node, uint64_t session);
  Task<Status> AwaitFullSync(Volume& volume, int node, bool remote);
  void ForceDown(int node);
  Status MayBeginGeneration(const Volume& of, bool force) const;
  Status MayForget(const Volume& of, int node) const;
  Status HeldBack(const Volume& of, std::string_view act) const;
  Task<bool> PingAll();
  Task<void> WaitSettled(Duration timeout);
  Task<Status> StoreAll();
  Status Refused(std::string_view act, const StateRefusal& refusal) const;
  Status Refused(std::string_view act, StateResult result) const;
  Status NotFoundVolume(int number) const;
  Status NotFoundPeer(int node) const;
  std::string DescribeAllOpeners() const;

  Reactor& reactor_;
  ResourceConfig config_;
  ResourceObserver* observer_;
  ResourceState state_;
  LinkOffer offer_;
  ListenerPool listeners_;
  std::map<int, std::unique_ptr<Volume>> volumes_;
  std::map<int, std::unique_ptr<Connection>> connections_;
  TransferLog log_;
  PeerAcks peer_acks_;
  Transactions transactions_;
  HandlerCalls handlers_;
  WaitQueue changed_;
  TaskGroup tasks_;
  AsyncMutex acts_;
  bool flush_ordering_ = true;
  NodeMask fencing_ = 0;  // peers for which fence-peer runs
  std::array<uint64_t, kNodeIds> contacts_{};
  bool probing_ = false;
  bool stopping_ = false;
  bool progress_scheduled_ = false;
  bool advancing_ = false;

  struct TurnEnd : umblock::Completion {
    ResourceImpl* resource;
    explicit TurnEnd(ResourceImpl* r);
  } turn_end_;
};

}  // namespace umblock::drbd
