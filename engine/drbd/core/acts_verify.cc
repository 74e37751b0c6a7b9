// Online verify: begin and stop it (drbd-states.md P5 to P10, drbd-metadata-resync.md 6.10.3).
#include <algorithm>

#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {

// What the state rules would refuse too, said so that one knows what to do; and what they would
// let pass: a verify of data that is not current says nothing.
Status ResourceImpl::MayVerify(PeerDevice& device) const {
  Connection& link = device.connection();
  const Volume& of = device.volume();
  if (!link.state().connected()) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{} is {}: a verify compares with a connected peer; connect it first",
                     link.name(), ConnectionStateName(link.state().connection));
  }
  if (link.config().net.verify_alg.empty()) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{} has no verify_alg: set one, the same on both nodes", link.name());
  }
  if (device.state().repl != ReplicationState::kEstablished || device.verify_source.running()) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{} is {}: a verify begins where nothing else runs; wait until it is "
                     "Established",
                     device.name(), ReplicationStateName(device.state().repl));
  }
  if (of.state().disk != DiskState::kUpToDate) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{} is {} here: a verify compares two disks that are UpToDate", of.name(),
                     DiskStateName(of.state().disk));
  }
  if (device.state().disk != DiskState::kUpToDate) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{}: the peer's disk is {}: a verify compares two disks that are UpToDate",
                     device.name(), DiskStateName(device.state().disk));
  }
  // Writes of a third node reach the two at different moments, and nothing would say which.
  NodeMask others = state_.connected_primaries() & ~NodeBit(device.node());
  if (others != 0 && (link.agreed_features() & wire::kFeatureResyncDagtag) == 0) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{}: the peer cannot say which writes it has (RESYNC_DAGTAG), and another "
                     "node is Primary; demote it, or verify from there",
                     device.name());
  }
  return Ok();
}

// In sectors, whole blocks.
Result<std::pair<uint64_t, uint64_t>> ResourceImpl::VerifyRange(
    PeerDevice& device, const VerifyRequest& request) const {
  constexpr uint64_t kBlock = VerifySource::kBlockSectors * 512;
  uint64_t size = device.volume().size_sectors() * 512;
  uint64_t start = request.start.value_or(device.verify_source.resume_sector() * 512);
  if (!request.start && start >= std::min(size, request.stop.value_or(size))) start = 0;
  uint64_t stop = request.stop.value_or(size);
  if (start >= size || stop > size || start >= stop) {
    return MakeError(ErrorCode::kInvalidArgument, "{}: bytes {} to {} are no part of its {} bytes",
                     device.volume().name(), start, stop, size);
  }
  stop = std::min((stop + kBlock - 1) / kBlock * kBlock, size);
  return std::pair(start / kBlock * kBlock / 512, stop / 512);
}

Task<Status> ResourceImpl::StartVerify(int number, int node, VerifyRequest request) {
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  Volume* of = volume(number);
  if (of == nullptr) co_return NotFoundVolume(number);
  if (connection(node) == nullptr) co_return NotFoundPeer(node);
  PeerDevice& device = *of->peer(node);
  UMBLOCK_CO_TRY(MayVerify(device));
  auto range = VerifyRange(device, request);
  if (!range) co_return std::unexpected(range.error());
  device.verify_source.Prepare(range->first, range->second);
  Edit edit = [=](ResourceState& next) {
    next.Volume(number)->peer(node).repl = ReplicationState::kVerifyS;
  };
  StateRefusal refusal;
  StateResult result = co_await transactions_.Run(
      {.proposal = ProposeVerify(node, number),
       .apply = [&](const TransactionCommit&) { (void)Change("verify was asked for", {}, edit); },
       .check =
           [&] {
             StateCheck check = Check({}, edit);
             if (device.verify_source.running()) {
               StateRefusal running;
               running.code = StateResult::kResyncRunning;
               check = std::unexpected(running);
             }
             if (!check) refusal = check.error();
             return check;
           },
       .retry = true});
  if (Succeeded(result)) co_return Ok();
  if (refusal.code == result) co_return Refused("verify data of", refusal);
  co_return Refused("verify data of", result);
}

Task<Status> ResourceImpl::StopVerify(int number, int node) {
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  Volume* of = volume(number);
  if (of == nullptr) co_return NotFoundVolume(number);
  Connection* link = connection(node);
  if (link == nullptr) co_return NotFoundPeer(node);
  PeerDevice& device = *of->peer(node);
  if (device.state().repl == ReplicationState::kVerifyT) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "{}: the peer started this verify; stop it there", device.name());
  }
  if (device.state().repl != ReplicationState::kVerifyS) co_return Ok();
  device.verify_source.RequestStop();
  Time until = reactor_.Now() + link->config().net.timeout;
  while (device.state().repl == ReplicationState::kVerifyS && reactor_.Now() < until) {
    co_await changed_.WaitFor(until - reactor_.Now());
  }
  if (device.state().repl != ReplicationState::kVerifyS) co_return Ok();
  co_return MakeError(ErrorCode::kDeadlineExceeded,
                      "{}: nothing more is asked for, but the peer owes answers; it ends when they "
                      "are there",
                      device.name());
}

}  // namespace umblock::drbd
