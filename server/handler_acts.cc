// ResourceManager's part for handlers.
#include "server/convert.h"
#include "server/handler_files.h"
#include "server/names.h"
#include "server/resource_entry.h"
#include "server/resource_manager.h"
#include "server/run_blocking.h"

namespace umblock::server {
namespace {

bool HasAny(const drbd::HandlerConfig& handlers) {
  return handlers.paths != drbd::HandlerConfig().paths;
}

}  // namespace

Task<Status> ResourceManager::CheckHandlers(drbd::HandlerConfig handlers) {
  if (!HasAny(handlers)) co_return Ok();
  if (!parts_.engine.allows_handlers()) {
    co_return MakeError(ErrorCode::kPermissionDenied,
                        "handlers are programs that umblockd would run, and it was started without "
                        "--allow-handlers: whoever reaches its API could run programs as its user; "
                        "start it with that option if that is meant");
  }
  Status checked = Ok();
  co_await RunBlocking(parts_.reactor, [&] { checked = CheckHandlerFiles(handlers); });
  co_return checked;
}

Task<Result<v1::Resource>> ResourceManager::SetHandlers(v1::SetHandlersRequest request) {
  auto found = Find(request.name());
  if (!found) co_return std::unexpected(found.error());
  ResourceEntryPtr entry = *found;
  auto handlers = ToHandlerConfig(request.handlers());
  if (!handlers) co_return std::unexpected(handlers.error());
  if (Status allowed = co_await CheckHandlers(*handlers); !allowed) {
    co_return std::unexpected(allowed.error());
  }
  auto lock = co_await entry->lifecycle.Acquire();
  if (entry->gone) co_return NoSuchResource(request.name());
  Status stored = co_await parts_.config.Commit([&request](StoredState& state) {
    *FindResource(state, request.name())->mutable_spec()->mutable_handlers() = request.handlers();
  });
  if (!stored) co_return std::unexpected(stored.error());
  if (Status updated = entry->resource->UpdateHandlers(*handlers); !updated) {
    co_return std::unexpected(updated.error());
  }
  *entry->spec.mutable_handlers() = request.handlers();
  Show(*entry, "SetHandlers");
  co_return Describe(*entry);
}

std::string ResourceManager::HandlerProblem(const ResourceEntry& entry) const {
  auto handlers = ToHandlerConfig(entry.spec.handlers());
  if (!handlers || !HasAny(*handlers) || parts_.engine.allows_handlers()) return {};
  return "its handlers do not run: umblockd was started without --allow-handlers";
}

}  // namespace umblock::server
