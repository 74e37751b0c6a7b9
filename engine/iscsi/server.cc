#include "engine/iscsi/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "engine/iscsi/text.h"

namespace umblock::iscsi {
namespace {

std::string JoinNames(const std::vector<Session*>& sessions) {
  std::string text;
  for (const Session* session : sessions) {
    if (!text.empty()) text += ", ";
    text += session->setup().initiator;
  }
  return text;
}

std::string_view ReservationName(scsi::ReservationType type) {
  switch (type) {
    case scsi::ReservationType::kNone:
      return "none";
    case scsi::ReservationType::kWriteExclusive:
      return "write-exclusive";
    case scsi::ReservationType::kExclusiveAccess:
      return "exclusive-access";
    case scsi::ReservationType::kWriteExclusiveRegistrantsOnly:
      return "write-exclusive-registrants-only";
    case scsi::ReservationType::kExclusiveAccessRegistrantsOnly:
      return "exclusive-access-registrants-only";
    case scsi::ReservationType::kWriteExclusiveAllRegistrants:
      return "write-exclusive-all-registrants";
    default:
      return "exclusive-access-all-registrants";
  }
}

bool IsWildcard(const SocketAddress& address) {
  std::string text = address.ToString();
  return text.starts_with("0.0.0.0:") || text.starts_with("[::]:");
}

}  // namespace

IscsiTargetServer::IscsiTargetServer(Reactor& reactor, ServerOptions options)
    : reactor_(reactor), options_(std::move(options)), tasks_(reactor) {}

IscsiTargetServer::~IscsiTargetServer() {
  UMBLOCK_ASSERT(sessions_.empty() && targets_.empty() && portals_.empty(),
                 "a server is stopped before it goes");
}

// ---- portals

Result<SocketAddress> IscsiTargetServer::AddPortal(const SocketAddress& address) {
  for (const auto& portal : portals_) {
    if (portal->listener->local_address() == address && !portal->removing) return address;
  }
  if (stopping_) return MakeError(ErrorCode::kUnavailable, "the iSCSI target is stopping");
  if (portals_.size() >= options_.max_portals) {
    return MakeError(ErrorCode::kResourceExhausted, "there are {} portals already, the limit",
                     portals_.size());
  }
  auto listener = reactor_.Listen({.local = address, .options = {.keepalive = true}});
  if (!listener) {
    return std::unexpected(
        listener.error().Within(fmt::format("iSCSI portal {}", address.ToString())));
  }
  Portal* portal =
      portals_.emplace_back(std::make_unique<Portal>(reactor_, std::move(*listener))).get();
  portal->tasks.Spawn(AcceptLoop(portal));
  reactor_.logger().Info("iscsi portal {}: listening",
                         portal->listener->local_address().ToString());
  return portal->listener->local_address();
}

Task<Status> IscsiTargetServer::RemovePortal(SocketAddress address) {
  Portal* portal = nullptr;
  for (const auto& candidate : portals_) {
    if (candidate->listener->local_address() == address) portal = candidate.get();
  }
  if (portal == nullptr || portal->removing) {
    co_return MakeError(ErrorCode::kNotFound, "no iSCSI portal listens on {}", address.ToString());
  }
  portal->removing = true;
  portal->tasks.Cancel();
  co_await portal->tasks.Join();
  co_await portal->listener->Close();
  std::erase_if(portals_, [portal](const auto& entry) { return entry.get() == portal; });
  co_return Ok();
}

Task<void> IscsiTargetServer::AcceptLoop(Portal* portal) {
  while (!portal->tasks.cancelled()) {
    auto stream = co_await portal->listener->Accept(portal->tasks.token());
    if (!stream) {
      if (stream.error().code() == ErrorCode::kCancelled) break;
      // Out of descriptors, for example: it passes, or it does not, but it must not spin.
      reactor_.logger().Warn("iscsi portal {}: {}", portal->listener->local_address().ToString(),
                             stream.error().message());
      co_await Sleep(reactor_, 100ms, portal->tasks.token());
      continue;
    }
    bool room = logins_in_progress_ < options_.max_logins && !stopping_;
    if (room) {
      tasks_.Spawn(Serve(std::move(*stream)));
    } else {
      co_await (*stream)->Close();
    }
  }
}

// ---- targets and LUNs

IscsiTargetServer::Target* IscsiTargetServer::FindTarget(std::string_view name) {
  auto at = targets_.find(NormalizeName(name));
  return at == targets_.end() ? nullptr : at->second.get();
}

Status IscsiTargetServer::CheckOptions(std::string_view name, const TargetOptions& options) const {
  if (!ValidName(name)) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "'{}' is no iSCSI name; use iqn.YYYY-MM.reversed.domain:name", name);
  }
  for (const std::string& initiator : options.initiators) {
    if (!ValidName(initiator)) {
      return MakeError(ErrorCode::kInvalidArgument,
                       "target {}: '{}' is no iSCSI name of an initiator", name, initiator);
    }
  }
  if (!options.chap) return Ok();
  const ChapCredentials& chap = *options.chap;
  if (chap.user.empty() || chap.secret.size() < 12 || chap.secret.size() > 255) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "target {}: CHAP needs a user and a secret of 12 to 255 bytes", name);
  }
  if (!chap.mutual_user.empty() && chap.mutual_secret == chap.secret) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "target {}: the mutual CHAP secret must differ from the initiator's", name);
  }
  return Ok();
}

