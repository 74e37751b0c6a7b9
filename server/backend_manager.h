// BackendManager: the node's backends, and who uses each.
//
// A claim is a use that is declared: it holds while the backend cannot be opened, and keeps it from
// being deleted. A volume claims exclusively; fronts share. A backend that cannot be opened at
// start stays, with its reason, and is tried again. Threading: the node's reactor.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "server/engine.h"
#include "server/node_parts.h"
#include "server/patient_group.h"
#include "umblock/v1/backend.pb.h"

namespace umblock::server {

class BackendManager {
 public:
  explicit BackendManager(NodeParts parts);
  ~BackendManager();

  Task<Result<v1::Backend>> Create(v1::CreateBackendRequest request);
  Task<Result<v1::Backend>> Get(v1::GetBackendRequest request);
  Task<Result<v1::ListBackendsResponse>> List(v1::ListBackendsRequest request);
  Task<Result<v1::Backend>> Resize(v1::ResizeBackendRequest request);
  Task<Result<v1::DeleteBackendResponse>> Delete(v1::DeleteBackendRequest request);

  Status Claim(const std::string& name, const std::string& user, bool exclusive);
  void Release(const std::string& name, const std::string& user);
  bool IsClaimedBy(const std::string& name, const std::string& user) const;
  // kUnavailable with the reason while it is not open. Valid while the caller has a claim.
  Result<BlockDevice*> Device(const std::string& name) const;

  // It may have grown: look, and let its user know.
  Task<Status> LookAgain(const std::string& name);

  // Names from the configuration first, so that claims can be made; Retry opens what is not open.
  void Restore();
  Task<void> Retry();
  // Nothing uses a backend any more.
  Task<void> Stop();

  std::vector<v1::Backend> All() const;
  void AddProblems(std::vector<NodeProblem>* problems) const;

  // Gives a function that refuses paths that must not be opened (those on our own exports); it is
  // called on a blocking thread.
  using PathCheck = std::function<Status(const std::string& path)>;
  std::function<PathCheck()> make_path_check;
  // Called when a backend is about to be forgotten: edits the stored state that still names it,
  // and what is kept in memory once that is stored.
  std::function<void(StoredState&, const std::string&)> on_forget_stored;
  std::function<void(const std::string&)> on_forgotten;

 private:
  struct Entry;

  Entry* Find(const std::string& name) const;
  Task<Status> Open(std::shared_ptr<Entry> entry);
  Task<Status> Grow(std::shared_ptr<Entry> entry, uint64_t bytes);
  v1::Backend Describe(const Entry& entry) const;
  void Publish(const Entry& entry);
  Task<void> OpenAgain(std::shared_ptr<Entry> entry);

  NodeParts parts_;
  std::map<std::string, std::shared_ptr<Entry>> entries_;
  PatientGroup retries_;
};

}  // namespace umblock::server
