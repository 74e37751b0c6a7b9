// umctl resource …
#include <fmt/core.h>

#include "ctl/act_command.h"
#include "ctl/one_shot.h"
#include "ctl/status_command.h"

namespace umblock::ctl {
namespace {

void AddResourceOptions(CLI::App* verb, const MessagePtr& message, const std::string& prefix) {
  const auto add = [&](const char* flag, const char* field, const char* help) {
    Field(verb, flag, message, prefix + field, help)->group("Resource options");
  };
  add("--twopc-timeout", "twopc_timeout", "Longest cluster-wide state change (30s)");
  add("--twopc-retry-timeout", "twopc_retry_timeout", "Longest pause before a retry (100ms)");
  add("--peer-ack-window", "peer_ack_window_bytes", "Bytes between peer acks (2MiB)");
  add("--peer-ack-delay", "peer_ack_delay", "Idle time before a peer ack (100ms)");
  add("--strict-flush", "strict_flush", "Flushes wait for peers (yes)");
  add("--max-io-depth", "max_io_depth", "Requests in flight per volume (8000)");
}

void AddCreate(const Builder& b, CLI::App* noun) {
  struct Arguments {
    std::vector<std::string> volumes, peers;
    std::string protocol, secret_file;
    uint32_t max_peers = 0;
    bool no_connect = false;
  };
  auto request = std::make_shared<v1::CreateResourceRequest>();
  auto a = std::make_shared<Arguments>();
  Session& s = b.session;
  CLI::App* verb = b.Verb(noun, "create", "Make a resource, alone or with all that belongs to it",
                          [&s, request, a]() -> Status {
                            WholeResource whole;
                            whole.spec = request->spec();
                            whole.max_peers = a->max_peers;
                            whole.connect = !a->no_connect;
                            std::string secret;
                            if (!a->secret_file.empty()) {
                              auto read = ReadSecretFile(s, a->secret_file);
                              if (!read) return std::unexpected(read.error());
                              secret = *read;
                            }
                            for (const std::string& text : a->volumes) {
                              auto volume = ParseVolumeArgument(text);
                              if (!volume)
                                return std::unexpected(volume.error().Within("--volume"));
                              whole.volumes.push_back(*volume);
                            }
                            for (const std::string& text : a->peers) {
                              auto peer = ParsePeerArgument(text);
                              if (!peer) return std::unexpected(peer.error().Within("--peer"));
                              if (!secret.empty()) peer->mutable_net()->set_shared_secret(secret);
                              if (!a->protocol.empty()) {
                                UMBLOCK_TRY(SetField(&*peer, "net.protocol", a->protocol));
                              }
                              whole.peers.push_back(*peer);
                            }
                            return CreateWhole(s, whole);
                          });
  Positional(verb, "RESOURCE", request, "spec.name", "Name, the same on all nodes");
  Field(verb, "--node-id", request, "spec.node_id",
        "This node's id, 0 to 31, different on each node")
      ->required();
  verb->add_option("--volume", a->volumes, "N[:backend=B][,metadata=B][,size=S]; may be repeated")
      ->type_name("");
  verb->add_option("--peer", a->peers,
                   "ID,name=N,local=ADDR:PORT,remote=ADDR:PORT; may be repeated")
      ->type_name("");
  verb->add_option("--protocol", a->protocol, "A, B or C (C), for all peers")->type_name("");
  verb->add_option("--shared-secret-file", a->secret_file,
                   "File whose first line authenticates the peers (-: standard input)")
      ->type_name("");
  verb->add_option("--max-peers", a->max_peers,
                   "Bitmap slots of new metadata: how many peers there can ever be")
      ->check(CLI::Range(1u, 31u))
      ->type_name("");
  verb->add_flag("--no-connect", a->no_connect, "Leave the peers StandAlone");
  AddResourceOptions(verb, request, "spec.options.");
  verb->footer(
      "Examples:\n"
      "  umctl resource create r0 --node-id 0\n"
      "  umctl resource create r0 --node-id 0 --volume 0:backend=disk0 \\\n"
      "      --peer 1,name=n2,local=10.0.0.1:7789,remote=10.0.0.2:7789 \\\n"
      "      --shared-secret-file /etc/umblock/r0.secret");
}

void AddLooking(const Builder& b, CLI::App* noun) {
  Session& s = b.session;
  auto get = std::make_shared<v1::GetResourceRequest>();
  CLI::App* verb = b.Verb(noun, "get", "Show one resource", [&s, get]() -> Status {
    v1::Resource resource;
    return s.Act("ResourceService.GetResource", *get, &resource);
  });
  verb->alias("show");
  Positional(verb, "RESOURCE", get, "name", "Name");

  auto watch = std::make_shared<bool>(false);
  verb = b.Verb(noun, "list", "List resources", [&s, watch]() -> Status {
    v1::ListResourcesResponse response;
    UMBLOCK_TRY(s.Act("ResourceService.ListResources", v1::ListResourcesRequest(), &response));
    return *watch ? FollowEvents(s, {}, "resource ") : Ok();
  });
  verb->add_flag("-w,--watch", *watch, "Then print what changes");
  AddStatusVerb(b, noun);
}

void AddChanging(const Builder& b, CLI::App* noun) {
  Session& s = b.session;
  auto update = std::make_shared<v1::UpdateResourceRequest>();
  auto reset = std::make_shared<bool>(false);
  CLI::App* verb = b.Verb(noun, "update", kUpdateHelp, [&s, update, reset]() -> Status {
    v1::Resource resource;
    if (!*reset) {
      v1::GetResourceRequest get;
      get.set_name(update->name());
      UMBLOCK_TRY(s.Call("ResourceService.GetResource", get, &resource));
      KeepOthers(resource.spec().options(), update->mutable_options());
    }
    return s.Act("ResourceService.UpdateResource", *update, &resource);
  });
  Positional(verb, "RESOURCE", update, "name", "Name");
  AddReset(verb, reset);
  AddResourceOptions(verb, update, "options.");

  auto remove = std::make_shared<v1::DeleteResourceRequest>();
  verb = b.Verb(noun, "delete", "Remove a resource; data and metadata stay on the backends",
                [&s, remove]() -> Status {
                  if (remove->recursive()) {
                    UMBLOCK_TRY(s.Confirm("This disconnects, detaches and forgets resource " +
                                          remove->name()));
                  }
                  v1::DeleteResourceResponse response;
                  UMBLOCK_TRY(s.Act("ResourceService.DeleteResource", *remove, &response));
                  s.PrintDone("resource " + remove->name() + " deleted");
                  return Ok();
                });
  Positional(verb, "RESOURCE", remove, "name", "Name");
  Flag(verb, "--recursive", remove, "recursive", "With its volumes and connections");
}

template <typename Request>
CLI::App* AddResourceAct(const Builder& b, CLI::App* noun, const char* name, const char* help,
                         const char* method,
                         const std::function<Status(const Request&)>& before = {}) {
  auto [verb, request] = AddAct<v1::Resource, Request>(
      b, noun, name, help, std::string("ResourceService.") + method, before);
  Positional(verb, "RESOURCE", request, "name", "Name");
  if (Request::descriptor()->FindFieldByName("force") != nullptr) {
    Flag(verb, "--force", request, "force", "See the help of this verb");
  }
  return verb;
}

void AddHandlers(const Builder& b, CLI::App* noun) {
  struct Option {
    const char *flag, *field, *help;
  };
  static constexpr Option kOptions[] = {
      {"--fence-peer", "fence_peer",
       "Keep a peer that is out of reach from going on alone; its exit code says how that went"},
      {"--unfence-peer", "unfence_peer", "A peer that was fenced has all data again"},
      {"--before-resync-source", "before_resync_source",
       "Before this node becomes the source of a sync; another exit code than 0 and 3 refuses it"},
      {"--before-resync-target", "before_resync_target",
       "Before this node becomes the target of a sync; another exit code than 0 refuses it"},
      {"--after-resync-target", "after_resync_target", "This node has all data again"},
      {"--initial-split-brain", "initial_split_brain",
       "A split brain was found; a policy may resolve it"},
      {"--split-brain", "split_brain", "A split brain was found and is not resolved"},
      {"--local-io-error", "local_io_error",
       "The disk has failed, and on_io_error is CallLocalIoError"},
      {"--pri-lost", "pri_lost",
       "This Primary would become the target of a sync, and rr_conflict is CallPriLost"},
      {"--pri-lost-after-sb", "pri_lost_after_sb",
       "A split brain was decided against this Primary"},
      {"--pri-on-incon-degr", "pri_on_incon_degr", "This Primary has lost its last UpToDate data"},
      {"--handler-timeout", "timeout", "Longest time of a handler (600s)"}};
  auto [verb, request] = AddAct<v1::Resource, v1::SetHandlersRequest>(
      b, noun, "handlers", "Say which programs run when something happens",
      "ResourceService.SetHandlers");
  Positional(verb, "RESOURCE", request, "name", "Name");
  for (const Option& option : kOptions) {
    Field(verb, option.flag, request, std::string("handlers.") + option.field, option.help)
        ->group("Handlers");
  }
  verb->footer(
      "Each takes the absolute path of an executable on this node; those that are not given are\n"
      "not run any more. umblockd must run with --allow-handlers.\n"
      "Example:\n"
      "  umctl resource handlers r0 --fence-peer /usr/local/sbin/fence-peer");
}

void AddActs(const Builder& b, CLI::App* noun) {
  Session& s = b.session;
  AddResourceAct<v1::PromoteRequest>(
      b, noun, "promote", "Make this node Primary", "Promote",
      [&s](const v1::PromoteRequest& request) -> Status {
        if (!request.force()) return Ok();
        return s.Confirm(
            "Data that is not known to be the newest becomes the newest; what only a "
            "peer has is lost when it comes back");
      })
      ->footer(
          "--force uses data that is not UpToDate. For a fresh resource rather use\n"
          "  umctl volume new-current-uuid r0/0 --clear-bitmap\n"
          "while all nodes are connected: it skips the first sync.");
  AddResourceAct<v1::DemoteRequest>(
      b, noun, "demote", "Make this node Secondary", "Demote",
      [&s](const v1::DemoteRequest& request) -> Status {
        if (!request.force()) return Ok();
        return s.Confirm("Whoever has a volume of " + request.name() + " open gets I/O errors");
      })
      ->footer("--force fails the requests of those who have a volume open.");
  AddResourceAct<v1::SuspendIoRequest>(b, noun, "suspend-io", "Hold requests back", "SuspendIo");
  AddResourceAct<v1::ResumeIoRequest>(b, noun, "resume-io", "Let requests go on", "ResumeIo");
}

}  // namespace

void AddResourceCommands(const Builder& builder) {
  CLI::App* noun = builder.Noun("resource", "Sets of volumes that are replicated together");
  AddCreate(builder, noun);
  AddLooking(builder, noun);
  AddChanging(builder, noun);
  AddHandlers(builder, noun);
  AddActs(builder, noun);
}

}  // namespace umblock::ctl
