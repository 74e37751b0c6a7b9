// Session: what arrives. One coroutine takes PDU after PDU; Begin says where a data segment goes,
// End acts when it is there.
#include <algorithm>
#include <cstring>

#include "engine/iscsi/session.h"
#include "engine/iscsi/text.h"

namespace umblock::iscsi {
namespace {

constexpr scsi::Sense kDataDigestSense{0x0b, 0x47, 0x05};  // PROTOCOL SERVICE CRC ERROR
constexpr size_t kMaxText = 16384;                         // chained Text requests, bytes
constexpr uint32_t kMaxEcho = 65536;                       // ping data that is echoed, bytes

// Requests that have a place in the command window (§4.2.2.1).
bool Numbered(const Bhs& header) {
  switch (header.op()) {
    case Op::kScsiCommand:
    case Op::kTaskManagement:
    case Op::kText:
    case Op::kLogout:
      return true;
    case Op::kNopOut:
      return header.task_tag() != kReservedTag;
    default:
      return false;
  }
}

}  // namespace

Task<void> Session::ReceiveLoop() {
  const size_t digest = setup_.params.header_digest ? kDigestLength : 0;
  while (!ending_) {
    if (reader_.available() < kBhsLength) {
      if (int error = co_await reader_.Fill(kBhsLength); error != 0) {
        NoteClosed(error);
        break;
      }
    }
    Bhs header(Bytes(reader_.peek(), kBhsLength));
    size_t length = kBhsLength + header.ahs_length() + digest;
    if (reader_.available() < length && co_await reader_.Fill(length) != 0) break;
    if (digest != 0 && !CheckHeaderDigest(length - digest)) {
      Drop("header digest error");
      break;
    }
    reader_.Consume(length);
    reader_.NotePayload(header.data_length());
    heard_ = true;
    ++counters_.pdus_in;

    bool wanted = !logged_out_ && (!Numbered(header) || CheckCmdSn(header) == Order::kAccept);
    if (ending_) break;
    auto reject = CheckRequest(header, setup_.params.target_max_data);
    if (header.data_length() > setup_.params.target_max_data) {
      Drop("a data segment is longer than MaxRecvDataSegmentLength");
      break;
    }
    Place place;
    if (wanted && !reject) place = Begin(header);
    bool digest_ok = true;
    if (header.data_length() != 0 && !ending_) {
      filling_ = place.command;
      bool received = co_await ReceivePayload(header, place.to, &digest_ok);
      filling_ = nullptr;
      if (!received) {
        if (place.command != nullptr) Forsake(place.command);
        break;
      }
    }
    if (!wanted) continue;
    if (reject) {
      Reject(header, *reject);
    } else {
      End(header, place, digest_ok);
    }
  }
}

void Session::NoteClosed(int error) {
  if (ending_ || logged_out_) return;
  reactor_.logger().Info("iscsi session {} {}: the connection ended: {}", setup_.target,
                         setup_.initiator, Error::FromErrno(-error, "receive").message());
}

bool Session::CheckHeaderDigest(size_t length) {
  uint32_t expected = LoadLe<uint32_t>(reader_.peek() + length);
  return Digest(Bytes(reader_.peek(), length)) == expected;
}

// Fills `to` from what was read ahead, and the rest straight from the socket.
Task<int> Session::TakeAll(MutableBytes to, size_t tail) {
  size_t taken = reader_.TakeBuffered(to);
  if (taken == to.size()) co_return 0;
  co_return co_await reader_.ReceiveInto(to.subspan(taken), tail);
}

// The data segment with padding and digest: `to` first, the rest of it is dropped.
Task<bool> Session::ReceivePayload(const Bhs& header, MutableBytes to, bool* digest_ok) {
  const bool digest = setup_.params.data_digest;
  size_t rest = header.padded_data_length() - to.size();
  size_t tail = rest + (digest ? kDigestLength : 0);
  size_t buffered = std::min(reader_.available(), to.size());
  if (filling_ != nullptr) counters_.copied_bytes += buffered;
  if (reader_.available() >= to.size()) {
    reader_.TakeBuffered(to);
  } else if (co_await TakeAll(to, tail) != 0) {
    co_return false;
  }
  Crc32c crc;
  if (digest) crc.Add(to);
  while (rest != 0) {
    MutableBytes piece = MutableBytes(dropped_).first(std::min(rest, dropped_.size()));
    if (reader_.available() >= piece.size()) {
      reader_.TakeBuffered(piece);
    } else if (co_await TakeAll(piece, tail - piece.size()) != 0) {
      co_return false;
    }
    if (digest) crc.Add(piece);
    rest -= piece.size();
    tail -= piece.size();
  }
  if (digest) {
    if (reader_.available() < kDigestLength && co_await reader_.Fill(kDigestLength) != 0) {
      co_return false;
    }
    *digest_ok = LoadLe<uint32_t>(reader_.peek()) == crc.value();
    reader_.Consume(kDigestLength);
  }
  co_return true;
}

Session::Order Session::CheckCmdSn(const Bhs& header) {
  if (header.immediate()) return Order::kAccept;
  uint32_t number = header.cmd_sn();
  if (number == exp_cmd_sn_) {
    // A full window was announced as such: who sends nevertheless is ignored, as one beyond it.
    if (SerialLess(max_cmd_sn(), number)) return Order::kIgnore;
    ++exp_cmd_sn_;
    return Order::kAccept;
  }
  bool beyond = SerialLess(number, exp_cmd_sn_) || SerialLess(max_cmd_sn(), number);
  // On the one connection of a session commands come in order: a gap never fills (§4.2.2.1).
  if (!beyond) Drop("CmdSN leaves out a command");
  return Order::kIgnore;
}

Session::Place Session::Begin(const Bhs& header) {
  switch (header.op()) {
    case Op::kScsiCommand:
      return nexus_ ? BeginCommand(header) : Place{};
    case Op::kDataOut:
      return nexus_ ? BeginDataOut(header) : Place{};
    case Op::kNopOut:
    case Op::kText: {
      size_t limit = header.op() == Op::kText
                         ? kMaxText
                         : std::min(kMaxEcho, setup_.params.initiator_max_data);
      control_data_.resize(std::min<size_t>(header.data_length(), limit));
      return {.to = std::as_writable_bytes(std::span(control_data_))};
    }
    default:
      return {};
  }
}

void Session::End(const Bhs& header, Place place, bool digest_ok) {
  if (!digest_ok) {
    Reject(header, RejectReason::kDataDigestError);
    if (place.command == nullptr) return;
    if (place.command->orphaned) return Free(place.command);
    return FailData(place.command, kDataDigestSense);
  }
  bool scsi = header.op() == Op::kScsiCommand || header.op() == Op::kDataOut ||
              header.op() == Op::kTaskManagement;
  if (scsi && !nexus_) return Reject(header, RejectReason::kProtocolError);
  switch (header.op()) {
    case Op::kScsiCommand:
      if (place.command != nullptr) EndCommand(header, place.command);
      return;
    case Op::kDataOut:
      if (place.command != nullptr) EndDataOut(header, place.command);
      return;
    case Op::kTaskManagement:
      return StartTaskManagement(header);
    case Op::kNopOut:
      return HandleNopOut(header);
    case Op::kText:
      return HandleText(header);
    default:
      return HandleLogout(header);
  }
}

// ---- SCSI commands and their data

Session::Place Session::BeginCommand(const Bhs& header) {
  Command* command = TakeCommand(header.immediate());
  if (command == nullptr) {
    Reject(header, RejectReason::kTooManyImmediate);
    return {};
  }
  ++counters_.commands;
  const uint8_t flags = header.flags();
  const uint32_t announced = header.Be<uint32_t>(20);
  command->task_tag = header.task_tag();
  command->cmd_sn = header.cmd_sn();
  command->lun = header.lun();
  command->edtl_out = (flags & kWrite) != 0 ? announced : 0;
  command->edtl_in = (flags & kRead) != 0 ? announced : 0;
  command->attribute = static_cast<scsi::TaskAttribute>(std::min<uint8_t>(flags & 7, 4));
  std::memcpy(command->cdb.data(), header.bytes().data() + 32, command->cdb.size());

  const uint32_t length = header.data_length();
  const SessionParameters& params = setup_.params;
  bool broken = (command->edtl_out != 0 && command->edtl_in != 0) ||
                (length != 0 && (!params.immediate_data || length > params.first_burst ||
                                 length > command->edtl_out)) ||
                (!header.final() && (params.initial_r2t || (flags & kWrite) == 0));
  if (nexus_->Prepare(header.lun(), command) == scsi::Nexus::Stage::kFinished) {
    command->descriptor_sense = scsi::Nexus::DescriptorSense(*command);
    command->phase = Command::Phase::kAnswering;
    return {.command = command};
  }
  command->phase = Command::Phase::kReceiving;
  command->since = reactor_.Now();
  if (broken) {
    FailPrepared(command, scsi::kDataPhaseError);
    return {.command = command};
  }
  command->wanted = std::min(command->edtl_out, command->data_out_bytes);
  command->data_out_truncated = command->edtl_out < command->data_out_bytes;
  command->data_out_excess = command->edtl_out > command->data_out_bytes;
  command->unsolicited = !header.final() && command->edtl_out > length;
  command->burst_end = std::min(params.first_burst, command->edtl_out);
  if (command->unsolicited) last_unsolicited_ = command;
  if (!AcquireBuffer(command)) {
    if (length != 0 || command->unsolicited) {
      scsi::Nexus::Abandon(command);
      command->status = scsi::ScsiStatus::kTaskSetFull;
      command->phase = Command::Phase::kAnswering;
      ++counters_.task_set_full;
    } else {
      command->phase = Command::Phase::kStarved;
      starved_.push_back(*command);
      if (!feeding_) {
        feeding_ = true;
        tasks_.Spawn(FeedStarved());
      }
    }
    return {.command = command};
  }
  return {.to = command->buffer.first(std::min(length, command->wanted)), .command = command};
}

void Session::EndCommand(const Bhs& header, Command* command) {
  if (command->orphaned) return Free(command);
  switch (command->phase) {
    case Command::Phase::kAnswering:
      return Answer(command);
    case Command::Phase::kReceiving:
      command->arrived = header.data_length();
      return ContinueData(command);
    default:
      return;  // waits for memory
  }
}

Session::Place Session::BeginDataOut(const Bhs& header) {
  bool solicited = header.transfer_tag() != kReservedTag;
  Command* command =
      solicited ? FindSolicited(header.transfer_tag()) : FindUnsolicited(header.task_tag());
  // Data of a command that has ended: nobody wants it.
  if (command == nullptr || command->task_tag != header.task_tag()) return {};
  uint32_t length = header.data_length();
  uint32_t offset = header.Be<uint32_t>(40);
  // DataPDUInOrder and DataSequenceInOrder are Yes: the next number and the next byte, or nothing.
  if (header.Be<uint32_t>(36) != command->data_sn || offset != command->arrived ||
      length > command->burst_end - command->arrived) {
    FailPrepared(command, scsi::kDataPhaseError);
    return {.command = command};
  }
  uint32_t room = command->wanted > offset ? command->wanted - offset : 0;
  MutableBytes to;
  if (room != 0) to = {command->buffer.data() + offset, std::min(length, room)};
  return {.to = to, .command = command};
}

void Session::EndDataOut(const Bhs& header, Command* command) {
  if (command->orphaned) return Free(command);
  if (command->phase == Command::Phase::kAnswering) return Answer(command);
  command->arrived += header.data_length();
  ++command->data_sn;
  command->since = reactor_.Now();
  bool complete = command->arrived == command->burst_end;
  if (!header.final() && !complete) return;
  if (command->transfer_tag != kReservedTag && !complete) {
    return FailData(command, scsi::kDataPhaseError);  // less than the R2T asked for
  }
  command->unsolicited = false;
  command->transfer_tag = kReservedTag;
  ContinueData(command);
}

// The rest of the PDU never comes. A command that is neither its logical unit's nor queued has
// nobody else to free it.
void Session::Forsake(Command* command) {
  if (command->orphaned || command->phase == Command::Phase::kAnswering) Free(command);
}

// ---- everything else

void Session::Reject(const Bhs& header, RejectReason reason) {
  ++counters_.rejects;
  ControlPdu* pdu = NewPdu(Op::kReject, kFinal);
  pdu->header.Put8(2, static_cast<uint8_t>(reason)).Put<uint32_t>(16, kReservedTag);
  pdu->data.assign(reinterpret_cast<const char*>(header.bytes().data()), kBhsLength);
  QueuePdu(pdu);
}

void Session::HandleNopOut(const Bhs& header) {
  if (header.task_tag() == kReservedTag) return;  // the answer to a ping, or none is wanted
  ControlPdu* pdu = NewPdu(Op::kNopIn, kFinal);
  pdu->header.Put<uint32_t>(16, header.task_tag()).Put<uint32_t>(20, kReservedTag);
  if (header.data_length() != 0) pdu->data = control_data_;
  QueuePdu(pdu);
}

void Session::HandleText(const Bhs& header) {
  ControlPdu* pdu = NewPdu(Op::kTextResponse, kFinal);
  pdu->header.Put<uint32_t>(16, header.task_tag()).Put<uint32_t>(20, kReservedTag);
  bool resumes = header.transfer_tag() != kReservedTag;
  if (resumes && header.transfer_tag() != text_tag_) {
    delete pdu;
    return Reject(header, RejectReason::kInvalidPduField);
  }
  if (!resumes) {
    text_request_.clear();
    text_answer_.clear();
  }
  if (header.data_length() != 0) text_request_ += control_data_;
  if (text_request_.size() > kMaxText || header.data_length() > kMaxText) {
    delete pdu;
    return Reject(header, RejectReason::kProtocolError);
  }
  bool more_to_come = (header.flags() & kContinue) != 0;
  if (!more_to_come && !text_request_.empty()) {
    auto pairs = ParseText(text_request_);
    if (!pairs) {
      delete pdu;
      return Reject(header, RejectReason::kProtocolError);
    }
    AnswerText(*pairs);
    text_request_.clear();
  }
  size_t piece = std::min<size_t>(text_answer_.size(), setup_.params.initiator_max_data);
  pdu->data = text_answer_.substr(0, piece);
  text_answer_.erase(0, piece);
  bool left = !text_answer_.empty();
  if (left || more_to_come) {
    if (text_tag_ == kReservedTag) text_tag_ = next_tag_++ & 0x7fffffff;
    pdu->header.Put8(1, left ? kContinue : 0).Put<uint32_t>(20, text_tag_);
  } else {
    text_tag_ = kReservedTag;
  }
  QueuePdu(pdu);
}

void Session::AnswerText(const std::vector<TextPair>& pairs) {
  for (const TextPair& pair : pairs) {
    if (pair.key == "SendTargets") {
      // All targets only in a discovery session (appendix C).
      bool allowed = setup_.device == nullptr || pair.value != "All";
      if (allowed) {
        text_answer_ += host_.SendTargets(*this, pair.value);
      } else {
        AppendText(pair.key, "Reject", &text_answer_);
      }
    } else if (pair.key == "MaxRecvDataSegmentLength") {
      std::optional<uint32_t> length = ParseNumber(pair.value);
      bool good = length && *length >= 512 && *length < (1u << 24);
      if (good) setup_.params.initiator_max_data = *length;
      if (!good) AppendText(pair.key, "Reject", &text_answer_);
    } else {
      AppendText(pair.key, "NotUnderstood", &text_answer_);
    }
  }
}

void Session::HandleLogout(const Bhs& header) {
  uint8_t reason = header.flags() & 0x7f;
  if (reason > 2) return Reject(header, RejectReason::kProtocolError);
  uint8_t response = 0;                                                    // closed
  if (reason == 1 && header.Be<uint16_t>(20) != setup_.cid) response = 1;  // CID not found
  if (reason == 2) response = 2;                                           // recovery not supported
  ControlPdu* pdu = NewPdu(Op::kLogoutResponse, kFinal);
  pdu->header.Put8(2, response).Put<uint32_t>(16, header.task_tag());
  if (response == 0) {
    pdu->last = true;
    logged_out_ = true;
    reactor_.logger().Info("iscsi session {} {}: logged out", setup_.target, setup_.initiator);
  }
  QueuePdu(pdu);
}

}  // namespace umblock::iscsi
