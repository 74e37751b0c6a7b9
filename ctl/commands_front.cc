// umctl portal …, target …, lun …, export …
#include "ctl/command.h"
#include "ctl/status_command.h"
#include "umblock/v1/export.pb.h"
#include "umblock/v1/target.pb.h"

namespace umblock::ctl {

void AddBacking(CLI::App* verb, const MessagePtr& message, const std::string& path) {
  auto* volume = verb->add_option_function<std::string>(
                         "--volume",
                         [message, path](const std::string& text) {
                           auto parsed = ParseSlashName(text, "");
                           if (!parsed) return;
                           (void)SetField(message.get(), path + ".volume.resource", parsed->name);
                           (void)SetField(message.get(), path + ".volume.number",
                                          std::to_string(parsed->number));
                         },
                         "Present this replicated volume, as r0/0")
                     ->type_name("")
                     ->check([](const std::string& text) -> std::string {
                       auto parsed = ParseSlashName(text, "volume");
                       return parsed ? std::string() : parsed.error().message();
                     });
  auto* backend = Field(verb, "--backend", message, path + ".backend",
                        "Present this backend, without replication");
  volume->excludes(backend);
}

namespace {

void AddPortals(const Builder& b) {
  Session& s = b.session;
  CLI::App* noun = b.Noun("portal", "Addresses that listen for iSCSI initiators");
  auto create = std::make_shared<v1::CreatePortalRequest>();
  CLI::App* verb = b.Verb(noun, "create", "Listen on an address", [&s, create]() -> Status {
    v1::Portal portal;
    return s.Act("TargetService.CreatePortal", *create, &portal);
  });
  Positional(verb, "ADDRESS", create, "spec.address", "As 0.0.0.0:3260");
  b.Verb(noun, "list", "List portals", [&s]() -> Status {
    v1::ListPortalsResponse response;
    return s.Act("TargetService.ListPortals", v1::ListPortalsRequest(), &response);
  });
  auto remove = std::make_shared<v1::DeletePortalRequest>();
  verb = b.Verb(noun, "delete", "Stop listening; sessions go on", [&s, remove]() -> Status {
    v1::DeletePortalResponse response;
    UMBLOCK_TRY(s.Act("TargetService.DeletePortal", *remove, &response));
    s.PrintDone("portal " + remove->address() + " deleted");
    return Ok();
  });
  Positional(verb, "ADDRESS", remove, "address", "As it was given");
}

struct ChapArguments {
  std::string user, file, mutual_user, mutual_file;
};

void AddTargetSpec(CLI::App* verb, const MessagePtr& request,
                   const std::shared_ptr<ChapArguments>& a) {
  Positional(verb, "TARGET", request, "spec.name", "iSCSI name, as iqn.2026-01.com.example:disk");
  Field(verb, "--alias", request, "spec.alias", "For people");
  RepeatedField(verb, "--initiator", request, "spec.initiators",
                "May log in (all); may be repeated");
  verb->add_option("--chap-user", a->user, "Initiators prove themselves")->type_name("");
  verb->add_option("--chap-secret-file", a->file, "First line: 12 to 255 bytes")->type_name("");
  verb->add_option("--mutual-chap-user", a->mutual_user, "The target proves itself")->type_name("");
  verb->add_option("--mutual-chap-secret-file", a->mutual_file, "First line: 12 to 255 bytes")
      ->type_name("");
}

Status TakeChap(Session& s, const ChapArguments& a, v1::TargetSpec* spec) {
  const auto take = [&s](const std::string& user, const std::string& file,
                         v1::ChapSpec* chap) -> Status {
    if (!user.empty()) chap->set_user(user);
    if (file.empty()) return Ok();
    auto secret = ReadSecretFile(s, file);
    if (!secret) return std::unexpected(secret.error());
    chap->set_secret(*secret);
    return Ok();
  };
  if (!a.user.empty() || !a.file.empty()) UMBLOCK_TRY(take(a.user, a.file, spec->mutable_chap()));
  if (!a.mutual_user.empty() || !a.mutual_file.empty()) {
    UMBLOCK_TRY(take(a.mutual_user, a.mutual_file, spec->mutable_mutual_chap()));
  }
  return Ok();
}

void AddTargets(const Builder& b) {
  Session& s = b.session;
  CLI::App* noun = b.Noun("target", "iSCSI targets");
  auto create = std::make_shared<v1::CreateTargetRequest>();
  auto chap = std::make_shared<ChapArguments>();
  CLI::App* verb = b.Verb(noun, "create", "Make a target", [&s, create, chap]() -> Status {
    UMBLOCK_TRY(TakeChap(s, *chap, create->mutable_spec()));
    v1::Target target;
    return s.Act("TargetService.CreateTarget", *create, &target);
  });
  AddTargetSpec(verb, create, chap);
  verb->footer(
      "Example:\n  umctl target create iqn.2026-01.com.example:disk\n"
      "  umctl lun create iqn.2026-01.com.example:disk 0 --volume r0/0");

  auto update = std::make_shared<v1::UpdateTargetRequest>();
  auto new_chap = std::make_shared<ChapArguments>();
  auto reset = std::make_shared<bool>(false);
  verb = b.Verb(noun, "update", kUpdateHelp, [&s, update, new_chap, reset]() -> Status {
    UMBLOCK_TRY(TakeChap(s, *new_chap, update->mutable_spec()));
    v1::Target target;
    if (!*reset) {
      v1::GetTargetRequest get;
      get.set_name(update->spec().name());
      UMBLOCK_TRY(s.Call("TargetService.GetTarget", get, &target));
      KeepOthers(target.spec(), update->mutable_spec());
    }
    return s.Act("TargetService.UpdateTarget", *update, &target);
  });
  AddTargetSpec(verb, update, new_chap);
  AddReset(verb, reset);

  auto get = std::make_shared<v1::GetTargetRequest>();
  verb = b.Verb(noun, "get", "Show one target with its LUNs", [&s, get]() -> Status {
    v1::Target target;
    return s.Act("TargetService.GetTarget", *get, &target);
  });
  verb->alias("show");
  Positional(verb, "TARGET", get, "name", "iSCSI name");
  b.Verb(noun, "list", "List targets", [&s]() -> Status {
    v1::ListTargetsResponse response;
    return s.Act("TargetService.ListTargets", v1::ListTargetsRequest(), &response);
  });
  auto remove = std::make_shared<v1::DeleteTargetRequest>();
  verb = b.Verb(noun, "delete", "Remove a target with its LUNs", [&s, remove]() -> Status {
    if (remove->force()) UMBLOCK_TRY(s.Confirm("Sessions that are logged in are ended"));
    v1::DeleteTargetResponse response;
    UMBLOCK_TRY(s.Act("TargetService.DeleteTarget", *remove, &response));
    s.PrintDone("target " + remove->name() + " deleted");
    return Ok();
  });
  Positional(verb, "TARGET", remove, "name", "iSCSI name");
  Flag(verb, "--force", remove, "force", "End its sessions");
}

void AddLuns(const Builder& b) {
  Session& s = b.session;
  CLI::App* noun = b.Noun("lun", "Disks that iSCSI initiators see");
  auto create = std::make_shared<v1::CreateLunRequest>();
  CLI::App* verb = b.Verb(noun, "create", "Add a LUN to a target", [&s, create]() -> Status {
    v1::Lun lun;
    return s.Act("TargetService.CreateLun", *create, &lun);
  });
  Positional(verb, "TARGET", create, "spec.target", "iSCSI name of the target");
  Positional(verb, "LUN", create, "spec.number", "Logical unit number");
  AddBacking(verb, create, "spec.backing");
  verb->add_option_function<std::string>(
          "--block-size",
          [create](const std::string& text) {
            (void)SetField(create.get(), "spec.block_size", text);
          },
          "512 or 4096 (the backing's own)")
      ->check(CLI::IsMember({"512", "4096"}))
      ->type_name("");
  Flag(verb, "--read-only", create, "spec.read_only", "Refuse writes");
  Field(verb, "--serial", create, "spec.serial",
        "What initiators know the disk by (made from target, LUN and volume)");

  auto remove = std::make_shared<v1::DeleteLunRequest>();
  verb = b.Verb(noun, "delete", "Remove a LUN", [&s, remove]() -> Status {
    if (remove->force()) UMBLOCK_TRY(s.Confirm("Initiators that use the LUN lose it"));
    v1::DeleteLunResponse response;
    UMBLOCK_TRY(s.Act("TargetService.DeleteLun", *remove, &response));
    s.PrintDone(fmt::format("lun {}/{} deleted", remove->target(), remove->number()));
    return Ok();
  });
  Positional(verb, "TARGET", remove, "target", "iSCSI name of the target");
  Positional(verb, "LUN", remove, "number", "Logical unit number");
  Flag(verb, "--force", remove, "force", "Even if a session uses it");
}

void AddExports(const Builder& b) {
  Session& s = b.session;
  CLI::App* noun = b.Noun("export", "Volumes and backends as files (FUSE)");
  auto create = std::make_shared<v1::CreateExportRequest>();
  CLI::App* verb =
      b.Verb(noun, "create", "Present a volume or backend as a file", [&s, create]() -> Status {
        v1::Export item;
        return s.Act("ExportService.CreateExport", *create, &item);
      });
  Positional(verb, "EXPORT", create, "spec.name", "Name of the file");
  AddBacking(verb, create, "spec.backing");
  Flag(verb, "--read-only", create, "spec.read_only", "Refuse to open it for writing");
  verb->footer("Example:\n  umctl export create r0-0 --volume r0/0");
  auto get = std::make_shared<v1::GetExportRequest>();
  verb = b.Verb(noun, "get", "Show one export", [&s, get]() -> Status {
    v1::Export item;
    return s.Act("ExportService.GetExport", *get, &item);
  });
  verb->alias("show");
  Positional(verb, "EXPORT", get, "name", "Name");
  b.Verb(noun, "list", "List exports", [&s]() -> Status {
    v1::ListExportsResponse response;
    return s.Act("ExportService.ListExports", v1::ListExportsRequest(), &response);
  });
  auto remove = std::make_shared<v1::DeleteExportRequest>();
  verb = b.Verb(noun, "delete", "Take the file away", [&s, remove]() -> Status {
    if (remove->force()) UMBLOCK_TRY(s.Confirm("What has the file open loses it"));
    v1::DeleteExportResponse response;
    UMBLOCK_TRY(s.Act("ExportService.DeleteExport", *remove, &response));
    s.PrintDone("export " + remove->name() + " deleted");
    return Ok();
  });
  Positional(verb, "EXPORT", remove, "name", "Name");
  Flag(verb, "--force", remove, "force", "Even if it is open");
}

}  // namespace

void AddFrontCommands(const Builder& builder) {
  AddPortals(builder);
  AddTargets(builder);
  AddLuns(builder);
  AddExports(builder);
}

}  // namespace umblock::ctl
