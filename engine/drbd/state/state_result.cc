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
    Entry{StateResult::kCwNoNeed, "CW_NO_NEED", "Cluster wide state change: nothing to do", "",
          ErrorCode::kInternal},
    Entry{StateResult::kCwSuccess, "CW_SUCCESS", "Cluster wide state change succeeded", "",
          ErrorCode::kInternal},
    Entry{StateResult::kNothingToDo, "NOTHING_TO_DO", "No state change", "", ErrorCode::kInternal},
    Entry{StateResult::kSuccess, "SUCCESS", "Success", "", ErrorCode::kInternal},
    Entry{StateResult::kUnknownError, "UNKNOWN_ERROR", "Unknown error", "Read the log.",
          ErrorCode::kInternal},
    Entry{StateResult::kTwoPrimaries, "TWO_PRIMARIES", "Multiple primaries not allowed by config",
          "Demote the other Primary first, or set allow-two-primaries on the connection.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNoUpToDateDisk, "NO_UP_TO_DATE_DISK", "Need access to UpToDate data",
          "Connect a node with an UpToDate disk, or promote with force if this data is the one "
          "to keep.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNoLocalDisk, "NO_LOCAL_DISK", "Can not resync without local disk",
          "Attach the disk first.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNoRemoteDisk, "NO_REMOTE_DISK", "Can not resync without remote disk",
          "Attach the disk on the peer first.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kConnectedOutdates, "CONNECTED_OUTDATES",
          "Refusing to be Outdated while Connected", "Disconnect from the Primary first.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kPrimaryNop, "PRIMARY_NOP",
          "Refusing to be Primary while peer is not outdated",
          "Fence or outdate the peer, connect it, or promote with force.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kResyncRunning, "RESYNC_RUNNING",
          "Can not start OV/resync since it is already active",
          "Wait for the running resync or verify to end.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kAlreadyStandalone, "ALREADY_STANDALONE",
          "Can not disconnect a StandAlone device", "Nothing is left to do.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kCwFailedByPeer, "CW_FAILED_BY_PEER",
          "State change was refused by peer node", "The peer's log names its reason.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kIsDiskless, "IS_DISKLESS",
          "Device is diskless, the requested operation requires a disk", "Attach a disk first.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kDeviceInUse, "DEVICE_IN_USE", "Device is held open by someone",
          "Close it everywhere (log out initiators, unmount), or use force.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNoNetConfig, "NO_NET_CONFIG", "Have no net/connection configuration",
          "Configure the connection first.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNoVerifyAlg, "NO_VERIFY_ALG",
          "Need a verify algorithm to start online verify", "Set verify-alg on the connection.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNeedConnection, "NEED_CONNECTION", "State change requires a connection",
          "Connect the peer first.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kLowerThanOutdated, "LOWER_THAN_OUTDATED",
          "Disk state is lower than outdated", "There is nothing to outdate.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNotSupported, "NOT_SUPPORTED", "Peer does not support protocol",
          "Upgrade the peer.", ErrorCode::kUnimplemented},
    Entry{StateResult::kInTransientState, "IN_TRANSIENT_STATE",
          "In transient state, retry after next state change", "Try again in a moment.",
          ErrorCode::kAborted},
    Entry{StateResult::kConcurrentStateChange, "CONCURRENT_ST_CHG",
          "Concurrent state changes detected and aborted", "Try again.", ErrorCode::kAborted},
    Entry{StateResult::kOtherVolumePeerPrimary, "O_VOL_PEER_PRI",
          "Other vol primary on peer not allowed by config", "Demote the peer first.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kInterrupted, "INTERRUPTED", "Interrupted state change", "Try again.",
          ErrorCode::kCancelled},
    Entry{StateResult::kPrimaryReader, "PRIMARY_READER",
          "Peer may not become primary while device is opened read-only",
          "Close the read-only openers here first.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kTimeout, "TIMEOUT", "Timeout in operation",
          "See which node did not answer, and try again.", ErrorCode::kDeadlineExceeded},
    Entry{StateResult::kWeaklyConnected, "WEAKLY_CONNECTED",
          "Primary nodes must be strongly connected among each other",
          "Connect the Primary nodes directly.", ErrorCode::kFailedPrecondition},
    Entry{StateResult::kNoQuorum, "NO_QUORUM", "No quorum",
          "Bring back more nodes, or use force if the missing ones are known to be down.",
          ErrorCode::kFailedPrecondition},
    Entry{StateResult::kAttachNoBitmap, "ATTACH_NO_BITMAP",
          "Intentional diskless peer may not attach a disk",
          "Set bitmap to yes for that peer first.", ErrorCode::kFailedPrecondition},
    Entry{
        StateResult::kHandshakeDisconnect, "HANDSHAKE_DISCONNECT", "Disconnect chosen in handshake",
        "The decision in the log names the rule; a split brain needs discard-my-data on one side.",
        ErrorCode::kFailedPrecondition},
    Entry{StateResult::kHandshakeRetry, "HANDSHAKE_RETRY", "Retry chosen in handshake",
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
