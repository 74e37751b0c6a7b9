// Session: SCSI commands between their PDU and their answer, and task management.
#include <algorithm>

#include "engine/iscsi/session.h"
#include "engine/scsi/logical_unit.h"

namespace umblock::iscsi {

Session::Command* Session::TakeCommand(bool immediate) {
  if (free_.empty() || (immediate && immediate_ >= limits_.max_immediate)) return nullptr;
  Command* command = free_.back();
  free_.pop_back();
  ++in_use_;
  immediate ? ++immediate_ : ++outstanding_;
  command->windowed = !immediate;
  command->immediate = immediate;
  command->unsolicited = command->orphaned = command->descriptor_sense = false;
  command->generation = static_cast<uint16_t>((command->generation + 1) & 0x7fff);
  command->wanted = command->arrived = command->burst_end = 0;
  command->data_sn = command->r2t_sn = command->sent = command->data_in_sn = 0;
  command->transfer_tag = kReservedTag;
  return command;
}

void Session::Free(Command* command) {
  UMBLOCK_ASSERT(command->phase != Command::Phase::kFree, "a command is freed once");
  command->buffer.Release();
  buffer_bytes_ -= command->charged;
  command->charged = 0;
  if (command->windowed) --outstanding_;
  if (command->immediate) --immediate_;
  if (last_unsolicited_ == command) last_unsolicited_ = nullptr;
  command->phase = Command::Phase::kFree;
  free_.push_back(command);
  --in_use_;
  if (!idle_.empty()) idle_.NotifyAll();
}

bool Session::OverBudget(uint32_t bytes) const {
  return buffer_bytes_ != 0 && buffer_bytes_ + bytes > limits_.max_buffer_bytes;
}

void Session::Charge(Command* command) {
  command->charged = static_cast<uint32_t>(command->buffer.capacity());
  buffer_bytes_ += command->charged;
}

bool Session::AcquireBuffer(Command* command) {
  if (command->buffer_bytes == 0) return true;
  // Nobody overtakes those who wait.
  if (!starved_.empty() || OverBudget(command->buffer_bytes)) return false;
  command->buffer = reactor_.buffers().TryAllocate(command->buffer_bytes);
  if (!command->buffer) return false;
  Charge(command);
  return true;
}

// Gives memory to those who wait for it, in their order.
Task<void> Session::FeedStarved() {
  while (!starved_.empty() && !ending_) {
    uint32_t bytes = starved_.front().buffer_bytes;
    if (OverBudget(bytes)) {
      if (co_await idle_.Wait(tasks_.token()) == WakeReason::kCancelled) break;
      continue;
    }
    Buffer buffer = co_await reactor_.buffers().Allocate(bytes, tasks_.token());
    if (!buffer) break;
    // The one it was meant for may be gone.
    if (starved_.empty() || buffer.capacity() < starved_.front().buffer_bytes) continue;
    Command* command = &starved_.front();
    starved_.pop_front();
    command->buffer = std::move(buffer);
    Charge(command);
    command->phase = Command::Phase::kReceiving;
    command->since = reactor_.Now();
    ContinueData(command);
  }
  feeding_ = false;
}

void Session::ContinueData(Command* command) {
  if (command->unsolicited) return;  // more comes by itself
  if (command->arrived >= command->wanted) return Execute(command);
  command->burst_end = std::min(command->wanted, command->arrived + setup_.params.max_burst);
  command->data_sn = 0;
  if (command->burst_end - command->arrived > PduReader::kSmallPayload) reader_.ExpectLarge();
  command->kind = OutputKind::kR2t;
  Queue(command);
}

void Session::Execute(Command* command) {
  command->phase = Command::Phase::kExecuting;
  command->data_out_received = std::min(command->arrived, command->wanted);
  nexus_->Execute(command);
}

void Session::Answer(Command* command) {
  command->phase = Command::Phase::kAnswering;
  bool data = command->status == scsi::ScsiStatus::kGood && command->data_in_bytes != 0 &&
              command->edtl_in != 0;
  command->kind = data ? OutputKind::kDataIn : OutputKind::kAnswer;
  Queue(command);
}

// The command leaves its logical unit; the answer follows when the present PDU is over.
void Session::FailPrepared(Command* command, const scsi::Sense& sense) {
  command->descriptor_sense = scsi::Nexus::DescriptorSense(*command);
  scsi::Nexus::Abandon(command);
  command->Fail(sense);
  command->phase = Command::Phase::kAnswering;
}

void Session::FailData(Command* command, const scsi::Sense& sense) {
  if (command->phase == Command::Phase::kReceiving) FailPrepared(command, sense);
  if (command->phase == Command::Phase::kAnswering) Answer(command);
}

Session::Command* Session::FindSolicited(uint32_t transfer_tag) {
  uint32_t index = transfer_tag & 0xffff;
  if (index >= commands_.size()) return nullptr;
  Command* command = &commands_[index];
  bool expected = command->phase == Command::Phase::kReceiving && !command->unsolicited;
  return expected && command->transfer_tag == transfer_tag ? command : nullptr;
}

Session::Command* Session::FindUnsolicited(uint32_t task_tag) {
  auto matches = [task_tag](const Command& command) {
    return command.phase == Command::Phase::kReceiving && command.unsolicited &&
           command.task_tag == task_tag;
  };
  if (last_unsolicited_ != nullptr && matches(*last_unsolicited_)) return last_unsolicited_;
  auto at = std::ranges::find_if(commands_, matches);
  return at == commands_.end() ? nullptr : &*at;
}

Session::Command* Session::FindTask(uint32_t task_tag) {
  auto at = std::ranges::find_if(commands_, [task_tag](const Command& command) {
    return command.task_tag == task_tag && (command.phase == Command::Phase::kStarved ||
                                            command.phase == Command::Phase::kReceiving ||
                                            command.phase == Command::Phase::kExecuting);
  });
  return at == commands_.end() ? nullptr : &*at;
}

void Session::OnRequestDone(scsi::Request* request) noexcept {
  auto* command = static_cast<Command*>(request);
  if (command->aborted || ending_) return Free(command);
  if (command->status == scsi::ScsiStatus::kCheckCondition) {
    command->descriptor_sense = scsi::Nexus::DescriptorSense(*command);
  }
  Answer(command);
}

void Session::OnRequestAborted(scsi::Request* request) noexcept {
  auto* command = static_cast<Command*>(request);
  scsi::Nexus::Abandon(command);
  if (command->starved_hook.is_linked()) starved_.erase(starved_.iterator_to(*command));
  if (static_cast<OutputItem*>(command)->is_linked()) {  // its R2T has not been sent
    output_.remove_if([command](const OutputItem& item) { return &item == command; });
  }
  if (command == filling_) {
    command->orphaned = true;  // freed when the receive into its buffer is over
    command->phase = Command::Phase::kExecuting;
    return;
  }
  Free(command);
}

// ---- task management (§11.5, §11.6)

void Session::StartTaskManagement(const Bhs& header) {
  if (immediate_ >= limits_.max_immediate) return Reject(header, RejectReason::kTooManyImmediate);
  ++immediate_;
  ++counters_.task_management;
  tasks_.Spawn(TaskManagement(header));
}

TmResponse Session::AbortTask(const Bhs& header, scsi::LuNexus* nexus) {
  Command* command = FindTask(header.Be<uint32_t>(20));  // Referenced Task Tag
  if (command != nullptr && command->nexus == nexus) {
    nexus->unit().AbortTask(command);
    return TmResponse::kComplete;
  }
  // A task that is not here: it was answered, or it was never sent. In the latter case RefCmdSN is
  // still inside the window and stands for a command that will not come (§11.6.1).
  uint32_t number = header.Be<uint32_t>(32);
  bool inside = !SerialLess(number, exp_cmd_sn_) && !SerialLess(max_cmd_sn(), number);
  return inside ? TmResponse::kComplete : TmResponse::kTaskDoesNotExist;
}

Task<void> Session::TaskManagement(Bhs header) {
  auto function = static_cast<TmFunction>(header.flags() & 0x7f);
  scsi::LuNexus* nexus = nexus_->Find(header.lun());
  scsi::LogicalUnit* unit = nexus == nullptr ? nullptr : &nexus->unit();
  TmResponse response = TmResponse::kComplete;
  bool needs_unit = function == TmFunction::kAbortTask || function == TmFunction::kAbortTaskSet ||
                    function == TmFunction::kClearTaskSet ||
                    function == TmFunction::kLogicalUnitReset;
  if (needs_unit && unit == nullptr) {
    response = TmResponse::kLunDoesNotExist;
  } else {
    switch (function) {
      case TmFunction::kAbortTask:
        response = AbortTask(header, nexus);
        break;
      case TmFunction::kAbortTaskSet:
        unit->AbortTasks(nexus);
        break;
      case TmFunction::kClearTaskSet:
        unit->ClearTasks(nexus);
        break;
      case TmFunction::kLogicalUnitReset:
        unit->Reset();
        break;
      case TmFunction::kTargetWarmReset:
      case TmFunction::kTargetColdReset:
        nexus_->device().Reset();
        break;
      case TmFunction::kTaskReassign:
        response = TmResponse::kReassignmentNotSupported;
        break;
      default:
        response = TmResponse::kNotSupported;
        break;
    }
    // Complete means: nothing of the ended tasks reaches the medium any more.
    if (response == TmResponse::kComplete) {
      needs_unit ? co_await unit->WaitAborted() : co_await nexus_->device().WaitAborted();
    }
  }
  --immediate_;
  if (ending_) co_return;
  reactor_.logger().Info("iscsi session {} {}: task management function {} response {}",
                         setup_.target, setup_.initiator, header.flags() & 0x7f,
                         static_cast<int>(response));
  ControlPdu* pdu = NewPdu(Op::kTaskManagementResponse, kFinal);
  pdu->header.Put8(2, static_cast<uint8_t>(response)).Put<uint32_t>(16, header.task_tag());
  QueuePdu(pdu);
  if (function == TmFunction::kTargetColdReset) host_.OnColdReset(*this);
}

}  // namespace umblock::iscsi