Status IscsiTargetServer::CreateTarget(std::string_view name, TargetOptions options) {
  UMBLOCK_TRY(CheckOptions(name, options));
  if (stopping_) return MakeError(ErrorCode::kUnavailable, "the iSCSI target is stopping");
  std::string key = NormalizeName(name);
  if (Target* existing = FindTarget(key)) {
    if (!existing->removing && existing->options == options) return Ok();
    return MakeError(ErrorCode::kAlreadyExists, "target {} exists, with other options", key);
  }
  if (targets_.size() >= options_.max_targets) {
    return MakeError(ErrorCode::kResourceExhausted, "there are {} targets already, the limit",
                     targets_.size());
  }
  auto target = std::make_unique<Target>(key);
  target->options = std::move(options);
  targets_.emplace(key, std::move(target));
  return Ok();
}

Status IscsiTargetServer::UpdateTarget(std::string_view name, TargetOptions options) {
  UMBLOCK_TRY(CheckOptions(name, options));
  Target* target = FindTarget(name);
  if (target == nullptr || target->removing) {
    return MakeError(ErrorCode::kNotFound, "no target {}", name);
  }
  // Who proved less than the new rules ask for has to log in anew; a login that has begun is
  // measured by them when it ends (LoginExchange::Recheck).
  const bool all =
      options.chap && (!target->options.chap || options.chap->user != target->options.chap->user ||
                       options.chap->secret != target->options.chap->secret);
  target->options = std::move(options);
  std::set<uint64_t> ending;
  for (Session* session : SessionsOf(target->name)) {
    if (all || !Allowed(*target, session->setup().initiator)) ending.insert(session->setup().id);
  }
  if (!ending.empty()) {
    tasks_.Spawn(EndSessions(
        [ending = std::move(ending)](const Session& s) { return ending.contains(s.setup().id); },
        "the access rules of the target have changed"));
  }
  return Ok();
}

Task<Status> IscsiTargetServer::DeleteTarget(std::string name, bool force) {
  Target* target = FindTarget(name);
  if (target == nullptr) co_return MakeError(ErrorCode::kNotFound, "no target {}", name);
  if (target->removing) co_return MakeError(ErrorCode::kAborted, "{} is being deleted", name);
  std::vector<Session*> sessions = SessionsOf(target->name);
  if (!sessions.empty() && !force) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "target {} has sessions from {}; log them out, or use force", name,
                        JoinNames(sessions));
  }
  target->removing = true;
  co_await EndSessions([target](const Session& s) { return s.setup().target == target->name; },
                       "the target is deleted");
  while (!target->luns.empty()) {
    uint32_t lun = target->luns.begin()->first;
    if (target->luns.begin()->second.removing) {
      co_await Sleep(reactor_, 1ms);  // another call is at it
    } else {
      co_await RemoveUnit(target, lun);
    }
  }
  targets_.erase(target->name);
  co_return Ok();
}

