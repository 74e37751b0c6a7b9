// TargetManager: iSCSI portals, targets and LUNs. What cannot be brought back at start stays, with
// its reason, and is tried again. Changes are made one at a time. Threading: the node's reactor.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "server/backings.h"
#include "server/node_parts.h"
#include "umblock/v1/target.pb.h"

namespace umblock::server {

class TargetManager {
 public:
  TargetManager(NodeParts parts, Backings backings, std::string node_name);
  ~TargetManager();

  Task<Result<v1::Portal>> CreatePortal(v1::CreatePortalRequest request);
  Task<Result<v1::ListPortalsResponse>> ListPortals(v1::ListPortalsRequest request);
  Task<Result<v1::DeletePortalResponse>> DeletePortal(v1::DeletePortalRequest request);
  Task<Result<v1::Target>> CreateTarget(v1::CreateTargetRequest request);
  Task<Result<v1::Target>> GetTarget(v1::GetTargetRequest request);
  Task<Result<v1::ListTargetsResponse>> ListTargets(v1::ListTargetsRequest request);
  Task<Result<v1::Target>> UpdateTarget(v1::UpdateTargetRequest request);
  Task<Result<v1::DeleteTargetResponse>> DeleteTarget(v1::DeleteTargetRequest request);
  Task<Result<v1::Lun>> CreateLun(v1::CreateLunRequest request);
  Task<Result<v1::DeleteLunResponse>> DeleteLun(v1::DeleteLunRequest request);

  void Restore();
  Task<void> Retry();
  Task<void> Stop();
  void Look();

  bool available() const { return iscsi_ != nullptr; }
  std::vector<v1::Portal> AllPortals() const;
  std::vector<v1::Target> AllTargets() const;
  void AddProblems(std::vector<NodeProblem>* problems) const;

 private:
  struct PortalEntry;
  struct LunEntry;
  struct TargetEntry;

  Task<Status> NeedIscsi();
  Task<Status> OpenPortal(PortalEntry* portal);
  Task<Status> OpenTarget(TargetEntry* target);
  Task<Status> OpenLun(LunEntry* lun);
  // Fills in what a request left open, once and for all.
  Status Settle(v1::LunSpec* spec) const;
  Status CheckSerialIsFree(const v1::LunSpec& spec) const;
  Task<void> OpenStored(LunEntry* lun);
  v1::Portal Describe(const PortalEntry& portal) const;
  v1::Lun Describe(const LunEntry& lun, const IscsiStatus& status) const;
  v1::Target Describe(const TargetEntry& target, const IscsiStatus& status) const;
  IscsiStatus Observed() const { return iscsi_ ? iscsi_->status() : IscsiStatus(); }

  NodeParts parts_;
  Backings backings_;
  const std::string node_name_;
  std::unique_ptr<IscsiFront> iscsi_;
  bool stopped_ = false;
  AsyncMutex changes_;
  std::map<std::string, std::unique_ptr<PortalEntry>> portals_;
  std::map<std::string, std::unique_ptr<TargetEntry>> targets_;
};

}  // namespace umblock::server
