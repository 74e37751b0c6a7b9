// What umctl shows to people: tables, the status overview, event lines. Pure.
#pragma once

#include <string>
#include <vector>

namespace google::protobuf {
class Message;
}
namespace umblock::v1 {
class Connection;
class Event;
class Node;
class NodeStatus;
class Resource;
}  // namespace umblock::v1

namespace umblock::ctl {

// Columns are as wide as their widest cell; the last one is not padded. No rows: only the header.
std::string FormatTable(const std::vector<std::string>& header,
                        const std::vector<std::vector<std::string>>& rows);

// "64.0 MiB"; exact below one KiB.
std::string FormatBytes(uint64_t bytes);

// A table for an object or a list of the API; empty for messages that say nothing.
std::string RenderMessage(const google::protobuf::Message& message);

struct StatusStyle {
  bool verbose = false;     // node ids, backends, sizes, what is normal too
  bool statistics = false;  // counters
};
// In the manner of `drbdadm status`, with reasons.
std::string RenderStatus(const v1::NodeStatus& status, const StatusStyle& style);

// One line: "change peer-volume r0/1/0 replication: Established -> SyncSource (resync)".
std::string RenderEvent(const v1::Event& event);

// "r0/0 with n2: [#####               ] 25.0% 12.0 MiB/s eta 30s", one per running sync; empty if
// none runs.
std::vector<std::string> RenderProgress(const v1::Resource& resource, int bar_width);

}  // namespace umblock::ctl