Status IscsiTargetServer::AddLun(std::string_view target_name, uint32_t lun, BlockDevice* device,
                                 LunOptions options) {
  Target* target = FindTarget(target_name);
  if (target == nullptr || target->removing) {
    return MakeError(ErrorCode::kNotFound, "no target {}", target_name);
  }
  for (const auto& [name, other] : targets_) {
    for (const auto& [number, entry] : other->luns) {
      if (entry.device != device) continue;
      bool same = other.get() == target && number == lun && entry.options == options;
      if (same && !entry.removing) return Ok();
      return MakeError(ErrorCode::kFailedPrecondition,
                       "{} is LUN {} of target {} already; reservations cannot span two LUNs",
                       device->name(), number, name);
    }
  }
  if (target->luns.contains(lun)) {
    return MakeError(ErrorCode::kAlreadyExists, "target {} has a LUN {} already", target_name, lun);
  }
  if (&device->reactor() != &reactor_) {
    return MakeError(ErrorCode::kInternal, "{} lives on another reactor and needs a proxy",
                     device->name());
  }
  scsi::UnitOptions unit{.lun = lun,
                         .block_size = options.block_size,
                         .serial = options.serial,
                         .product = options.product,
                         .target_name = target->name,
                         .read_only = options.read_only};
  UMBLOCK_TRY(scsi::LogicalUnit::Validate(*device, unit));
  auto [at, added] = target->luns.emplace(lun, Lun{std::move(options), device, nullptr});
  at->second.unit = std::make_unique<scsi::LogicalUnit>(*device, std::move(unit));
  target->device.AddUnit(lun, at->second.unit.get());
  return Ok();
}

Task<Status> IscsiTargetServer::RemoveLun(std::string target_name, uint32_t lun, bool force) {
  Target* target = FindTarget(target_name);
  if (target == nullptr || !target->luns.contains(lun)) {
    co_return MakeError(ErrorCode::kNotFound, "target {} has no LUN {}", target_name, lun);
  }
  Lun& entry = target->luns.at(lun);
  if (entry.removing || target->removing) {
    co_return MakeError(ErrorCode::kAborted, "LUN {} of {} is being removed", lun, target_name);
  }
  std::vector<Session*> sessions = SessionsOf(target->name);
  if (!sessions.empty() && !force) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "LUN {} of target {} is in use by {}; log them out, or use force", lun,
                        target_name, JoinNames(sessions));
  }
  co_await RemoveUnit(target, lun);
  co_return Ok();
}

Task<void> IscsiTargetServer::RemoveUnit(Target* target, uint32_t lun) {
  Lun& entry = target->luns.at(lun);
  entry.removing = true;
  co_await entry.unit->Stop();
  target->device.RemoveUnit(lun);
  target->luns.erase(lun);
}

// ---- sessions

std::vector<Session*> IscsiTargetServer::SessionsOf(std::string_view target) const {
  std::vector<Session*> result;
  for (Session* session : sessions_) {
    if (session->setup().target == target) result.push_back(session);
  }
  return result;
}

Task<void> IscsiTargetServer::EndSessions(std::move_only_function<bool(const Session&)> which,
                                          std::string_view reason) {
  const auto matching = [&] {
    std::vector<Session*> result;
    for (Session* session : sessions_) {
      if (which(*session)) result.push_back(session);
    }
    return result;
  };
  for (Session* session : matching()) session->DropWithNotice(reason);
  while (true) {
    std::vector<Session*> left = matching();
    if (left.empty()) co_return;
    // Told politely first; who does not go within a while is dropped.
    WakeReason why = co_await left.front()->ended().WaitFor(3s);
    if (why != WakeReason::kTimeout) continue;
    for (Session* session : matching()) session->Drop(reason);
    left = matching();
    if (!left.empty()) co_await left.front()->ended().Wait();
  }
}

