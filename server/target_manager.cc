#include "server/target_manager.h"

#include "server/convert.h"
#include "server/names.h"

namespace umblock::server {

struct TargetManager::PortalEntry {
  v1::PortalSpec spec;
  bool open = false;
  std::string reason = "not opened yet";
};

struct TargetManager::LunEntry {
  v1::LunSpec spec;
  bool open = false;
  std::string reason = "not opened yet";
};

struct TargetManager::TargetEntry {
  v1::TargetSpec spec;  // without secrets
  std::string chap_secret;
  std::string mutual_secret;
  bool open = false;
  std::string reason = "not opened yet";
  std::map<uint32_t, std::unique_ptr<LunEntry>> luns;
};

namespace {

// Takes the secrets out of a spec. In an update, one that is not given stays what it was.
void TakeSecrets(v1::TargetSpec* spec, std::string* chap, std::string* mutual) {
  const auto take = [](bool present, v1::ChapSpec* from, std::string* secret) {
    if (!present) {
      secret->clear();
      return;
    }
    if (from->has_secret()) *secret = from->secret();
    from->clear_secret();
  };
  take(spec->has_chap(), spec->has_chap() ? spec->mutable_chap() : nullptr, chap);
  take(spec->has_mutual_chap(), spec->has_mutual_chap() ? spec->mutable_mutual_chap() : nullptr,
       mutual);
}

void StoreTarget(StoredState& state, config::v1::StoredTarget* stored, const v1::TargetSpec& spec,
                 const std::string& chap, const std::string& mutual) {
  *stored->mutable_spec() = spec;
  stored->set_chap_secret_key(PutSecret(state, "chap/" + spec.name(), chap));
  stored->set_mutual_chap_secret_key(PutSecret(state, "mutual-chap/" + spec.name(), mutual));
}

// What a LUN is known by if nobody says otherwise. The target's name is unique in the world and is
// the same on both nodes of a pair, so two paths to one volume look like one disk, and no two disks
// of two clusters do. A backend is this node's alone.
std::string DefaultSerial(const v1::LunSpec& spec, const std::string& node_name) {
  const v1::Backing& backing = spec.backing();
  const std::string what =
      backing.has_volume()
          ? fmt::format("volume/{}/{}", backing.volume().resource(), backing.volume().number())
          : fmt::format("backend/{}/{}", node_name, backing.backend());
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char c : fmt::format("{}/{}/{}", spec.target(), spec.number(), what)) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  return fmt::format("{:016x}", hash);
}

// Initiators count in the LUN's blocks: another size would put all their data elsewhere, and parts
// of the device's blocks cannot be written.
Status CheckBlockSize(const v1::LunSpec& spec, const BlockDevice& device) {
  const uint32_t needed = device.geometry().logical_block_size;
  if (spec.block_size() == 0 || needed <= spec.block_size()) return Ok();
  return MakeError(ErrorCode::kFailedPrecondition,
                   "{} needs blocks of {} bytes now and the LUN has blocks of {}, which do not "
                   "change: put it on a disk with blocks of {}, or, if its data may be given up, "
                   "delete the LUN and create it anew",
                   device.name(), needed, spec.block_size(), spec.block_size());
}

std::unexpected<Error> NoSuchTarget(const std::string& name) {
  return MakeError(ErrorCode::kNotFound, "no target '{}'", name);
}

}  // namespace

TargetManager::TargetManager(NodeParts parts, Backings backings, std::string node_name)
    : parts_(parts),
      backings_(backings),
      node_name_(std::move(node_name)),
      changes_(parts.reactor) {}

TargetManager::~TargetManager() = default;

Task<Status> TargetManager::NeedIscsi() {
  if (iscsi_ != nullptr) co_return Ok();
  if (stopped_) co_return MakeError(ErrorCode::kUnavailable, "the daemon is stopping");
  auto started = co_await parts_.engine.StartIscsi();
  if (!started) co_return std::unexpected(started.error().Within("the iSCSI front"));
  iscsi_ = std::move(*started);
  co_return Ok();
}

Task<Status> TargetManager::OpenPortal(PortalEntry* portal) {
  auto address = SocketAddress::Parse(portal->spec.address());
  if (!address) co_return std::unexpected(address.error());
  UMBLOCK_CO_TRY(co_await NeedIscsi());
  Status opened = co_await iscsi_->AddPortal(*address);
  portal->open = opened.has_value();
  portal->reason = opened ? std::string() : opened.error().message();
  co_return opened;
}

