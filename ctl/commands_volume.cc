// umctl backend …, umctl volume …, umctl metadata …
#include "ctl/act_command.h"
#include "ctl/status_command.h"
#include "umblock/v1/backend.pb.h"
#include "umblock/v1/event.pb.h"
#include "umblock/v1/volume.pb.h"

namespace umblock::ctl {
namespace {

void AddDiskOptions(CLI::App* verb, const MessagePtr& message, const std::string& prefix) {
  const auto add = [&](const char* flag, const char* field, const char* help) {
    Field(verb, flag, message, prefix + field, help)->group("Disk options");
  };
  add("--al-extents", "al_extents", "Extents of 4 MiB in the activity log, 67 to 65534 (1237)");
  add("--al-updates", "al_updates", "Keep the activity log (yes)");
  add("--disk-flushes", "disk_flushes", "Flush the backing device (yes)");
  add("--md-flushes", "md_flushes", "Flush the metadata device (yes)");
  add("--on-io-error", "on_io_error", "Detach, PassOn or CallLocalIoError (Detach)");
  add("--rs-discard-granularity", "rs_discard_granularity_bytes",
      "Unit of a thin resync, up to 1 MiB (0: all data is fetched)");
  add("--disk-timeout", "disk_timeout", "A disk that takes longer has failed (0: never)");
}

template <typename Request>
Act<Request> AddVolumeAct(const Builder& b, CLI::App* noun, const char* name, const char* help,
                          const char* method,
                          const std::function<Status(const Request&)>& before = {}) {
  auto act = AddAct<v1::Volume, Request>(b, noun, name, help,
                                         std::string("VolumeService.") + method, before);
  SlashPositional(act.verb, "VOLUME", act.request, "resource", "number",
                  "Resource and volume number");
  return act;
}

void AddVolumeCreate(const Builder& b, CLI::App* noun) {
  Session& s = b.session;
  auto request = std::make_shared<v1::CreateVolumeRequest>();
  CLI::App* verb = b.Verb(noun, "create", "Add a volume to a resource", [&s, request]() -> Status {
    v1::Volume volume;
    return s.Act("VolumeService.CreateVolume", *request, &volume);
  });
  SlashPositional(verb, "VOLUME", request, "spec.resource", "spec.number",
                  "Resource and volume number");
  Field(verb, "--size", request, "spec.size_bytes", "Size that fronts see (as large as it gets)");
  Field(verb, "--backend", request, "spec.backend", "Backend to attach at once");
  Field(verb, "--metadata-backend", request, "spec.metadata_backend",
        "Backend of the metadata (internal)");
  Flag(verb, "--create-metadata", request, "create_metadata_if_blank",
       "Write metadata first if the backend is blank");
  Field(verb, "--max-peers", request, "max_peers", "Bitmap slots of that metadata, 1 to 31 (1)");
  AddDiskOptions(verb, request, "spec.disk.");
  verb->footer("Example:\n  umctl volume create r0/0 --backend disk0 --create-metadata");
}

void AddVolumeLooking(const Builder& b, CLI::App* noun) {
  Session& s = b.session;
  AddVolumeAct<v1::GetVolumeRequest>(b, noun, "get", "Show one volume", "GetVolume")
      .verb->alias("show");
  auto list = std::make_shared<v1::ListVolumesRequest>();
  auto watch = std::make_shared<bool>(false);
  CLI::App* verb = b.Verb(noun, "list", "List volumes", [&s, list, watch]() -> Status {
    v1::ListVolumesResponse response;
    UMBLOCK_TRY(s.Act("VolumeService.ListVolumes", *list, &response));
    return *watch ? FollowEvents(s, list->resource(), "volume ") : Ok();
  });
  Field(verb, "RESOURCE", list, "resource", "Only this resource's");
  verb->add_flag("-w,--watch", *watch, "Then print what changes");
}

void AddMetadata(const Builder& b, CLI::App* noun, const char* name) {
  Session& s = b.session;
  auto request = std::make_shared<v1::CreateMetadataRequest>();
  CLI::App* verb =
      b.Verb(noun, name, "Write fresh metadata for a volume", [&s, request]() -> Status {
        if (request->force()) {
          UMBLOCK_TRY(s.Confirm("A file system or metadata on the backend is overwritten"));
        }
        v1::CreateMetadataResponse response;
        UMBLOCK_TRY(s.Act("VolumeService.CreateMetadata", *request, &response));
        s.PrintDone(fmt::format("metadata of volume {}/{} created", request->resource(),
                                request->number()));
        return Ok();
      });
  SlashPositional(verb, "VOLUME", request, "resource", "number", "Resource and volume number");
  Field(verb, "--backend", request, "backend", "Backend of the data (the volume's)");
  Field(verb, "--metadata-backend", request, "metadata_backend",
        "Backend of the metadata (the volume's, or internal)");
  Field(verb, "--max-peers", request, "max_peers", "Bitmap slots, 1 to 31 (1)");
  Flag(verb, "--force", request, "force", "Overwrite a file system or metadata");
}

void AddVolumeUpdate(const Builder& b, CLI::App* noun) {
  Session& s = b.session;
  auto update = std::make_shared<v1::UpdateVolumeRequest>();
  auto reset = std::make_shared<bool>(false);
  CLI::App* verb = b.Verb(noun, "update", kUpdateHelp, [&s, update, reset]() -> Status {
    v1::Volume volume;
    if (!*reset) {
      v1::GetVolumeRequest get;
      get.set_resource(update->resource());
      get.set_number(update->number());
      UMBLOCK_TRY(s.Call("VolumeService.GetVolume", get, &volume));
      KeepOthers(volume.spec().disk(), update->mutable_disk());
    }
    return s.Act("VolumeService.UpdateVolume", *update, &volume);
  });
  SlashPositional(verb, "VOLUME", update, "resource", "number", "Resource and volume number");
  AddDiskOptions(verb, update, "disk.");
  AddReset(verb, reset);
}

void AddVolumeActs(const Builder& b, CLI::App* noun) {
  Session& s = b.session;
  auto attach = AddVolumeAct<v1::AttachRequest>(b, noun, "attach",
                                                "Attach a backend; also after a restart", "Attach");
  Field(attach.verb, "--backend", attach.request, "backend", "Backend of the data (the volume's)");
  Field(attach.verb, "--metadata-backend", attach.request, "metadata_backend",
        "Backend of the metadata (the volume's, or internal)");
  Flag(attach.verb, "--force", attach.request, "force",
       "Even if it is not the disk that was attached last");
  auto detach = AddVolumeAct<v1::DetachRequest>(
      b, noun, "detach", "Detach the backend; also after a restart", "Detach",
      [&s](const v1::DetachRequest& r) -> Status {
        return r.force() ? s.Confirm("Requests on the disk may be lost, and so may the last copy")
                         : Ok();
      });
  Flag(detach.verb, "--force", detach.request, "force",
       "Do not wait for requests, even for the last copy");
  auto invalidate = AddVolumeAct<v1::InvalidateRequest>(
      b, noun, "invalidate", "Throw the local data away and fetch it from a peer", "Invalidate",
      [&s](const v1::InvalidateRequest& r) {
        return s.Confirm(fmt::format("The data of {}/{} on this node is thrown away{}",
                                     r.resource(), r.number(),
                                     r.only_marked() ? ", where blocks are marked" : ""));
      });
  Flag(invalidate.verb, "--only-marked", invalidate.request, "only_marked", kOnlyMarkedHelp);
  Field(invalidate.verb, "--from", invalidate.request, "peer_node_id",
        "Node id of the peer (any that has the data)");
  AddVolumeAct<v1::OutdateRequest>(b, noun, "outdate", "Mark the local data as older", "Outdate");
  auto uuid = AddVolumeAct<v1::NewCurrentUuidRequest>(
      b, noun, "new-current-uuid", "Start a new generation of the data", "NewCurrentUuid",
      [&s](const v1::NewCurrentUuidRequest& r) -> Status {
        return r.force() ? s.Confirm("A peer that writes meanwhile is a split brain then") : Ok();
      });
  Flag(uuid.verb, "--clear-bitmap", uuid.request, "clear_bitmap",
       "Fresh volumes, connected: declare all disks equal and skip the first sync");
  Flag(uuid.verb, "--force", uuid.request, "force", "Also on a Secondary without a connected peer");
  auto resize = AddVolumeAct<v1::ResizeVolumeRequest>(
      b, noun, "resize", "Give it a new size on all connected nodes", "ResizeVolume",
      [&s](const v1::ResizeVolumeRequest& r) -> Status {
        if (!r.shrink()) return Ok();
        return s.Confirm(
            fmt::format("What {}/{} holds beyond the new size is lost", r.resource(), r.number()));
      });
  Field(resize.verb, "--size", resize.request, "size_bytes",
        "Size, as 20GiB (as large as the smallest backend allows)");
  Flag(resize.verb, "--assume-clean", resize.request, "assume_clean",
       "Do not synchronise what is new: it is equal everywhere");
  Flag(resize.verb, "--assume-peer-has-space", resize.request, "assume_peer_has_space",
       "Grow although a peer is not connected");
  Flag(resize.verb, "--shrink", resize.request, "shrink", "Allow a smaller size");
  resize.verb->footer(
      "Example, on both nodes and then on one of them:\n  umctl backend resize disk0 --size 20GiB\n"
      "  umctl volume resize r0/0");
  auto forget = AddVolumeAct<v1::ForgetPeerRequest>(
      b, noun, "forget-peer",
      "Free the bitmap slot of a former peer; if it comes back, all is sent to it", "ForgetPeer");
  Field(forget.verb, "NODE_ID", forget.request, "peer_node_id", "Node id of the former peer")
      ->required();
  auto remove = std::make_shared<v1::DeleteVolumeRequest>();
  CLI::App* verb =
      b.Verb(noun, "delete", "Remove a volume that is detached", [&s, remove]() -> Status {
        v1::DeleteVolumeResponse response;
        UMBLOCK_TRY(s.Act("VolumeService.DeleteVolume", *remove, &response));
        s.PrintDone(fmt::format("volume {}/{} deleted", remove->resource(), remove->number()));
        return Ok();
      });
  SlashPositional(verb, "VOLUME", remove, "resource", "number", "Resource and volume number");
}

}  // namespace

void AddBackendCommands(const Builder& b) {
  Session& s = b.session;
  CLI::App* noun = b.Noun("backend", "Where bytes are kept: files, block devices, memory");
  auto create = std::make_shared<v1::CreateBackendRequest>();
  CLI::App* verb =
      b.Verb(noun, "create", "Open a backend; also after a restart", [&s, create]() -> Status {
        v1::Backend backend;
        return s.Act("BackendService.CreateBackend", *create, &backend);
      });
  Positional(verb, "BACKEND", create, "spec.name", "Name");
  Field(verb, "--path", create, "spec.path", "Absolute path of the file or block device")
      ->required();
  Field(verb, "--kind", create, "spec.kind", "File or Ram (File)");
  Field(verb, "--size", create, "spec.size_bytes", "Size, as 1GiB");
  Flag(verb, "--create", create, "spec.create", "Make a sparse file of that size if none is there");
  verb->footer(
      "Example:\n  umctl backend create disk0 --path /var/lib/umblock/disk0.img --size 1GiB "
      "--create");

  auto get = std::make_shared<v1::GetBackendRequest>();
  verb = b.Verb(noun, "get", "Show one backend", [&s, get]() -> Status {
    v1::Backend backend;
    return s.Act("BackendService.GetBackend", *get, &backend);
  });
  verb->alias("show");
  Positional(verb, "BACKEND", get, "name", "Name");
  auto watch = std::make_shared<bool>(false);
  verb = b.Verb(noun, "list", "List backends", [&s, watch]() -> Status {
    v1::ListBackendsResponse response;
    UMBLOCK_TRY(s.Act("BackendService.ListBackends", v1::ListBackendsRequest(), &response));
    return *watch ? FollowEvents(s, {}, "backend ") : Ok();
  });
  verb->add_flag("-w,--watch", *watch, "Then print what changes");
  auto resize = AddAct<v1::Backend, v1::ResizeBackendRequest>(
      b, noun, "resize", "Make a backend larger, in use or not", "BackendService.ResizeBackend");
  Positional(resize.verb, "BACKEND", resize.request, "name", "Name");
  Field(resize.verb, "--size", resize.request, "size_bytes",
        "New size, as 20GiB (as large as it has become)");
  auto remove = std::make_shared<v1::DeleteBackendRequest>();
  verb = b.Verb(noun, "delete", "Close and forget a backend; its bytes stay",
                [&s, remove]() -> Status {
                  v1::DeleteBackendResponse response;
                  UMBLOCK_TRY(s.Act("BackendService.DeleteBackend", *remove, &response));
                  s.PrintDone("backend " + remove->name() + " deleted");
                  return Ok();
                });
  Positional(verb, "BACKEND", remove, "name", "Name");
}

void AddVolumeCommands(const Builder& builder) {
  CLI::App* noun = builder.Noun("volume", "Volumes of resources and the disks below them");
  AddVolumeCreate(builder, noun);
  AddVolumeLooking(builder, noun);
  AddMetadata(builder, noun, "create-metadata");
  AddVolumeUpdate(builder, noun);
  AddVolumeActs(builder, noun);
  AddMetadata(builder, builder.Noun("metadata", "DRBD metadata of volumes"), "create");
}

}  // namespace umblock::ctl
