// umctl connection …
#include <fstream>
#include <istream>

#include "ctl/act_command.h"
#include "ctl/status_command.h"
#include "umblock/v1/connection.pb.h"

namespace umblock::ctl {
namespace {

// "r0" with --peer-node-id, or "r0/1".
void AddConnectionName(CLI::App* verb, const MessagePtr& message, const std::string& prefix = "") {
  verb->add_option_function<std::string>(
          "CONNECTION",
          [message, prefix](const std::string& text) {
            auto parsed = ParseSlashName(text, "");
            (void)SetField(message.get(), prefix + "resource", parsed ? parsed->name : text);
            if (parsed) {
              (void)SetField(message.get(), prefix + "peer_node_id",
                             std::to_string(parsed->number));
            }
          },
          "Resource and the peer's node id, as r0/1 (or r0 with --peer-node-id)")
      ->required()
      ->type_name("");
  Field(verb, "--peer-node-id", message, prefix + "peer_node_id", "Node id of the peer");
}

struct PathArguments {
  std::vector<std::string> paths;  // local, remote, local, remote …
  std::string secret_file;
};

void AddPaths(CLI::App* verb, const std::shared_ptr<PathArguments>& a) {
  verb->add_option("--path", a->paths, "Own and peer's ADDRESS:PORT; may be repeated")
      ->expected(2)
      ->allow_extra_args(true)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("LOCAL REMOTE");
  verb->add_option("--shared-secret-file", a->secret_file,
                   "File whose first line authenticates the peer (-: standard input)")
      ->type_name("");
}

template <typename Paths>
Status TakePaths(const PathArguments& a, Paths* paths) {
  if (a.paths.size() % 2 != 0) {
    return MakeError(ErrorCode::kInvalidArgument, "--path needs two addresses: own and peer's");
  }
  for (size_t i = 0; i < a.paths.size(); i += 2) {
    v1::Path* path = paths->Add();
    path->set_local(a.paths[i]);
    path->set_remote(a.paths[i + 1]);
  }
  return Ok();
}

Status TakeSecret(Session& s, const PathArguments& a, v1::NetOptions* net) {
  if (a.secret_file.empty()) return Ok();
  auto secret = ReadSecretFile(s, a.secret_file);
  if (!secret) return std::unexpected(secret.error());
  net->set_shared_secret(*secret);
  return Ok();
}

void AddCreate(const Builder& b, CLI::App* noun) {
  Session& s = b.session;
  auto request = std::make_shared<v1::CreateConnectionRequest>();
  auto a = std::make_shared<PathArguments>();
  CLI::App* verb = b.Verb(noun, "create", "Add a peer to a resource", [&s, request, a]() -> Status {
    UMBLOCK_TRY(TakePaths(*a, request->mutable_spec()->mutable_paths()));
    UMBLOCK_TRY(TakeSecret(s, *a, request->mutable_spec()->mutable_net()));
    v1::Connection connection;
    return s.Act("ConnectionService.CreateConnection", *request, &connection);
  });
  AddConnectionName(verb, request, "spec.");
  Field(verb, "--peer-name", request, "spec.peer_name", "Name of the peer, for people");
  AddPaths(verb, a);
  Flag(verb, "--connect", request, "connect", "Connect at once");
  AddNetOptions(verb, request, "spec.");
  verb->footer(
      "Example:\n"
      "  umctl connection create r0/1 --peer-name n2 --path 10.0.0.1:7789 10.0.0.2:7789 --connect");
}

void AddLooking(const Builder& b, CLI::App* noun) {
  Session& s = b.session;
  auto get = std::make_shared<v1::GetConnectionRequest>();
  CLI::App* verb = b.Verb(noun, "get", "Show one connection", [&s, get]() -> Status {
    v1::Connection connection;
    return s.Act("ConnectionService.GetConnection", *get, &connection);
  });
  verb->alias("show");
  AddConnectionName(verb, get);
  auto list = std::make_shared<v1::ListConnectionsRequest>();
  auto watch = std::make_shared<bool>(false);
  verb = b.Verb(noun, "list", "List connections", [&s, list, watch]() -> Status {
    v1::ListConnectionsResponse response;
    UMBLOCK_TRY(s.Act("ConnectionService.ListConnections", *list, &response));
    return *watch ? FollowEvents(s, list->resource(), "connection ") : Ok();
  });
  Field(verb, "RESOURCE", list, "resource", "Only this resource's");
  verb->add_flag("-w,--watch", *watch, "Then print what changes");
}

Status KeepOtherOptions(Session& s, v1::UpdateConnectionRequest* update) {
  v1::GetConnectionRequest get;
  get.set_resource(update->resource());
  get.set_peer_node_id(update->peer_node_id());
  v1::Connection connection;
  UMBLOCK_TRY(s.Call("ConnectionService.GetConnection", get, &connection));
  if (update->has_net()) KeepOthers(connection.spec().net(), update->mutable_net());
  if (update->has_resync()) KeepOthers(connection.spec().resync(), update->mutable_resync());
  return Ok();
}

void AddChanging(const Builder& b, CLI::App* noun) {
  Session& s = b.session;
  auto update = std::make_shared<v1::UpdateConnectionRequest>();
  auto a = std::make_shared<PathArguments>();
  auto reset = std::make_shared<bool>(false);
  CLI::App* verb = b.Verb(noun, "update", kUpdateHelp, [&s, update, a, reset]() -> Status {
    UMBLOCK_TRY(TakePaths(*a, update->mutable_paths()));
    if (!a->secret_file.empty()) UMBLOCK_TRY(TakeSecret(s, *a, update->mutable_net()));
    v1::Connection connection;
    if (*reset) {
      update->mutable_net();
      update->mutable_resync();
    } else {
      UMBLOCK_TRY(KeepOtherOptions(s, update.get()));
    }
    return s.Act("ConnectionService.UpdateConnection", *update, &connection);
  });
  AddConnectionName(verb, update);
  AddReset(verb, reset);
  AddPaths(verb, a);
  AddNetOptions(verb, update, "");

  auto remove = std::make_shared<v1::DeleteConnectionRequest>();
  verb = b.Verb(noun, "delete", "Remove a peer", [&s, remove]() -> Status {
    if (remove->force()) UMBLOCK_TRY(s.Confirm("The last UpToDate data may be taken away"));
    v1::DeleteConnectionResponse response;
    UMBLOCK_TRY(s.Act("ConnectionService.DeleteConnection", *remove, &response));
    s.PrintDone(
        fmt::format("connection {}/{} deleted", remove->resource(), remove->peer_node_id()));
    return Ok();
  });
  AddConnectionName(verb, remove);
  Flag(verb, "--force", remove, "force", "Disconnect first, whatever that takes away");
  Flag(verb, "--forget", remove, "forget",
       "Free its bitmap slots for another node id; if it comes back, all is sent to it");
}

template <typename Request>
Act<Request> AddConnectionAct(const Builder& b, CLI::App* noun, const char* name, const char* help,
                              const char* method,
                              const std::function<Status(const Request&)>& before = {}) {
  auto act = AddAct<v1::Connection, Request>(b, noun, name, help,
                                             std::string("ConnectionService.") + method, before);
  AddConnectionName(act.verb, act.request);
  return act;
}

void AddActs(const Builder& b, CLI::App* noun) {
  Session& s = b.session;
  auto connect = AddConnectionAct<v1::ConnectRequest>(
      b, noun, "connect", "Start to connect; also after a restart", "Connect",
      [&s](const v1::ConnectRequest& r) -> Status {
        return r.discard_my_data()
                   ? s.Confirm("This node's changes since the split are thrown away")
                   : Ok();
      });
  Flag(connect.verb, "--discard-my-data", connect.request, "discard_my_data",
       "Resolve a split brain: throw this node's changes away");
  auto disconnect = AddConnectionAct<v1::DisconnectRequest>(
      b, noun, "disconnect", "End the link; also after a restart", "Disconnect",
      [&s](const v1::DisconnectRequest& r) -> Status {
        return r.force() ? s.Confirm("The last UpToDate data may be taken away") : Ok();
      });
  Flag(disconnect.verb, "--force", disconnect.request, "force", "Whatever that takes away");
  auto invalidate = AddConnectionAct<v1::InvalidateRemoteRequest>(
      b, noun, "invalidate-remote", "Throw the peer's data away and send it from here",
      "InvalidateRemote", [&s](const v1::InvalidateRemoteRequest& r) {
        return s.Confirm(fmt::format("The peer's data of volume {}/{} is thrown away{}",
                                     r.resource(), r.number(),
                                     r.only_marked() ? ", where blocks are marked" : ""));
      });
  Flag(invalidate.verb, "--only-marked", invalidate.request, "only_marked", kOnlyMarkedHelp);
  Field(invalidate.verb, "--volume", invalidate.request, "number", "Volume number (0)");
  auto pause =
      AddConnectionAct<v1::PauseSyncRequest>(b, noun, "pause-sync", "Pause the sync", "PauseSync");
  Field(pause.verb, "--volume", pause.request, "number", "Volume number (0)");
  auto resume = AddConnectionAct<v1::ResumeSyncRequest>(b, noun, "resume-sync",
                                                        "Let the sync go on", "ResumeSync");
  Field(resume.verb, "--volume", resume.request, "number", "Volume number (0)");
  auto verify = AddConnectionAct<v1::StartVerifyRequest>(
      b, noun, "verify", "Compare a volume with the peer's, while it is in use", "StartVerify");
  Field(verify.verb, "--volume", verify.request, "number", "Volume number (0)");
  Field(verify.verb, "--start", verify.request, "start_bytes",
        "Offset, as 1GiB (where the last one got to, or 0)");
  Field(verify.verb, "--stop", verify.request, "stop_bytes",
        "Offset of the end (that of the volume)");
  auto stop = AddConnectionAct<v1::StopVerifyRequest>(b, noun, "stop-verify", "Stop the verify",
                                                      "StopVerify");
  Field(stop.verb, "--volume", stop.request, "number", "Volume number (0)");
}

}  // namespace

void AddNetOptions(CLI::App* verb, const MessagePtr& message, const std::string& prefix) {
  struct Option {
    const char* field;
    const char* help;
  };
  static constexpr Option kNet[] = {
      {"protocol", "A, B or C (C)"},
      {"cram_hmac_alg", "HMAC of the authentication (sha256 with a secret)"},
      {"data_integrity_alg", "Digest over data packets (none)"},
      {"verify_alg", "Digest of online verify (none)"},
      {"csums_alg", "Digest by which a sync skips equal blocks (none)"},
      {"csums_after_crash_only", "Only after a crash as Primary (no)"},
      {"timeout", "A silent peer is gone (6s)"},
      {"ko_count", "Timeouts until a write gives a peer up (7)"},
      {"ping_int", "Idle time before a ping (10s)"},
      {"ping_timeout", "Answer to a ping (500ms)"},
      {"connect_int", "Pause between attempts (10s)"},
      {"socket_check_timeout", "A fresh socket proves itself (ping-timeout)"},
      {"max_epoch_size", "Writes between barriers (2048)"},
      {"max_buffers", "Pages of 4 KiB in flight (2048)"},
      {"sndbuf_size", "TCP send buffer (autotuning)"},
      {"rcvbuf_size", "TCP receive buffer (autotuning)"},
      {"on_congestion", "Peer does not keep up: Block, PullAhead or Disconnect (Block)"},
      {"congestion_fill", "Bytes in flight that are congestion (not counted)"},
      {"congestion_extents", "Activity log extents in use that are congestion (1237)"},
      {"use_rle", "Compress bitmaps (yes)"},
      {"allow_two_primaries", "Both nodes may be Primary (no)"},
      {"always_asbp", "Always apply split-brain policies (no)"},
      {"after_sb_0pri", "Split brain, no Primary (Disconnect)"},
      {"after_sb_1pri", "Split brain, one Primary (Disconnect)"},
      {"after_sb_2pri", "Split brain, two Primaries (Disconnect)"},
      {"rr_conflict", "Handshake conflicts with roles (Disconnect)"},
      {"fencing",
       "A Primary lost the peer: DontCare, ResourceOnly, ResourceAndStonith (DontCare)"}};
  static constexpr Option kResync[] = {
      {"resync_rate", "Fixed rate, KiB/s, with c-plan-ahead 0 (250)"},
      {"c_plan_ahead", "Controller's horizon, 0.1 s (20)"},
      {"c_delay_target", "Controller's delay target, 0.1 s (10)"},
      {"c_fill_target", "Controller's fill target, sectors (100)"},
      {"c_max_rate", "Fastest sync, KiB/s (102400)"},
      {"c_min_rate", "Slowest sync beside other I/O, KiB/s (250)"}};
  const auto add = [&](const std::string& path, const Option& option, const char* group) {
    std::string flag = std::string("--") + option.field;
    std::replace(flag.begin(), flag.end(), '_', '-');
    Field(verb, flag, message, path + option.field, option.help)->group(group);
  };
  for (const Option& option : kNet) add(prefix + "net.", option, "Net options");
  for (const Option& option : kResync) add(prefix + "resync.", option, "Sync options");
}

Result<std::string> ReadSecretFile(Session& session, const std::string& path) {
  std::string line;
  if (path == "-") {
    std::getline(session.io.in, line);
  } else {
    std::ifstream file(path);
    if (!file) return MakeError(ErrorCode::kNotFound, "the file '{}' cannot be read", path);
    std::getline(file, line);
  }
  if (line.empty()) {
    return MakeError(ErrorCode::kInvalidArgument, "the first line of '{}' holds no secret", path);
  }
  return line;
}

void AddConnectionCommands(const Builder& builder) {
  CLI::App* noun =
      builder.Noun("connection", "Links to peers, their paths, and the sync over them");
  AddCreate(builder, noun);
  AddLooking(builder, noun);
  AddChanging(builder, noun);
  AddActs(builder, noun);
}

}  // namespace umblock::ctl
