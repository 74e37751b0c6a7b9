// `umctl resource create` with --volume and --peer: a whole resource in one command.
#pragma once

#include <string>
#include <vector>

#include "ctl/session.h"
#include "umblock/v1/connection.pb.h"
#include "umblock/v1/resource.pb.h"
#include "umblock/v1/volume.pb.h"

namespace umblock::ctl {

struct WholeResource {
  v1::ResourceSpec spec;
  std::vector<v1::VolumeSpec> volumes;
  std::vector<v1::ConnectionSpec> peers;
  uint32_t max_peers = 0;  // 0: as many as there are peers, at least 1
  bool connect = true;
};

// "0:backend=disk0,metadata=meta0,size=1GiB"; without a backend: "0".
Result<v1::VolumeSpec> ParseVolumeArgument(const std::string& text);
// "1,name=n2,local=10.0.0.1:7789,remote=10.0.0.2:7789"; more local/remote pairs are more paths.
Result<v1::ConnectionSpec> ParsePeerArgument(const std::string& text);

// Resource, volumes (with metadata if blank, attached), peers (connecting). If a step fails, what
// was made is removed again and the error says which step it was.
Status CreateWhole(Session& session, const WholeResource& whole);

}  // namespace umblock::ctl
