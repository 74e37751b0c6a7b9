// IscsiTargetServer: portals, targets with their LUNs, and the sessions on them.
//
//   IscsiTargetServer server(reactor, {});
//   auto address = server.AddPortal(*SocketAddress::Parse("0.0.0.0:3260"));
//   server.CreateTarget("iqn.2026-01.org.example:disk0", {});
//   server.AddLun("iqn.2026-01.org.example:disk0", 0, device, {.serial = "r0-0"});
//   …
//   co_await server.Stop();
//
// Every act is idempotent or says why not. Errors name the object and the way out. Devices belong
// to the caller and outlive their LUN. Threading: one reactor, that of the devices (a device of
// another reactor comes as a RemoteBlockDevice). Stop() is awaited before the destructor.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/base/socket_address.h"
#include "engine/block/block_device.h"
#include "engine/iscsi/chap.h"
#include "engine/iscsi/login.h"
#include "engine/iscsi/session.h"
#include "engine/iscsi/status.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/sync.h"
#include "engine/scsi/logical_unit.h"

namespace umblock::iscsi {

struct ServerOptions {
  ParameterLimits parameters;
  SessionLimits sessions;
  Duration login_timeout = 15s;  // for a whole login
  uint32_t max_sessions = 256;
  uint32_t max_logins = 64;  // connections that have not logged in yet
  uint32_t max_targets = 1024;
  uint32_t max_portals = 16;
  std::optional<ChapCredentials> discovery_chap;
};

struct TargetOptions {
  std::string alias;
  std::vector<std::string> initiators;  // who may log in; empty: everybody
  std::optional<ChapCredentials> chap;

  friend bool operator==(const TargetOptions&, const TargetOptions&) = default;
};

struct LunOptions {
  std::string serial;         // 1 to 36 printable characters; unique per volume, kept for ever
  uint32_t block_size = 512;  // 512 or 4096
  bool read_only = false;
  std::string product = "VIRTUAL DISK";

  friend bool operator==(const LunOptions&, const LunOptions&) = default;
};

class IscsiTargetServer final : private SessionHost, private LoginAuthority {
 public:
  IscsiTargetServer(Reactor& reactor, ServerOptions options);
  IscsiTargetServer(const IscsiTargetServer&) = delete;
  IscsiTargetServer& operator=(const IscsiTargetServer&) = delete;
  ~IscsiTargetServer() override;

  // Port 0: one is chosen. Returns the address that is listened on.
  Result<SocketAddress> AddPortal(const SocketAddress& address);
  // Sessions that came through it stay.
  Task<Status> RemovePortal(SocketAddress address);

  Status CreateTarget(std::string_view name, TargetOptions options);
  // Sessions whose initiator may no longer log in are ended, all of them if CHAP is asked for and
  // was not, or with other credentials (their initiators are told; within seconds).
  Status UpdateTarget(std::string_view name, TargetOptions options);
  // With sessions: refused, or with `force` they are ended (their initiators are told).
  Task<Status> DeleteTarget(std::string name, bool force);

  Status AddLun(std::string_view target, uint32_t lun, BlockDevice* device, LunOptions options);
  // In use by sessions: refused, or with `force` taken away under them.
  Task<Status> RemoveLun(std::string target, uint32_t lun, bool force);

  ServerStatus status() const;
  // Ends every session and closes every portal; targets are gone afterwards.
  Task<void> Stop();

 private:
  struct Lun {
    LunOptions options;
    BlockDevice* device;
    std::unique_ptr<scsi::LogicalUnit> unit;
    bool removing = false;
  };
  struct Target {
    explicit Target(std::string target_name) : name(target_name), device(std::move(target_name)) {}
    std::string name;
    TargetOptions options;
    scsi::TargetDevice device;
    std::map<uint32_t, Lun> luns;
    bool removing = false;
  };
  struct Portal {
    Portal(Reactor& reactor, std::unique_ptr<Listener> l)
        : listener(std::move(l)), tasks(reactor) {}
    std::unique_ptr<Listener> listener;
    TaskGroup tasks;
    bool removing = false;
  };
  struct LoginState;

  Task<void> AcceptLoop(Portal* portal);
  Task<void> Serve(std::unique_ptr<Stream> stream);
  Task<std::unique_ptr<Session>> LogIn(std::unique_ptr<Stream>& stream);
  Task<LoginStatus> Admit(const Bhs& request, const LoginExchange& exchange, Time deadline,
                          uint16_t* tsih);
  Task<bool> ReadLogin(Stream& stream, Bhs* header, std::string* data);
  Task<bool> SendLogin(Stream& stream, const Bhs& request, const LoginExchange::Reply& reply,
                       uint16_t tsih, uint32_t stat_sn);
  Session* FindNexus(std::string_view initiator, std::string_view isid, std::string_view target);
  uint16_t NewTsih();

  std::string SendTargets(const Session& session, std::string_view which) override;
  void OnColdReset(Session& session) override;
  Decision MayLogIn(std::string_view initiator, std::string_view target) override;

  Target* FindTarget(std::string_view name);
  static bool Allowed(const Target& target, std::string_view initiator);
  std::vector<Session*> SessionsOf(std::string_view target) const;
  Task<void> EndSessions(std::move_only_function<bool(const Session&)> which,
                         std::string_view reason);
  Task<void> RemoveUnit(Target* target, uint32_t lun);
  Status CheckOptions(std::string_view name, const TargetOptions& options) const;

  Reactor& reactor_;
  const ServerOptions options_;
  std::vector<std::unique_ptr<Portal>> portals_;
  std::map<std::string, std::unique_ptr<Target>, std::less<>> targets_;
  std::vector<Session*> sessions_;
  uint32_t logins_in_progress_ = 0;
  uint64_t logins_ = 0, failed_logins_ = 0;
  uint64_t next_session_ = 1;
  uint16_t next_tsih_ = 1;
  bool stopping_ = false;
  TaskGroup tasks_;
};

}  // namespace umblock::iscsi
