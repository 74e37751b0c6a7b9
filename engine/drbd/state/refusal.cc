#include "engine/drbd/state/refusal.h"

#include <fmt/format.h>

namespace umblock::drbd {
namespace {

constexpr size_t kVolumesShown = 4;  // the rest is counted

std::string Openers(const VolumeState& v) {
  std::string text;
  if (v.read_write_openers != 0) text += fmt::format(" writers {}", v.read_write_openers);
  if (v.read_only_openers != 0) text += fmt::format(" readers {}", v.read_only_openers);
  return text;
}

// `describe` gives the words for one volume.
template <typename Describe>
std::string Volumes(const ResourceState& state, Describe describe) {
  std::string text;
  size_t shown = 0;
  for (const VolumeState& v : state.volumes) {
    if (shown++ == kVolumesShown) {
      return text + fmt::format(", {} more", state.volumes.size() - kVolumesShown);
    }
    text += fmt::format(", volume {} {}", v.number, describe(v));
  }
  return text;
}

}  // namespace

std::string DescribeSides(const ResourceState& state) {
  std::string text =
      fmt::format("here {}{}", RoleName(state.role), Volumes(state, [](const VolumeState& v) {
                    return fmt::format("{}{}{}", DiskStateName(v.disk),
                                       v.have_quorum ? "" : " without quorum", Openers(v));
                  }));
  for (int node : Nodes(state.configured())) {
    const PeerState& peer = state.peer(node);
    text += fmt::format("; node {} {}", node, ConnectionStateName(peer.connection));
    if (!peer.connected()) continue;
    text += fmt::format(" {}{}", RoleName(peer.role), Volumes(state, [&](const VolumeState& v) {
                          return fmt::format("{} {}", DiskStateName(v.peer(node).disk),
                                             ReplicationStateName(v.peer(node).repl));
                        }));
  }
  return text;
}

Error RefusalError(std::string_view act, std::string_view resource, const StateRefusal& refusal,
                   const ResourceState& state) {
  const Error error = refusal.ToError();
  return Error(error.code(),
               fmt::format("{} resource {}: {} [{}: {}]", act, resource, error.message(),
                           StateResultName(refusal.code), DescribeSides(state)));
}

}  // namespace umblock::drbd
