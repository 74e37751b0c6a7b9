#include "engine/iscsi/session.h"

#include <fmt/format.h>

#include <algorithm>

namespace umblock::iscsi {

Session::Session(Reactor& reactor, SessionHost& host, std::unique_ptr<Stream> stream,
                 SessionSetup setup, const SessionLimits& limits)
    : reactor_(reactor),
      host_(host),
      stream_(std::move(stream)),
      setup_(std::move(setup)),
      limits_(limits),
      reader_(*stream_, counters_),
      exp_cmd_sn_(setup_.exp_cmd_sn),
      stat_sn_(setup_.stat_sn),
      idle_(reactor),
      ended_(reactor),
      tasks_(reactor) {
  // Answered commands whose data is being sent are outside the window: one batch of them.
  size_t count = limits_.command_window + limits_.max_immediate + SendBatch::kMaxPdus;
  for (size_t i = 0; i < count; ++i) {
    Command& command = commands_.emplace_back(static_cast<scsi::RequestOwner*>(this));
    command.index = static_cast<uint16_t>(i);
    free_.push_back(&command);
  }
  batch_commands_.reserve(SendBatch::kMaxPdus);
  batch_pdus_.reserve(SendBatch::kMaxPdus);
  if (setup_.device == nullptr) return;
  nexus_.emplace(*setup_.device,
                 scsi::NexusIdentity{
                     .initiator_name = setup_.initiator,
                     .initiator_port = fmt::format("{},i,{}", setup_.initiator, setup_.isid),
                     .opener = fmt::format("iscsi {} from {}", setup_.target, setup_.initiator),
                     .session = setup_.id});
}

Session::~Session() {
  UMBLOCK_ASSERT(in_use_ == 0 && !sending_, "a session has run to its end before it goes");
}

Task<void> Session::Run() {
  quiet_since_ = reactor_.Now();
  ScheduleTick();
  co_await ReceiveLoop();
  co_await Teardown();
  has_ended_ = true;
  ended_.NotifyAll();
}

void Session::Drop(std::string_view reason) {
  if (ending_) return;
  ending_ = true;
  reactor_.logger().Info("iscsi session {} {}: dropped: {}", setup_.target, setup_.initiator,
                         reason);
  stream_->Abort();
}

void Session::DropWithNotice(std::string_view reason) {
  if (ending_ || logged_out_) return;
  reactor_.logger().Info("iscsi session {} {}: ending: {}", setup_.target, setup_.initiator,
                         reason);
  ControlPdu* pdu = NewPdu(Op::kAsync, kFinal);
  pdu->header.Put<uint32_t>(16, kReservedTag);
  pdu->header.Put8(36, static_cast<uint8_t>(AsyncEvent::kSessionDrop));
  pdu->last = true;
  logged_out_ = true;
  QueuePdu(pdu);
}

// Everything of this session ends: first what waits, then what runs in the devices, then the send.
Task<void> Session::Teardown() {
  ending_ = true;
  tick_.Disarm();
  stream_->Abort();
  if (nexus_) nexus_->AbortAll();
  AbortWithoutUnit();
  tasks_.Cancel();
  ReleaseQueue();
  if (nexus_) co_await nexus_->WaitIdle();
  while (sending_ || in_use_ != 0 || flush_posted_) {
    ReleaseQueue();
    co_await idle_.Wait();
  }
  co_await tasks_.Join();
  ReleaseQueue();
  co_await stream_->Close();
  nexus_.reset();
}

// A command for a unit that does not exist (INQUIRY, REPORT LUNS, REQUEST SENSE) is in no unit's
// list while it waits for memory or for data that it announced.
void Session::AbortWithoutUnit() {
  for (Command& command : commands_) {
    const bool waits =
        command.phase == Command::Phase::kStarved || command.phase == Command::Phase::kReceiving;
    if (waits && command.nexus == nullptr) OnRequestAborted(&command);
  }
}

// ---- time

void Session::ScheduleTick() {
  reactor_.ArmIn(&tick_, std::max<Duration>(limits_.ping_interval / 4, 1ms));
}

void Session::Tick() noexcept {
  Time now = reactor_.Now();
  if (logged_out_ && output_.empty() && !sending_) return Drop("logged out");
  if (std::exchange(heard_, false)) {
    quiet_since_ = now;
    ping_tag_ = kReservedTag;
  }
  if (now - quiet_since_ > limits_.ping_interval + limits_.ping_timeout) {
    return Drop("the initiator does not answer a ping");
  }
  if (Overdue(now)) return;
  if (now - quiet_since_ >= limits_.ping_interval && ping_tag_ == kReservedTag) Ping();
  ScheduleTick();
}

void Session::Ping() {
  ping_tag_ = next_tag_++ & 0x7fffffff;
  ControlPdu* pdu = NewPdu(Op::kNopIn, kFinal);
  pdu->header.Put<uint32_t>(16, kReservedTag).Put<uint32_t>(20, ping_tag_);
  pdu->counts_status = false;  // StatSN is shown, not taken (§11.19)
  QueuePdu(pdu);
}

bool Session::Overdue(Time now) {
  if (sending_ && now - send_since_ > limits_.send_timeout) {
    Drop("the initiator does not read what it is sent");
    return true;
  }
  for (const Command& command : commands_) {
    if (command.phase == Command::Phase::kReceiving && now - command.since > limits_.data_timeout) {
      Drop("the initiator does not send the data of a WRITE");
      return true;
    }
  }
  return false;
}

SessionStatus Session::status() const {
  return {.initiator = setup_.initiator,
          .alias = setup_.initiator_alias,
          .target = setup_.target,
          .isid = setup_.isid,
          .tsih = setup_.tsih,
          .local_address = stream_->local_address().ToString(),
          .remote_address = stream_->remote_address().ToString(),
          .commands_in_flight = in_use_,
          .buffer_bytes = buffer_bytes_,
          .header_digest = setup_.params.header_digest,
          .data_digest = setup_.params.data_digest,
          .counters = counters_};
}

}  // namespace umblock::iscsi