Task<Status> TargetManager::OpenTarget(TargetEntry* target) {
  auto setup = ToTargetSetup(target->spec, target->chap_secret, target->mutual_secret);
  if (!setup) co_return std::unexpected(setup.error());
  UMBLOCK_CO_TRY(co_await NeedIscsi());
  Status opened = co_await iscsi_->AddTarget(*setup);
  target->open = opened.has_value();
  target->reason = opened ? std::string() : opened.error().message();
  co_return opened;
}

Status TargetManager::Settle(v1::LunSpec* spec) const {
  if (spec->serial().empty()) spec->set_serial(DefaultSerial(*spec, node_name_));
  if (spec->block_size() != 0) return Ok();
  auto device = backings_.Device(spec->backing());
  if (!device) return std::unexpected(device.error());
  const uint32_t block_size = (*device)->geometry().logical_block_size;
  spec->set_block_size(block_size <= 512 ? 512 : 4096);
  return Ok();
}

Task<Status> TargetManager::OpenLun(LunEntry* lun) {
  auto device = backings_.Device(lun->spec.backing());
  Status opened = device ? CheckBlockSize(lun->spec, **device) : std::unexpected(device.error());
  if (opened) {
    LunSetup setup;
    setup.target = lun->spec.target();
    setup.number = lun->spec.number();
    setup.device = *device;
    setup.block_size = lun->spec.block_size();
    setup.read_only = lun->spec.read_only();
    setup.serial = lun->spec.serial();
    opened = co_await iscsi_->AddLun(setup);
  }
  lun->open = opened.has_value();
  lun->reason = opened ? std::string() : opened.error().message();
  co_return opened;
}

v1::Portal TargetManager::Describe(const PortalEntry& portal) const {
  v1::Portal shown;
  *shown.mutable_spec() = portal.spec;
  shown.set_listening(portal.open);
  shown.set_reason(portal.reason);
  return shown;
}

v1::Lun TargetManager::Describe(const LunEntry& lun, const IscsiStatus& status) const {
  v1::Lun shown;
  *shown.mutable_spec() = lun.spec;
  const auto device = backings_.Device(lun.spec.backing());
  std::string problem = lun.reason;
  if (problem.empty() && device) {
    // A replica may get another disk while the LUN is there.
    if (Status fits = CheckBlockSize(lun.spec, **device); !fits) problem = fits.error().message();
  }
  const FrontState state = FrontStateOf(device, problem);
  shown.set_ready(state.ready);
  shown.set_reason(state.reason);
  shown.set_size_bytes(state.size);
  for (const LunCounters& counters : status.luns) {
    if (counters.target != lun.spec.target() || counters.number != lun.spec.number()) continue;
    v1::LunStatistics* statistics = shown.mutable_statistics();
    statistics->set_read_requests(counters.read_requests);
    statistics->set_read_bytes(counters.read_bytes);
    statistics->set_write_requests(counters.write_requests);
    statistics->set_write_bytes(counters.write_bytes);
    statistics->set_check_conditions(counters.check_conditions);
  }
  return shown;
}

v1::Target TargetManager::Describe(const TargetEntry& target, const IscsiStatus& status) const {
  v1::Target shown;
  *shown.mutable_spec() = target.spec;
  shown.set_ready(target.open);
  shown.set_reason(target.reason);
  for (const auto& [number, lun] : target.luns) *shown.add_luns() = Describe(*lun, status);
  for (const SessionStatus& from : status.sessions) {
    if (from.target != target.spec.name()) continue;
    v1::Session* session = shown.add_sessions();
    session->set_initiator(from.initiator);
    session->set_address(from.address);
    session->set_tsih(from.tsih);
    session->set_commands(from.commands);
    session->set_copied_bytes(from.copied_bytes);
    session->set_received_bytes(from.received_bytes);
    session->set_sent_bytes(from.sent_bytes);
  }
  return shown;
}

Task<Result<v1::Portal>> TargetManager::CreatePortal(v1::CreatePortalRequest request) {
  auto lock = co_await changes_.Acquire();
  const std::string address = request.spec().address();
  auto parsed = SocketAddress::Parse(address);
  if (!parsed) co_return std::unexpected(parsed.error().Within("portal"));
  if (portals_.contains(address)) {
    co_return MakeError(ErrorCode::kAlreadyExists, "there is a portal {} already", address);
  }
  auto portal = std::make_unique<PortalEntry>();
  portal->spec = request.spec();
  Status made = co_await OpenPortal(portal.get());
  if (made) {
    made = co_await parts_.config.Commit(
        [&request](StoredState& state) { *state.config.add_portals() = request.spec(); });
    if (!made) (void)co_await iscsi_->RemovePortal(*parsed);
  }
  if (!made) co_return std::unexpected(made.error().Within("portal " + address));
  v1::Portal shown = Describe(*portal);
  portals_[address] = std::move(portal);
  parts_.events.Show(PortalEvent(shown));
  co_return shown;
}

