// Between the API's messages and the engine's values. Specs are checked on the way in: whatever a
// client sends becomes a value within the engine's limits, or an error that says which field is
// wrong and what is allowed.
#pragma once

#include <string>

#include "engine/base/error.h"
#include "engine/drbd/config.h"
#include "engine/drbd/status.h"
#include "server/engine.h"
#include "umblock/v1/backend.pb.h"
#include "umblock/v1/common.pb.h"
#include "umblock/v1/connection.pb.h"
#include "umblock/v1/resource.pb.h"
#include "umblock/v1/target.pb.h"
#include "umblock/v1/volume.pb.h"

namespace umblock::server {

Result<BackendSetup> ToBackendSetup(const v1::BackendSpec& spec);
Result<drbd::ResourceOptions> ToResourceOptions(const v1::ResourceOptions& options);
Result<drbd::HandlerConfig> ToHandlerConfig(const v1::Handlers& handlers);
Result<drbd::ResourceConfig> ToResourceConfig(const v1::ResourceSpec& spec);
Result<drbd::DiskOptions> ToDiskOptions(const v1::DiskOptions& options);
Result<drbd::VolumeConfig> ToVolumeConfig(const v1::VolumeSpec& spec);
Result<drbd::NetOptions> ToNetOptions(const v1::NetOptions& options, const std::string& secret);
Result<drbd::ResyncOptions> ToResyncOptions(const v1::ResyncOptions& options);
// `secret` stands for spec.net().shared_secret(), which is not looked at.
Result<drbd::PeerConfig> ToPeerConfig(const v1::ConnectionSpec& spec, const std::string& secret);
// Secrets as above.
Result<TargetSetup> ToTargetSetup(const v1::TargetSpec& spec, const std::string& chap_secret,
                                  const std::string& mutual_secret);
Status CheckLunSpec(const v1::LunSpec& spec);
Status CheckBackingRef(const v1::Backing& backing);

// The numbers of the API's enumerations are the engine's, shifted (a test compares all names).
v1::Role::Value ToProto(drbd::Role role);
v1::DiskState::Value ToProto(drbd::DiskState state);
v1::ConnectionState::Value ToProto(drbd::ConnectionState state);
v1::ReplicationState::Value ToProto(drbd::ReplicationState state);

// Fill what is observed; what is configured comes from elsewhere.
void FillVolumeStatus(const drbd::VolumeStatus& from, v1::VolumeStatus* to);
void FillConnectionStatus(const std::string& resource, const drbd::ConnectionStatus& from,
                          v1::Connection* to);
void FillResourceStatus(const drbd::ResourceStatus& from, v1::ResourceStatus* to);

}  // namespace umblock::server