void IscsiTargetServer::OnColdReset(Session& session) {
  for (Session* other : SessionsOf(session.setup().target)) {
    other->DropWithNotice("target cold reset");
  }
}

bool IscsiTargetServer::Allowed(const Target& target, std::string_view initiator) {
  if (target.options.initiators.empty()) return true;
  return std::ranges::any_of(target.options.initiators, [initiator](const std::string& name) {
    return NormalizeName(name) == initiator;
  });
}

LoginAuthority::Decision IscsiTargetServer::MayLogIn(std::string_view initiator,
                                                     std::string_view target_name) {
  if (target_name.empty()) return {.chap = options_.discovery_chap};
  Target* target = FindTarget(target_name);
  if (target == nullptr) return {.status = LoginStatus::kNotFound};
  if (target->removing) return {.status = LoginStatus::kTargetRemoved};
  if (!Allowed(*target, initiator)) return {.status = LoginStatus::kForbidden};
  return {.chap = target->options.chap};
}

std::string IscsiTargetServer::SendTargets(const Session& session, std::string_view which) {
  std::string text;
  std::string wanted = which.empty() ? session.setup().target : NormalizeName(which);
  bool all = which == "All" || wanted.empty();
  for (const auto& [name, target] : targets_) {
    if (target->removing || !Allowed(*target, session.setup().initiator)) continue;
    if (!all && name != wanted) continue;
    AppendText("TargetName", name, &text);
    if (!target->options.alias.empty()) AppendText("TargetAlias", target->options.alias, &text);
    for (const auto& portal : portals_) {
      SocketAddress address = portal->listener->local_address();
      if (IsWildcard(address)) {
        address = session.stream().local_address().WithPort(address.port());
      }
      AppendText("TargetAddress", address.ToString() + ",1", &text);
    }
  }
  return text;
}

ServerStatus IscsiTargetServer::status() const {
  ServerStatus status;
  for (const auto& portal : portals_) {
    status.portals.push_back(portal->listener->local_address().ToString());
  }
  for (const auto& [name, target] : targets_) {
    TargetStatus& entry = status.targets.emplace_back();
    entry.name = name;
    entry.alias = target->options.alias;
    entry.initiators = target->options.initiators;
    entry.chap = target->options.chap.has_value();
    for (const auto& [number, lun] : target->luns) {
      LunStatus& unit = entry.luns.emplace_back();
      unit.lun = number;
      unit.device = lun.device->name();
      unit.serial = lun.options.serial;
      unit.block_size = lun.options.block_size;
      unit.blocks = lun.unit->blocks();
      unit.read_only = lun.options.read_only;
      unit.accessible = lun.device->access() == Access::kReadWrite;
      unit.access_reason = lun.device->access_reason();
      unit.requests = lun.unit->requests();
      unit.reservation = ReservationName(lun.unit->reservations().type());
      unit.counters = lun.unit->counters();
    }
  }
  for (const Session* session : sessions_) status.sessions.push_back(session->status());
  status.logins_in_progress = logins_in_progress_;
  status.logins = logins_;
  status.failed_logins = failed_logins_;
  return status;
}

Task<void> IscsiTargetServer::Stop() {
  stopping_ = true;
  while (!portals_.empty()) {
    auto removed = co_await RemovePortal(portals_.front()->listener->local_address());
    if (!removed) co_await Sleep(reactor_, 1ms);
  }
  tasks_.Cancel();
  for (Session* session : std::vector<Session*>(sessions_)) {
    session->DropWithNotice("the iSCSI target stops");
  }
  Time deadline = reactor_.Now() + 3s;
  while (!sessions_.empty() && reactor_.Now() < deadline) {
    co_await sessions_.front()->ended().WaitFor(deadline - reactor_.Now());
    co_await reactor_.Yield();
  }
  for (Session* session : std::vector<Session*>(sessions_)) session->Drop("the target stops");
  co_await tasks_.Join();
  while (!targets_.empty()) {
    auto deleted = co_await DeleteTarget(targets_.begin()->first, true);
    if (!deleted) co_await Sleep(reactor_, 1ms);
  }
}

}  // namespace umblock::iscsi
