// Session: the output queue. Items leave in their order; StatSN, ExpCmdSN and MaxCmdSN are put in
// when a PDU is built, so that they are true when it leaves.
#include <algorithm>

#include "engine/iscsi/session.h"

namespace umblock::iscsi {
namespace {

// How long an initiator has to close its side after a logout.
constexpr Duration kCloseTime = 2s;

}  // namespace

void Session::Queue(OutputItem* item) {
  output_.push_back(*item);
  if (flush_posted_ || sending_) return;
  flush_posted_ = true;
  reactor_.PostAtTurnEnd(&flush_hook_);
}

Session::ControlPdu* Session::NewPdu(Op op, uint8_t byte1) {
  auto* pdu = new ControlPdu;
  pdu->header = Bhs(op, byte1);
  return pdu;
}

void Session::QueuePdu(ControlPdu* pdu) {
  if (ending_ || queued_pdus_ >= limits_.max_queued_answers) {
    delete pdu;
    if (!ending_) Drop("too many requests, and no answer is read");
    return;
  }
  ++queued_pdus_;
  Queue(pdu);
}

void Session::Flush() {
  if (ending_) {
    ReleaseQueue();
    idle_.NotifyAll();
    return;
  }
  if (sending_ || output_.empty()) return;
  BuildBatch();
  sending_ = true;
  send_since_ = reactor_.Now();
  ++counters_.sends;
  counters_.bytes_out += batch_.bytes();
  counters_.pdus_out += batch_.pdus();
  stream_->StartSend(batch_.iov(), &send_hook_);
}

void Session::BuildBatch() {
  while (!output_.empty() && !batch_.full()) {
    OutputItem* item = &output_.front();
    while (!batch_.full()) {
      if (!BuildNext(item)) continue;
      output_.pop_front();
      break;
    }
  }
}

bool Session::BuildNext(OutputItem* item) {
  switch (item->kind) {
    case OutputKind::kAnswer:
      BuildAnswer(static_cast<Command*>(item));
      return true;
    case OutputKind::kDataIn:
      return BuildDataIn(static_cast<Command*>(item));
    case OutputKind::kR2t:
      BuildR2t(static_cast<Command*>(item));
      return true;
    default:
      BuildControl(static_cast<ControlPdu*>(item));
      return true;
  }
}

void Session::PutNumbers(Bhs* header, bool takes_status) {
  header->Put<uint32_t>(24, takes_status ? stat_sn_++ : stat_sn_);
  header->Put<uint32_t>(28, exp_cmd_sn_).Put<uint32_t>(32, max_cmd_sn());
}

// Residual count and flag (§11.4.5): what the command would move against what was announced.
uint8_t Session::Residual(const Command& command, uint32_t* count) {
  uint32_t announced = command.edtl_in + command.edtl_out;
  uint32_t moved = command.data_in_bytes + command.data_out_bytes;
  *count = announced > moved ? announced - moved : moved - announced;
  if (announced == moved) return 0;
  return announced > moved ? kUnderflow : kOverflow;
}

void Session::BuildAnswer(Command* command) {
  Bhs header(Op::kScsiResponse, kFinal);
  uint32_t residual = 0;
  header.Put8(1, kFinal | Residual(*command, &residual));
  header.Put8(3, static_cast<uint8_t>(command->status));
  header.Put<uint32_t>(16, command->task_tag);
  header.Put<uint32_t>(36, command->r2t_sn + command->data_in_sn);
  header.Put<uint32_t>(44, residual);
  if (command->windowed) --outstanding_;
  command->windowed = false;
  PutNumbers(&header, true);
  std::byte sense[2 + scsi::kMaxSenseLength];
  size_t length = 0;
  if (command->status == scsi::ScsiStatus::kCheckCondition) {
    size_t n = scsi::EncodeSense(command->sense, command->descriptor_sense,
                                 MutableBytes(sense).subspan(2));
    StoreBe<uint16_t>(sense, static_cast<uint16_t>(n));
    length = n + 2;
  }
  static_assert(sizeof sense <= SendBatch::kInlineData);
  batch_.Add(header, Bytes(sense, length), setup_.params.header_digest, setup_.params.data_digest);
  Free(command);
}

// One Data-In PDU; the last one carries the status (§11.7.3).
bool Session::BuildDataIn(Command* command) {
  uint32_t total = std::min(command->data_in_bytes, command->edtl_in);
  uint32_t burst_left = setup_.params.max_burst - command->sent % setup_.params.max_burst;
  uint32_t length = std::min({total - command->sent, setup_.params.initiator_max_data, burst_left});
  bool last = command->sent + length == total;
  Bhs header(Op::kDataIn, last || length == burst_left ? kFinal : 0);
  header.Put<uint64_t>(8, command->lun).Put<uint32_t>(16, command->task_tag);
  header.Put<uint32_t>(20, kReservedTag);
  header.Put<uint32_t>(36, command->data_in_sn++).Put<uint32_t>(40, command->sent);
  if (last) {
    uint32_t residual = 0;
    header.Put8(1, kFinal | kStatusPresent | Residual(*command, &residual));
    header.Put8(3, static_cast<uint8_t>(command->status));
    header.Put<uint32_t>(44, residual);
    if (command->windowed) --outstanding_;
    command->windowed = false;
    PutNumbers(&header, true);
  } else {
    // StatSN is reserved without status.
    header.Put<uint32_t>(28, exp_cmd_sn_).Put<uint32_t>(32, max_cmd_sn());
  }
  Bytes data(command->buffer.data() + command->sent, length);
  batch_.Add(header, data, setup_.params.header_digest, setup_.params.data_digest);
  command->sent += length;
  if (!last) return false;
  command->phase = Command::Phase::kSending;
  batch_commands_.push_back(command);
  return true;
}

void Session::BuildR2t(Command* command) {
  Bhs header(Op::kR2t, kFinal);
  command->transfer_tag = uint32_t{command->generation} << 16 | command->index;
  header.Put<uint64_t>(8, command->lun).Put<uint32_t>(16, command->task_tag);
  header.Put<uint32_t>(20, command->transfer_tag);
  header.Put<uint32_t>(36, command->r2t_sn++).Put<uint32_t>(40, command->arrived);
  header.Put<uint32_t>(44, command->burst_end - command->arrived);
  PutNumbers(&header, false);
  batch_.Add(header, {}, setup_.params.header_digest, setup_.params.data_digest);
}

void Session::BuildControl(ControlPdu* pdu) {
  PutNumbers(&pdu->header, pdu->counts_status);
  batch_.Add(pdu->header, std::as_bytes(std::span(pdu->data)), setup_.params.header_digest,
             setup_.params.data_digest);
  --queued_pdus_;
  batch_pdus_.push_back(pdu);
}

void Session::OnSent(int32_t result) noexcept {
  sending_ = false;
  for (Command* command : batch_commands_) Free(command);
  batch_commands_.clear();
  bool last = false;
  for (ControlPdu* pdu : batch_pdus_) {
    last |= pdu->last;
    delete pdu;
  }
  batch_pdus_.clear();
  batch_.Clear();
  if (result < 0) Drop("sending failed");
  if (last) {
    // The initiator closes when it has read this; Tick sees to one that does not.
    stream_->ShutdownSend();
    reactor_.ArmIn(&tick_, kCloseTime);
  }
  idle_.NotifyAll();
  if (ending_) {
    ReleaseQueue();
  } else if (!output_.empty() && !flush_posted_) {
    flush_posted_ = true;
    reactor_.PostAtTurnEnd(&flush_hook_);
  }
}

void Session::ReleaseQueue() {
  if (sending_) return;  // the front command's data may be part of what is being sent
  while (!output_.empty()) {
    OutputItem* item = &output_.front();
    output_.pop_front();
    if (item->kind == OutputKind::kPdu) {
      --queued_pdus_;
      delete static_cast<ControlPdu*>(item);
      continue;
    }
    auto* command = static_cast<Command*>(item);
    // A command whose R2T waits here is still the logical unit's: that ends it.
    if (item->kind != OutputKind::kR2t) Free(command);
  }
}

}  // namespace umblock::iscsi