Task<Result<v1::ListPortalsResponse>> TargetManager::ListPortals(v1::ListPortalsRequest) {
  v1::ListPortalsResponse response;
  for (v1::Portal& portal : AllPortals()) *response.add_portals() = std::move(portal);
  co_return response;
}

Task<Result<v1::DeletePortalResponse>> TargetManager::DeletePortal(
    v1::DeletePortalRequest request) {
  auto lock = co_await changes_.Acquire();
  const auto it = portals_.find(request.address());
  if (it == portals_.end()) {
    co_return MakeError(ErrorCode::kNotFound, "no portal '{}'", request.address());
  }
  Status stored = co_await parts_.config.Commit([&request](StoredState& state) {
    EraseFrom(state.config.mutable_portals(), [&request](const v1::PortalSpec& spec) {
      return spec.address() == request.address();
    });
  });
  if (!stored) co_return std::unexpected(stored.error());
  auto address = SocketAddress::Parse(request.address());
  if (it->second->open && address) (void)co_await iscsi_->RemovePortal(*address);
  portals_.erase(request.address());
  parts_.events.ShowDeleted("portal " + request.address());
  co_return v1::DeletePortalResponse();
}

Task<Result<v1::Target>> TargetManager::CreateTarget(v1::CreateTargetRequest request) {
  auto lock = co_await changes_.Acquire();
  auto target = std::make_unique<TargetEntry>();
  target->spec = request.spec();
  TakeSecrets(&target->spec, &target->chap_secret, &target->mutual_secret);
  const std::string name = target->spec.name();
  auto setup = ToTargetSetup(target->spec, target->chap_secret, target->mutual_secret);
  if (!setup) co_return std::unexpected(setup.error().Within("target"));
  if (targets_.contains(name)) {
    co_return MakeError(ErrorCode::kAlreadyExists, "there is a target '{}' already", name);
  }
  Status made = co_await OpenTarget(target.get());
  if (made) {
    made = co_await parts_.config.Commit([&target](StoredState& state) {
      auto* stored = state.config.add_targets();
      StoreTarget(state, stored, target->spec, target->chap_secret, target->mutual_secret);
    });
    if (!made) (void)co_await iscsi_->RemoveTarget(name, true);
  }
  if (!made) co_return std::unexpected(made.error().Within("target " + name));
  v1::Target shown = Describe(*target, Observed());
  targets_[name] = std::move(target);
  parts_.events.Show(TargetEvent(shown));
  co_return shown;
}

Task<Result<v1::Target>> TargetManager::GetTarget(v1::GetTargetRequest request) {
  const auto it = targets_.find(request.name());
  if (it == targets_.end()) co_return NoSuchTarget(request.name());
  co_return Describe(*it->second, Observed());
}

Task<Result<v1::ListTargetsResponse>> TargetManager::ListTargets(v1::ListTargetsRequest) {
  v1::ListTargetsResponse response;
  for (v1::Target& target : AllTargets()) *response.add_targets() = std::move(target);
  co_return response;
}

Task<Result<v1::Target>> TargetManager::UpdateTarget(v1::UpdateTargetRequest request) {
  auto lock = co_await changes_.Acquire();
  const std::string name = request.spec().name();
  const auto it = targets_.find(name);
  if (it == targets_.end()) co_return NoSuchTarget(name);
  TargetEntry* target = it->second.get();
  v1::TargetSpec spec = request.spec();
  std::string chap = target->chap_secret;
  std::string mutual = target->mutual_secret;
  TakeSecrets(&spec, &chap, &mutual);
  auto setup = ToTargetSetup(spec, chap, mutual);
  if (!setup) co_return std::unexpected(setup.error().Within("target"));
  auto before = ToTargetSetup(target->spec, target->chap_secret, target->mutual_secret);
  if (!before) co_return std::unexpected(before.error());
  if (target->open) {
    if (Status updated = co_await iscsi_->UpdateTarget(*setup); !updated) {
      co_return std::unexpected(updated.error());
    }
  }
  Status stored = co_await parts_.config.Commit(
      [&](StoredState& state) { StoreTarget(state, FindTarget(state, name), spec, chap, mutual); });
  if (!stored) {
    if (target->open) (void)co_await iscsi_->UpdateTarget(*before);
    co_return std::unexpected(stored.error());
  }
  target->spec = spec;
  target->chap_secret = chap;
  target->mutual_secret = mutual;
  v1::Target shown = Describe(*target, Observed());
  parts_.events.Show(TargetEvent(shown), "UpdateTarget");
  co_return shown;
}

