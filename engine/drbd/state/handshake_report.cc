#include "engine/drbd/state/handshake_report.h"

#include <fmt/format.h>

#include "engine/drbd/wire/constants.h"

namespace umblock::drbd {
namespace {

std::string_view DirectionText(SyncDirection direction) {
  switch (direction) {
    case SyncDirection::kNone:
      return "no resync is needed";
    case SyncDirection::kSource:
      return "this node is the source of a resync";
    case SyncDirection::kTarget:
      return "this node is the target of a resync";
  }
  return "?";
}

std::string BitmapText(const SyncDecision& d) {
  switch (d.bitmap) {
    case BitmapAction::kNone:
      return d.direction == SyncDirection::kNone ? "" : ", of the blocks marked in the bitmap";
    case BitmapAction::kSetAll:
      return ", of the whole device";
    case BitmapAction::kCopyFrom:
      return fmt::format(", of the blocks tracked for node {}", d.node);
    case BitmapAction::kClear:
      return fmt::format(", of the blocks the source tracks for node {}", d.node);
  }
  return "";
}

struct Reason {
  std::string_view what;
  std::string_view way_out;
};

Reason ReasonOf(SyncReason reason) {
  switch (reason) {
    case SyncReason::kUnrelatedData:
      return {"the two disks hold unrelated data",
              "invalidate one of them if they are meant to be the same volume"};
    case SyncReason::kRequiresProtocol:
      return {"the peer's protocol is too old for this situation", "upgrade the peer"};
    case SyncReason::kHandshakeChanged:
      return {"this node's data generation changed during the handshake",
              "none is needed: it is tried again by itself"};
    case SyncReason::kMissedFinishUnclear:
      return {"the end of an earlier resync was missed and this peer would judge it differently",
              "none is needed: it is tried again by itself; upgrade the peer if that lasts"};
    case SyncReason::kSplitBrain:
      return {"both sides were changed independently (split brain)",
              "connect with discard-my-data on the side whose changes shall be lost"};
    case SyncReason::kPrimaryWouldBeTarget:
      return {"this Primary would have to take over the peer's data",
              "demote it first or set rr-conflict"};
    case SyncReason::kDryRun:
      return {"only a dry run was asked for", "connect without it"};
    case SyncReason::kNone:
      break;
  }
  return {};
}

std::string RuleText(const SyncDecision& d) {
  std::string text = fmt::format("{} gave {}", SyncRuleName(d.comparison.rule),
                                 SyncOutcomeName(d.comparison.outcome));
  if (d.outcome != d.comparison.outcome) {
    text += fmt::format(", changed to {}", SyncOutcomeName(d.outcome));
    if (d.by_disk_state) text += " by the disk states";
    if (d.by_quorum) text += " by quorum";
    if (d.by_split_brain_policy) text += " by the after-split-brain policy";
    if (d.by_discard_my_data) text += " by discard-my-data";
    if (d.by_rr_conflict) text += " by rr-conflict";
    if (d.rule != d.comparison.rule) text += fmt::format(" by rule {}", SyncRuleName(d.rule));
  }
  if (d.by_role) text += ", directed by who is Primary";
  if (d.required_protocol != 0) text += fmt::format(", needs protocol {}", d.required_protocol);
  return text;
}

std::string FlagsText(uint64_t flags) {
  static constexpr std::pair<uint64_t, std::string_view> kNames[] = {
      {wire::kUuidFlagDiscardMyData, "discard-my-data"},
      {wire::kUuidFlagCrashedPrimary, "crashed-primary"},
      {wire::kUuidFlagInconsistent, "inconsistent"},
      {wire::kUuidFlagSkipInitialSync, "skip-initial-sync"},
      {wire::kUuidFlagNewDatagen, "new-generation"},
      {wire::kUuidFlagStable, "stable"},
      {wire::kUuidFlagGotStable, "got-stable"},
      {wire::kUuidFlagResync, "resync"},
      {wire::kUuidFlagReconnect, "reconnect"},
      {wire::kUuidFlagDisklessPrimary, "diskless-primary"},
      {wire::kUuidFlagPrimaryLostQuorum, "primary-lost-quorum"},
      {wire::kUuidFlagSyncTarget, "sync-target"},
      {wire::kUuidFlagHasUnalloc, "unallocated-slot"}};
  std::string text;
  for (const auto& [flag, name] : kNames) {
    if ((flags & flag) != 0) text += fmt::format(", {}", name);
    flags &= ~flag;
  }
  if (flags != 0) text += fmt::format(", flags {:X}", flags);
  return text;
}

std::string SideText(uint64_t current, uint64_t bitmap, Role role, DiskState disk, uint64_t bits,
                     uint64_t flags) {
  return fmt::format("{:016X}:{:016X} {} {}, {} blocks of 4 KiB marked{}", current, bitmap,
                     RoleName(role), DiskStateName(disk), bits, FlagsText(flags));
}

}  // namespace

HandshakeReport Report(const SyncInput& in, const SyncDecision& d) {
  const CompareInput& c = in.compare;
  HandshakeReport report;
  if (d.verdict == SyncVerdict::kProceed) {
    report.verdict = "proceed";
    report.result = fmt::format("{}{}", DirectionText(d.direction), BitmapText(d));
  } else {
    const Reason reason = ReasonOf(d.reason);
    report.verdict = d.verdict == SyncVerdict::kRetry ? "retry" : "disconnect";
    report.result = reason.what;
    report.way_out = reason.way_out;
  }
  report.rule = RuleText(d);
  report.own = SideText(c.own_current, c.own->bitmap(c.peer_node).uuid, in.own_role, in.own_disk,
                        in.own_bits, c.own_flags);
  report.peer = SideText(c.peer->current, c.peer->BitmapFor(in.own_node), in.peer_role,
                         in.peer_disk, in.peer_bits, c.peer->flags);
  report.peer_node = c.peer_node;
  return report;
}

std::string HandshakeReport::Line() const {
  std::string text = verdict == "proceed" ? result : fmt::format("{}: {}", verdict, result);
  if (!way_out.empty()) text += fmt::format("; way out: {}", way_out);
  return text + fmt::format("; rule {}; here {}; node {} {}", rule, own, peer_node, peer);
}

}  // namespace umblock::drbd
