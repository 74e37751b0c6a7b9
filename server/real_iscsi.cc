#include "server/real_iscsi.h"

#include "engine/iscsi/server.h"

namespace umblock::server {
namespace {

iscsi::TargetOptions ToOptions(const TargetSetup& setup) {
  iscsi::TargetOptions options;
  options.alias = setup.alias;
  options.initiators = setup.initiators;
  if (!setup.chap.secret.empty()) {
    options.chap = iscsi::ChapCredentials{setup.chap.user, setup.chap.secret,
                                          setup.mutual_chap.user, setup.mutual_chap.secret};
  }
  return options;
}

class RealIscsi final : public IscsiFront {
 public:
  explicit RealIscsi(Reactor& reactor) : server_(reactor, {}) {}

  Task<Status> AddPortal(SocketAddress address) override {
    auto bound = server_.AddPortal(address);
    if (!bound) co_return std::unexpected(bound.error());
    co_return Ok();
  }
  Task<Status> RemovePortal(SocketAddress address) override {
    return server_.RemovePortal(address);
  }
  Task<Status> AddTarget(TargetSetup setup) override {
    co_return server_.CreateTarget(setup.name, ToOptions(setup));
  }
  Task<Status> UpdateTarget(TargetSetup setup) override {
    co_return server_.UpdateTarget(setup.name, ToOptions(setup));
  }
  Task<Status> RemoveTarget(std::string name, bool force) override {
    return server_.DeleteTarget(std::move(name), force);
  }
  Task<Status> AddLun(LunSetup setup) override {
    iscsi::LunOptions options;
    options.serial = setup.serial;
    options.block_size = setup.block_size;
    options.read_only = setup.read_only;
    co_return server_.AddLun(setup.target, setup.number, setup.device, std::move(options));
  }
  Task<Status> RemoveLun(std::string target, uint32_t number, bool force) override {
    return server_.RemoveLun(std::move(target), number, force);
  }
  IscsiStatus status() override;
  Task<void> Stop() override { return server_.Stop(); }

 private:
  iscsi::IscsiTargetServer server_;
};

IscsiStatus RealIscsi::status() {
  const iscsi::ServerStatus from = server_.status();
  IscsiStatus to;
  for (const iscsi::TargetStatus& target : from.targets) {
    for (const iscsi::LunStatus& lun : target.luns) {
      to.luns.push_back({.target = target.name,
                         .number = lun.lun,
                         .read_requests = lun.counters.reads,
                         .read_bytes = lun.counters.read_bytes,
                         .write_requests = lun.counters.writes,
                         .write_bytes = lun.counters.write_bytes,
                         .check_conditions = lun.counters.check_conditions});
    }
  }
  for (const iscsi::SessionStatus& session : from.sessions) {
    if (session.target.empty()) continue;  // discovery
    to.sessions.push_back({.target = session.target,
                           .initiator = session.initiator,
                           .address = session.remote_address,
                           .tsih = session.tsih,
                           .commands = session.counters.commands,
                           .copied_bytes = session.counters.copied_bytes,
                           .received_bytes = session.counters.bytes_in,
                           .sent_bytes = session.counters.bytes_out});
  }
  return to;
}

}  // namespace

Task<Result<std::unique_ptr<IscsiFront>>> StartRealIscsi(Reactor& reactor) {
  co_return std::make_unique<RealIscsi>(reactor);
}

}  // namespace umblock::server
