// ExportManager: the FUSE front. Without a directory to mount on, exports are refused; those that
// are configured stay, with that as their reason. Threading: the node's reactor.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "server/backings.h"
#include "server/node_parts.h"
#include "umblock/v1/export.pb.h"

namespace umblock::server {

class ExportManager {
 public:
  // `directory` empty: the front is off.
  ExportManager(NodeParts parts, Backings backings, std::string directory);
  ~ExportManager();

  Task<Result<v1::Export>> Create(v1::CreateExportRequest request);
  Task<Result<v1::Export>> Get(v1::GetExportRequest request);
  Task<Result<v1::ListExportsResponse>> List(v1::ListExportsRequest request);
  Task<Result<v1::DeleteExportResponse>> Delete(v1::DeleteExportRequest request);

  // Says kFailedPrecondition for a path on this front's own files. Called on any thread that may
  // block; made and destroyed on the reactor.
  std::function<Status(const std::string& path)> PathCheck() const;

  void Restore();
  // Mounts if that has not been done, and shows what is not shown yet.
  Task<void> Retry();
  Task<void> Stop();
  void Look();

  Task<std::vector<v1::Export>> All();
  void AddProblems(std::vector<NodeProblem>* problems) const;

 private:
  struct Entry;

  Task<Status> NeedMount();
  // Lets go of a mount that somebody else has unmounted, and of all that was open there.
  Task<void> DropLostMount();
  Task<Status> Open(Entry* entry);
  Task<Status> Close(Entry* entry, bool force, AsyncMutex::Lock* lock);
  v1::Export Describe(const Entry& entry) const;

  NodeParts parts_;
  Backings backings_;
  const std::string directory_;
  std::shared_ptr<FuseFront> fuse_;
  std::string mount_problem_;
  bool stopped_ = false;
  AsyncMutex changes_;
  std::map<std::string, std::unique_ptr<Entry>> entries_;
};

}  // namespace umblock::server
