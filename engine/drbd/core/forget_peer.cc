// The end of a peer's place in the metadata of a volume (drbd-metadata-resync.md 8.4).
#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {

Status ResourceImpl::MayForget(const Volume& of, int node) const {
  if (!IsNodeId(node) || node == own_node()) {
    return MakeError(ErrorCode::kInvalidArgument, "resource {}: {} is not the node id of a peer",
                     name(), node);
  }
  if (connections_.contains(node)) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{}: node {} is a peer of this resource; delete the connection to it first",
                     of.name(), node);
  }
  if (of.disk() == nullptr || of.state().disk < DiskState::kInconsistent) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{} has no disk; attach it first: it is its metadata that remembers node {}",
                     of.name(), node);
  }
  if (!of.disk()->Remembers(node)) {
    return MakeError(ErrorCode::kNotFound, "the metadata of {} remembers no node {}", of.name(),
                     node);
  }
  return Ok();
}

Task<Status> ResourceImpl::ForgetPeer(int number, int node) {
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  Volume* of = volume(number);
  if (of == nullptr) co_return NotFoundVolume(number);
  UMBLOCK_CO_TRY(MayForget(*of, node));
  // Its disk may have the very generation that is in use. As long as it has a slot the next write
  // of a Primary begins another one; afterwards nothing would tell what it misses.
  if (state_.role == Role::kPrimary && HasGoodData(*of)) {
    UMBLOCK_CO_TRY(co_await MakeNewUuid(*of, false));
    UMBLOCK_CO_TRY(MayForget(*of, node));
  }
  of->CountLower(1);
  Status forgotten = co_await of->disk()->ForgetPeer(node);
  of->CountLower(-1);
  UMBLOCK_CO_TRY(forgotten);
  logger().Info("{}: node {} is forgotten; if it comes back it is synchronised in full", of->name(),
                node);
  (void)Change("a former peer is forgotten", {.hard = true}, [](ResourceState&) {});
  co_return Ok();
}

}  // namespace umblock::drbd
