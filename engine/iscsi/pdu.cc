#include "engine/iscsi/pdu.h"

namespace umblock::iscsi {

std::optional<RejectReason> CheckRequest(const Bhs& header, uint32_t max_data) {
  if (header.data_length() > max_data) return RejectReason::kProtocolError;
  // Only SCSI commands have additional header segments.
  if (header.ahs_length() != 0 && header.op() != Op::kScsiCommand) {
    return RejectReason::kProtocolError;
  }
  switch (header.op()) {
    case Op::kScsiCommand:
    case Op::kDataOut:
      return std::nullopt;
    case Op::kNopOut:
    case Op::kTaskManagement:
    case Op::kLogout:
      if (!header.final()) return RejectReason::kProtocolError;
      return std::nullopt;
    case Op::kText:
      // F and C exclude each other.
      if (header.final() && (header.flags() & kContinue) != 0) return RejectReason::kProtocolError;
      return std::nullopt;
    case Op::kSnack:
      return RejectReason::kSnackReject;  // ErrorRecoveryLevel 0
    case Op::kLogin:
      return RejectReason::kProtocolError;  // the login phase is over
    default:
      return RejectReason::kCommandNotSupported;
  }
}

}  // namespace umblock::iscsi