Task<Result<v1::DeleteTargetResponse>> TargetManager::DeleteTarget(
    v1::DeleteTargetRequest request) {
  auto lock = co_await changes_.Acquire();
  const std::string name = request.name();
  const auto it = targets_.find(name);
  if (it == targets_.end()) co_return NoSuchTarget(name);
  TargetEntry* target = it->second.get();
  if (!request.force()) {
    for (const SessionStatus& session : Observed().sessions) {
      if (session.target != name) continue;
      co_return MakeError(ErrorCode::kFailedPrecondition,
                          "{} is logged in to target '{}': log it out, or force the deletion",
                          session.initiator, name);
    }
  }
  Status stored = co_await parts_.config.Commit([&name](StoredState& state) {
    EraseFrom(state.config.mutable_targets(),
              [&name](const auto& stored_target) { return stored_target.spec().name() == name; });
  });
  if (!stored) co_return std::unexpected(stored.error());
  if (target->open) (void)co_await iscsi_->RemoveTarget(name, true);
  for (const auto& [number, lun] : target->luns) {
    const std::string lun_name = LunName(name, number);
    backings_.Release(lun->spec.backing(), lun_name);
    parts_.events.ShowDeleted(lun_name);
  }
  targets_.erase(name);
  parts_.events.ShowDeleted("target " + name);
  co_return v1::DeleteTargetResponse();
}

Status TargetManager::CheckSerialIsFree(const v1::LunSpec& spec) const {
  for (const auto& [name, target] : targets_) {
    for (const auto& [number, lun] : target->luns) {
      if (lun->spec.serial() != spec.serial()) continue;
      return MakeError(ErrorCode::kAlreadyExists,
                       "{} has the serial number '{}' already: initiators would take the two for "
                       "one disk",
                       LunName(name, number), spec.serial());
    }
  }
  return Ok();
}

Task<Result<v1::Lun>> TargetManager::CreateLun(v1::CreateLunRequest request) {
  auto lock = co_await changes_.Acquire();
  v1::LunSpec spec = request.spec();
  if (Status valid = CheckLunSpec(spec); !valid) co_return std::unexpected(valid.error());
  const auto it = targets_.find(spec.target());
  if (it == targets_.end()) co_return NoSuchTarget(spec.target());
  TargetEntry* target = it->second.get();
  const std::string name = LunName(spec.target(), spec.number());
  if (target->luns.contains(spec.number())) {
    co_return MakeError(ErrorCode::kAlreadyExists, "there is a {} already", name);
  }
  if (!target->open) {
    co_return MakeError(ErrorCode::kUnavailable, "target '{}' is not ready: {}", spec.target(),
                        target->reason);
  }
  if (Status claimed = backings_.Claim(spec.backing(), name); !claimed) {
    co_return std::unexpected(claimed.error().Within(name));
  }
  auto lun = std::make_unique<LunEntry>();
  Status made = Settle(&spec);
  if (made) made = CheckSerialIsFree(spec);
  lun->spec = spec;
  if (made) made = co_await OpenLun(lun.get());
  if (made) {
    made = co_await parts_.config.Commit(
        [&spec](StoredState& state) { *FindTarget(state, spec.target())->add_luns() = spec; });
    if (!made) (void)co_await iscsi_->RemoveLun(spec.target(), spec.number(), true);
  }
  if (!made) {
    backings_.Release(spec.backing(), name);
    co_return std::unexpected(made.error().Within(name));
  }
  v1::Lun shown = Describe(*lun, Observed());
  target->luns[spec.number()] = std::move(lun);
  parts_.events.Show(LunEvent(shown));
  co_return shown;
}

Task<Result<v1::DeleteLunResponse>> TargetManager::DeleteLun(v1::DeleteLunRequest request) {
  auto lock = co_await changes_.Acquire();
  const auto it = targets_.find(request.target());
  if (it == targets_.end()) co_return NoSuchTarget(request.target());
  TargetEntry* target = it->second.get();
  const auto lun = target->luns.find(request.number());
  const std::string name = LunName(request.target(), request.number());
  if (lun == target->luns.end()) co_return MakeError(ErrorCode::kNotFound, "no {}", name);
  if (lun->second->open) {
    Status removed =
        co_await iscsi_->RemoveLun(request.target(), request.number(), request.force());
    if (!removed) co_return std::unexpected(removed.error());
    lun->second->open = false;
  }
  Status stored = co_await parts_.config.Commit([&request](StoredState& state) {
    EraseFrom(FindTarget(state, request.target())->mutable_luns(),
              [&request](const v1::LunSpec& spec) { return spec.number() == request.number(); });
  });
  if (!stored) {
    (void)co_await OpenLun(lun->second.get());
    co_return std::unexpected(stored.error());
  }
  backings_.Release(lun->second->spec.backing(), name);
  target->luns.erase(lun);
  parts_.events.ShowDeleted(name);
  co_return v1::DeleteLunResponse();
}

