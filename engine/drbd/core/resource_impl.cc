#include "engine/drbd/core/resource_impl.h"

#include <algorithm>

#include "engine/drbd/state/disk_state.h"
#include "engine/drbd/state/membership.h"
#include "engine/drbd/state/write_routing.h"

namespace umblock::drbd {

ResourceImpl::TurnEnd::TurnEnd(ResourceImpl* r)
    : umblock::Completion([](umblock::Completion* self, int32_t) noexcept {
        ResourceImpl* of = static_cast<TurnEnd*>(self)->resource;
        of->progress_scheduled_ = false;
        of->AdvanceDone();
        for (auto& [node, connection] : of->connections_) connection->SendBarrierIfDue();
      }),
      resource(r) {}

ResourceImpl::ResourceImpl(Reactor& reactor, ResourceConfig config, ResourceObserver* observer,
                           ProcessRunner* programs)
    : reactor_(reactor),
      config_(std::move(config)),
      observer_(observer),
      listeners_(reactor),
      peer_acks_(*this),
      transactions_(*this),
      handlers_(*this, programs, config_.handlers),
      changed_(reactor),
      tasks_(reactor),
      acts_(reactor),
      turn_end_(this) {
  state_.own_node = config_.node_id;
  state_.members = NodeBit(config_.node_id);
}

ResourceImpl::~ResourceImpl() {
  UMBLOCK_ASSERT(connections_.empty() && volumes_.empty(), "a resource is stopped before it goes");
}

Task<void> ResourceImpl::Stop() {
  stopping_ = true;
  handlers_.Stop();
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  co_await transactions_.Stop();
  for (auto& [node, connection] : connections_) co_await connection->Stop();
  tasks_.Cancel();
  co_await tasks_.Join();
  bool primary = state_.role == Role::kPrimary;
  FailHeldIo();
  for (auto& [number, volume] : volumes_) {
    co_await volume->Shut();
    AdvanceDone();
    if (volume->disk() != nullptr) {
      co_await volume->disk()->WriteBitmap();
      if (!primary) volume->disk()->superblock().Set(meta::kMdPrimaryInd, false);
      co_await volume->CloseDisk(!primary);
    }
  }
  co_await tasks_.Join();  // a disk may have failed on its last writes
  for (auto& [number, volume] : volumes_) {
    for (auto& [node, device] : volume->peers()) co_await device->tasks.Join();
    volume->peers().clear();
  }
  connections_.clear();
  volumes_.clear();
  co_await listeners_.Stop();
}

Volume* ResourceImpl::volume(int number) {
  auto it = volumes_.find(number);
  return it == volumes_.end() ? nullptr : it->second.get();
}

Connection* ResourceImpl::connection(int node) {
  auto it = connections_.find(node);
  return it == connections_.end() ? nullptr : it->second.get();
}

const Connection* ResourceImpl::connection(int node) const {
  auto it = connections_.find(node);
  return it == connections_.end() ? nullptr : it->second.get();
}

bool ResourceImpl::stable() const {
  return state_.role == Role::kPrimary || state_.connected_primaries() == 0;
}

// --- the transition engine
// -------------------------------------------------------------------------

// Facts that the rules look at, as they are now (resource_state.h).
void ResourceImpl::RefreshFacts() {
  for (auto& [node, connection] : connections_) {
    PeerState& peer = state_.peer(node);
    peer.configured = true;
    peer.allow_two_primaries = connection->config().net.allow_two_primaries;
    peer.fencing = connection->config().net.fencing;
    peer.has_verify_alg = !connection->config().net.verify_alg.empty();
    peer.agreed_version = connection->agreed_protocol();
  }
  for (VolumeState& now : state_.volumes) {
    Volume* of = volume(now.number);
    if (of == nullptr) continue;
    const Disk* disk = of->disk();
    if (disk != nullptr) {
      const meta::Superblock& sb = disk->superblock();
      for (int node = 0; node < kNodeIds; ++node) {
        const meta::PeerEntry& entry = sb.peers[static_cast<size_t>(node)];
        QuorumSlot& slot = now.slots[static_cast<size_t>(node)];
        slot.have_bitmap = entry.bitmap_index >= 0;
        slot.node_exists = (entry.flags & meta::kPeerNodeExists) != 0;
        slot.device_seen = (entry.flags & meta::kPeerDeviceSeen) != 0;
        slot.outdated = (entry.flags & meta::kPeerOutdated) != 0;
        slot.fencing = connections_.contains(node)
                           ? state_.peer(node).fencing != FencingPolicy::kDontCare
                           : (entry.flags & meta::kPeerFencing) != 0;
      }
      now.may_be_up_to_date = MayBeUpToDate(now);
      now.disk_from_metadata = DiskStateFromMetadata(
          sb.Has(meta::kMdConsistent), sb.Has(meta::kMdWasUpToDate), now.may_be_up_to_date);
    }
    for (auto& [node, device] : of->peers()) {
      PeerDeviceState& peer = now.peer(node);
      peer.uuids_known = device->uuids_known;
      peer.peer_stable = device->uuids_known && device->uuids.Has(wire::kUuidFlagStable);
      peer.out_of_sync = device->out_of_sync_bits();
      peer.current_uuid_equal = disk != nullptr && device->uuids_known &&
                                SameUuid(disk->uuids().current(), device->uuids.current);
      peer.handshake_running =
          device->connection().handshake().begun() && peer.repl < ReplicationState::kEstablished;
    }
  }
}

StateCheck ResourceImpl::Check(const ChangeOptions& options, const Edit& edit) {
  RefreshFacts();
  ResourceState next = state_;
  edit(next);
  Sanitize(state_, next, options);
  return CheckTransition(state_, next, options);
}

StateCheck ResourceImpl::Change(std::string_view reason, const ChangeOptions& options,
                                const Edit& edit) {
  RefreshFacts();
  ResourceState next = state_;
  edit(next);
  SanitizeNotes notes = Sanitize(state_, next, options);
  StateCheck check = CheckTransition(state_, next, options);
  if (!check) return check;
  ResourceState before = std::move(state_);
  state_ = std::move(next);
  std::vector<StateChange> changes = Diff(before, state_);
  if (!changes.empty()) Publish(changes, reason);
  AfterChange(before, reason);
  if (notes.run_empty_transaction) ProbeForPrimaries();
  changed_.NotifyAll();
  return {};
}

void ResourceImpl::Publish(const std::vector<StateChange>& changes, std::string_view reason) {
  std::vector<StateEvent> events;
  events.reserve(changes.size());
  for (const StateChange& change : changes) {
    StateEvent event;
    switch (change.object) {
      case StateChange::Object::kResource:
        event.object = fmt::format("resource {}", name());
        break;
      case StateChange::Object::kConnection:
        event.object = fmt::format("connection {}/{}", name(), change.node);
        break;
      case StateChange::Object::kDevice:
        event.object = fmt::format("volume {}/{}", name(), change.volume);
        break;
      case StateChange::Object::kPeerDevice:
        event.object = fmt::format("peer-volume {}/{}/{}", name(), change.node, change.volume);
        break;
    }
    event.attribute = change.attribute;
    event.old_value = change.from;
    event.new_value = change.to;
    event.reason = reason;
    logger().Info("{}: {} {} -> {} reason=\"{}\"", event.object, event.attribute, event.old_value,
                  event.new_value, event.reason);
    if (change.object == StateChange::Object::kDevice && change.attribute == "disk") {
      if (Volume* of = volume(change.volume)) of->disk_reason = event.reason;
    }
    events.push_back(std::move(event));
  }
  if (observer_ != nullptr) observer_->OnStateChange(events);
}

void ResourceImpl::PublishEvent(StateEvent event) {
  logger().Info("{}: {} {} -> {} reason=\"{}\"", event.object, event.attribute, event.old_value,
                event.new_value, event.reason);
  if (observer_ != nullptr) observer_->OnStateChange({std::move(event)});
}

// --- writes
// ----------------------------------------------------------------------------------------

void ResourceImpl::CloseEpoch() {
  if (log_.CloseEpoch()) ScheduleProgress();
}

void ResourceImpl::ScheduleProgress() {
  if (progress_scheduled_) return;
  progress_scheduled_ = true;
  reactor_.PostAtTurnEnd(&turn_end_);
}

void ResourceImpl::AdvanceDone() {
  if (advancing_) return;
  advancing_ = true;
  bool any = false;
  while (Request* request = log_.PopDone()) {
    request->volume->Retire(request);
    any = true;
  }
  advancing_ = false;
  if (!any && !log_.empty()) return;
  for (auto& [number, of] : volumes_) of->CheckFlushes();
  changed_.NotifyAll();
}

void ResourceImpl::Readmit() {
  for (auto& [number, of] : volumes_) of->Readmit();
}

void ResourceImpl::OnDagtagAdvanced() {
  for (auto& [number, of] : volumes_) {
    for (auto& [node, device] : of->peers()) {
      device->source.OnDagtagAdvanced();
      device->verify_source.OnDagtagAdvanced();
      device->verify_target.OnDagtagAdvanced();
    }
  }
}

bool ResourceImpl::HasReceived(uint32_t node, uint64_t dagtag) const {
  if (dagtag == 0 || static_cast<int>(node) == own_node()) return true;
  auto it = connections_.find(static_cast<int>(node));
  if (it == connections_.end() || !it->second->up()) return true;
  return it->second->writes().last_dagtag() >= dagtag;
}

bool ResourceImpl::flush_ordering() const {
  if (!flush_ordering_) return false;
  return std::ranges::all_of(volumes_, [](const auto& each) {
    return each.second->disk() == nullptr || each.second->config().disk.disk_flushes;
  });
}

void ResourceImpl::DegradeToDrain(std::string_view reason) {
  if (!flush_ordering_) return;
  flush_ordering_ = false;
  logger().Error("resource {}: write ordering flush -> drain: {}", name(), reason);
}

// --- after the loss of a peer
// ----------------------------------------------------------------------

void ResourceImpl::OnConnectionLost(int node, bool ungraceful, bool peer_was_primary) {
  if (FencingWanted(node) && !stopping_) tasks_.Spawn(RunFencing(node));
  if (state_.role == Role::kPrimary) {
    for (auto& [number, of] : volumes_) {
      if (of->disk() != nullptr) tasks_.Spawn(WriteBitmapSoon(of.get()));
    }
  }
  if (ungraceful && peer_was_primary) ProbeForPrimaries();
  Readmit();
  changed_.NotifyAll();
}

Task<void> ResourceImpl::WriteBitmapSoon(Volume* of) {
  uint64_t generation = of->disk_generation();
  co_await reactor_.Yield();
  if (of->disk() != nullptr && of->disk_generation() == generation) {
    of->CountLower(1);
    co_await of->disk()->WriteBitmap();
    of->CountLower(-1);
  }
}

// The empty transaction (drbd-states.md 4.9): is there a Primary that this node cannot see?
void ResourceImpl::ProbeForPrimaries() {
  if (probing_ || stopping_) return;
  probing_ = true;
  tasks_.Spawn(RunProbe());
}

// A Primary without a disk works on a generation that is not here.
bool ResourceImpl::UsesOtherData(const VolumeState& volume) const {
  for (int node : Nodes(state_.connected())) {
    const PeerDeviceState& peer = volume.peer(node);
    if (state_.peer(node).role == Role::kPrimary && peer.disk == DiskState::kDiskless &&
        !peer.current_uuid_equal) {
      return true;
    }
  }
  return false;
}

Task<void> ResourceImpl::RunProbe() {
  co_await reactor_.Yield();
  bool outdate = false;
  StateResult result = co_await transactions_.Run(
      {.proposal = ProposeEmpty(),
       .apply =
           [this, &outdate](const TransactionCommit& commit) {
             outdate = MustOutdateAtCommit(own_node(), commit.primary_nodes, state_.connected(),
                                           commit.primaries_incapable);
           },
       .check = nullptr,
       .retry = true});
  probing_ = false;
  if (!Succeeded(result) || stopping_) co_return;
  for (auto& [number, of] : volumes_) {
    if (state_.Volume(number)->disk != DiskState::kConsistent &&
        !(outdate && state_.Volume(number)->disk > DiskState::kOutdated)) {
      continue;
    }
    if (!outdate && UsesOtherData(*state_.Volume(number))) continue;
    int which = number;
    DiskState to = outdate ? DiskState::kOutdated : DiskState::kUpToDate;
    (void)Change(
        outdate ? "a Primary exists that is not connected to this node" : "no Primary is left",
        {.hard = true}, [which, to](ResourceState& next) { next.Volume(which)->disk = to; });
  }
}

uint64_t ResourceImpl::last_dagtag_of(int node) const {
  auto it = connections_.find(node);
  return it == connections_.end() ? 0 : it->second->writes().last_dagtag();
}

Status ResourceImpl::UpdateOptions(const ResourceOptions& options) {
  config_.options = options;
  Readmit();
  return Ok();
}

}  // namespace umblock::drbd
