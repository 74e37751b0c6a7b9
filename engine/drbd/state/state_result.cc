#include "engine/drbd/state/state_result.h"

#include <array>

namespace umblock::drbd {
namespace {

struct Entry {
  StateResult code;
  std::string_view name;
  std::string_view text;
  std::string_view remedy;
  ErrorCode error;
};

constexpr std::array kEntries = {
    Entry{StateResult::kCwNoNeed, "CW_NO_NEED", "The cluster is in that state already", "",
          ErrorCode::kInternal},
    Entry{StateResult::kCwSuccess, "CW_SUCCESS", "Done on all nodes", "", ErrorCode::kInternal},
    Entry{StateResult::kNothingToDo, "NOTHING_TO_DO", "Nothing changes by that", "",
          ErrorCode::kInternal},
    Entry{StateResult::kSuccess, "SUCCESS", "Done", "", ErrorCode::kInternal},
    Entry{StateResult::kUnknownError, "UNKNOWN_ERROR", "The reason is not known", "Read the log.",
          ErrorCode::kInternal},
    Entry{StateResult::kTwoPrimaries, "TWO_PRIMARIES",
          "Another node is Primary, and the connection allows one only",
          "Demote the other Primary first, or set allow-two-primaries on the connection.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNoUpToDateDisk, "NO_UP_TO_DATE_DISK", "No UpToDate data can be reached",
          "Connect a node with an UpToDate disk, or promote with force if this data is the one "
          "to keep.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNoLocalDisk, "NO_LOCAL_DISK",
          "A resync needs a disk here, and there is none", "Attach the disk first.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNoRemoteDisk, "NO_REMOTE_DISK",
          "A resync needs a disk at the peer, and there is none",
          "Attach the disk on the peer first.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kConnectedOutdates, "CONNECTED_OUTDATES",
          "Data of a node that is connected to a Primary is not outdated",
          "Disconnect from the Primary first.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kPrimaryNop, "PRIMARY_NOP",
          "The fencing policy forbids a Primary while the peer may have newer data",
          "Fence or outdate the peer, connect it, or promote with force.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kResyncRunning, "RESYNC_RUNNING", "A resync or verify runs already",
          "Wait for the running resync or verify to end.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kAlreadyStandalone, "ALREADY_STANDALONE",
          "The connection is StandAlone already", "Nothing is left to do.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kCwFailedByPeer, "CW_FAILED_BY_PEER", "A peer refused the change",
          "The peer's log names its reason.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kIsDiskless, "IS_DISKLESS",
          "The volume has no disk attached, and this needs one", "Attach a disk first.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kDeviceInUse, "DEVICE_IN_USE", "The volume is open",
          "Close it everywhere (log out initiators, unmount), or use force.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNoNetConfig, "NO_NET_CONFIG", "The connection is not configured",
          "Configure the connection first.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNoVerifyAlg, "NO_VERIFY_ALG",
          "An online verify needs an algorithm, and none is set",
          "Set verify-alg on the connection.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNeedConnection, "NEED_CONNECTION", "This needs a connection to the peer",
          "Connect the peer first.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kLowerThanOutdated, "LOWER_THAN_OUTDATED", "The data is not even Outdated",
          "There is nothing to outdate.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNotSupported, "NOT_SUPPORTED", "The peer's protocol has no such change",
          "Upgrade the peer.", ErrorCode::kUnimplemented},
    Entry{StateResult::kInTransientState, "IN_TRANSIENT_STATE", "Another change is just under way",
          "Try again in a moment.", ErrorCode::kAborted},
    Entry{StateResult::kConcurrentStateChange, "CONCURRENT_ST_CHG",
          "Two changes met, and this one gave way", "Try again.", ErrorCode::kAborted},
    Entry{StateResult::kOtherVolumePeerPrimary, "O_VOL_PEER_PRI",
          "The peer is Primary with another volume", "Demote the peer first.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kInterrupted, "INTERRUPTED", "Something else changed in between",
          "Try again.", ErrorCode::kCancelled},
    Entry{StateResult::kPrimaryReader, "PRIMARY_READER",
          "A volume is open for reading here, and a new Primary would change what is read",
          "Close the read-only openers here first.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kTimeout, "TIMEOUT", "There was no answer in time",
          "See which node did not answer, and try again.", ErrorCode::kDeadlineExceeded},
    Entry{StateResult::kWeaklyConnected, "WEAKLY_CONNECTED",
          "Two Primary nodes need a connection of their own to each other",
          "Connect the Primary nodes directly.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNoQuorum, "NO_QUORUM", "This node and those it can reach are no majority",
          "Bring back more nodes, or use force if the missing ones are known to be down.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kAttachNoBitmap, "ATTACH_NO_BITMAP",
          "The peer is configured to be without a disk", "Set bitmap to yes for that peer first.",
          ErrorCode::kFailedPrecondition},
    Entry{
        StateResult::kHandshakeDisconnect, "HANDSHAKE_DISCONNECT",
        "The handshake decided against connecting",
        "The decision in the log names the rule; a split brain needs discard-my-data on one side.",
        ErrorCode::kFailedPrecondition},
    Entry{StateResult::kHandshakeRetry, "HANDSHAKE_RETRY", "The handshake decided to try again",
          "It is tried again by itself.", ErrorCode::kUnavailable},
};

const Entry& Find(StateResult result) {
  for (const Entry& entry : kEntries) {
    if (entry.code == result) return entry;
  }
  return kEntries[4];  // kUnknownError
}

}  // namespace

std::string_view StateResultName(StateResult result) { return Find(result).name; }
std::string_view StateResultText(StateResult result) { return Find(result).text; }
std::string_view StateResultRemedy(StateResult result) { return Find(result).remedy; }

std::string StateRefusal::text() const {
  const Entry& entry = Find(code);
  if (detail.empty()) return fmt::format("{}. {}", entry.text, entry.remedy);
  return fmt::format("{} ({}). {}", entry.text, detail, entry.remedy);
}

Error StateRefusal::ToError() const { return Error(Find(code).error, text()); }

}  // namespace umblock::drbd