void TargetManager::Restore() {
  for (const v1::PortalSpec& spec : parts_.config.config().portals()) {
    portals_[spec.address()] = std::make_unique<PortalEntry>(PortalEntry{.spec = spec});
  }
  for (const auto& stored : parts_.config.config().targets()) {
    auto target = std::make_unique<TargetEntry>();
    target->spec = stored.spec();
    target->chap_secret = parts_.config.Secret(stored.chap_secret_key());
    target->mutual_secret = parts_.config.Secret(stored.mutual_chap_secret_key());
    for (const v1::LunSpec& spec : stored.luns()) {
      auto lun = std::make_unique<LunEntry>();
      lun->spec = spec;
      Status claimed = backings_.Claim(spec.backing(), LunName(spec.target(), spec.number()));
      if (!claimed) lun->reason = claimed.error().message();
      target->luns[spec.number()] = std::move(lun);
    }
    targets_[stored.spec().name()] = std::move(target);
  }
}

// A LUN from the configuration. One that was stored without a block size or a serial number is
// settled first, and opened only once that is stored.
Task<void> TargetManager::OpenStored(LunEntry* lun) {
  v1::LunSpec spec = lun->spec;
  Status settled = Settle(&spec);
  if (settled &&
      (spec.block_size() != lun->spec.block_size() || spec.serial() != lun->spec.serial())) {
    settled = co_await parts_.config.Commit([&spec](StoredState& state) {
      for (auto& stored : *FindTarget(state, spec.target())->mutable_luns()) {
        if (stored.number() == spec.number()) stored = spec;
      }
    });
  }
  if (!settled) {
    lun->reason = settled.error().message();
    co_return;
  }
  lun->spec = spec;
  (void)co_await OpenLun(lun);
}

Task<void> TargetManager::Retry() {
  if (changes_.locked()) co_return;  // whoever is at it may wait long: the next time
  auto lock = co_await changes_.Acquire();
  if (stopped_) co_return;
  // Targets and their LUNs before portals, so that the first login finds everything.
  for (const auto& [name, target] : targets_) {
    if (!target->open) {
      if (Status opened = co_await OpenTarget(target.get()); !opened) {
        target->reason = opened.error().message();
      }
    }
    for (const auto& [number, lun] : target->luns) {
      if (target->open && !lun->open) co_await OpenStored(lun.get());
    }
  }
  for (const auto& [address, portal] : portals_) {
    if (portal->open) continue;
    if (Status opened = co_await OpenPortal(portal.get()); !opened) {
      portal->reason = opened.error().message();
    }
  }
}

Task<void> TargetManager::Stop() {
  stopped_ = true;
  auto lock = co_await changes_.Acquire();
  if (iscsi_ != nullptr) co_await iscsi_->Stop();
  for (const auto& [address, portal] : portals_) portal->open = false;
  for (const auto& [name, target] : targets_) target->open = false;
  iscsi_.reset();
}

void TargetManager::Look() {
  for (const v1::Portal& portal : AllPortals()) parts_.events.Show(PortalEvent(portal));
  for (const v1::Target& target : AllTargets()) {
    parts_.events.Show(TargetEvent(target));
    for (const v1::Lun& lun : target.luns()) parts_.events.Show(LunEvent(lun));
  }
}

std::vector<v1::Portal> TargetManager::AllPortals() const {
  std::vector<v1::Portal> all;
  for (const auto& [address, portal] : portals_) all.push_back(Describe(*portal));
  return all;
}

std::vector<v1::Target> TargetManager::AllTargets() const {
  const IscsiStatus status = Observed();
  std::vector<v1::Target> all;
  for (const auto& [name, target] : targets_) all.push_back(Describe(*target, status));
  return all;
}

void TargetManager::AddProblems(std::vector<NodeProblem>* problems) const {
  for (const auto& [address, portal] : portals_) {
    if (!portal->open) problems->push_back({"portal " + address, portal->reason});
  }
  for (const auto& [name, target] : targets_) {
    if (!target->open) problems->push_back({"target " + name, target->reason});
    for (const auto& [number, lun] : target->luns) {
      if (!lun->open) problems->push_back({LunName(name, number), lun->reason});
    }
  }
}

}  // namespace umblock::server
