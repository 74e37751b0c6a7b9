// Session: full feature phase of one iSCSI session on its one connection (RFC 7143 §4, §11).
//
// Data path. A SCSI command takes a Command from this session's fixed pool; READ data is sent from
// the buffer that the device filled, WRITE data is received into the buffer that the device is
// given; answers of one reactor turn leave in one send. There is no coroutine per command: the
// session has one that receives, and a few that are there for rare things.
//
// Limits, all in SessionLimits: commands (MaxCmdSN), payload memory, unanswered immediate PDUs and
// answers waiting to be sent are bounded. A WRITE whose unsolicited data finds no memory is turned
// away with TASK SET FULL; other commands wait for memory in the order of their arrival. An
// initiator that stops reading, stops sending the data it promised, or does not answer a ping, is
// dropped.
//
// Life: Run() ends when the session is over and nothing of it is in flight any more. Drop() asks
// for that. Threading: the reactor of the LUNs' devices.
#pragma once

#include <array>
#include <boost/intrusive/list.hpp>
#include <boost/intrusive/slist.hpp>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/iscsi/digest.h"
#include "engine/iscsi/parameters.h"
#include "engine/iscsi/pdu.h"
#include "engine/iscsi/pdu_reader.h"
#include "engine/iscsi/send_batch.h"
#include "engine/iscsi/status.h"
#include "engine/iscsi/text.h"
#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/stream.h"
#include "engine/runtime/sync.h"
#include "engine/scsi/nexus.h"

namespace umblock::iscsi {

struct SessionLimits {
  uint32_t command_window = 128;                   // commands an initiator may have outstanding
  uint64_t max_buffer_bytes = uint64_t{32} << 20;  // payload memory of one session
  uint32_t max_immediate = 16;                     // immediate commands in progress
  uint32_t max_queued_answers = 64;                // NOP-In, Text … that wait to be sent
  Duration ping_interval = 10s;                    // NOP-In after this long without a PDU
  Duration ping_timeout = 20s;                     // the session is dropped after this long more
  Duration data_timeout = 60s;                     // for promised Data-Out to arrive
  Duration send_timeout = 60s;                     // for the initiator to read what is sent
};

struct SessionSetup {
  std::string initiator, initiator_alias;
  std::string isid;  // "0x00023d000000"
  uint16_t tsih = 0;
  uint16_t cid = 0;
  uint64_t id = 0;  // unique in this process, not 0
  SessionParameters params;
  uint32_t exp_cmd_sn = 0;
  uint32_t stat_sn = 0;                  // of the next response
  std::string target;                    // name; empty: discovery
  scsi::TargetDevice* device = nullptr;  // nullptr: discovery
};

class Session;

class SessionHost {
 public:
  virtual ~SessionHost() = default;
  // The text of a SendTargets answer; `which` is "All", a target name, or empty for the session's.
  virtual std::string SendTargets(const Session& session, std::string_view which) = 0;
  // TARGET COLD RESET: every session of the target is dropped.
  virtual void OnColdReset(Session& session) = 0;
};

class Session final : private scsi::RequestOwner {
 public:
  Session(Reactor& reactor, SessionHost& host, std::unique_ptr<Stream> stream, SessionSetup setup,
          const SessionLimits& limits);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session();

  Task<void> Run();
  void Drop(std::string_view reason);
  // Tells the initiator that the session is going to be dropped (Async Message) and drops it.
  void DropWithNotice(std::string_view reason);

  const SessionSetup& setup() const { return setup_; }
  Stream& stream() { return *stream_; }
  const Stream& stream() const { return *stream_; }
  SessionStatus status() const;
  bool ending() const { return ending_; }
  // Waited for by whoever needs this session to be gone.
  WaitQueue& ended() { return ended_; }
  bool has_ended() const { return has_ended_; }

 private:
  enum class OutputKind : uint8_t { kAnswer, kDataIn, kR2t, kPdu };
  struct OutputItem : boost::intrusive::slist_base_hook<> {
    OutputKind kind = OutputKind::kPdu;
  };
  // A PDU that belongs to no SCSI command.
  struct ControlPdu : OutputItem {
    Bhs header;
    std::string data;
    bool counts_status = true;  // takes a StatSN
    bool last = false;          // the connection ends after it
  };
  struct Command final : scsi::Request, OutputItem {
    explicit Command(scsi::RequestOwner* session) : scsi::Request(session) {}

    enum class Phase : uint8_t { kFree, kStarved, kReceiving, kExecuting, kAnswering, kSending };
    Phase phase = Phase::kFree;
    bool windowed = false;  // not immediate and not answered: counts against MaxCmdSN
    bool immediate = false;
    bool unsolicited = false;  // the Data-Out that arrives is unsolicited
    bool orphaned = false;     // aborted while a receive fills its buffer
    bool descriptor_sense = false;
    uint16_t generation = 0;
    uint16_t index = 0;
    uint32_t task_tag = 0;
    uint32_t cmd_sn = 0;
    uint64_t lun = 0;
    uint32_t edtl_out = 0, edtl_in = 0;  // Expected Data Transfer Length, by direction
    uint32_t wanted = 0;                 // bytes of Data-Out that the command takes
    uint32_t arrived = 0;                // Buffer Offset of the next Data-Out
    uint32_t burst_end = 0;              // of the present sequence
    uint32_t data_sn = 0;                // of the next Data-Out of the sequence
    uint32_t r2t_sn = 0;
    uint32_t transfer_tag = kReservedTag;
    uint32_t sent = 0;  // bytes of Data-In
    uint32_t data_in_sn = 0;
    uint32_t charged = 0;  // buffer bytes counted against the session
    Time since{};          // phase kReceiving: when the last data came
    boost::intrusive::list_member_hook<> starved_hook;
  };
  using OutputList = boost::intrusive::slist<OutputItem, boost::intrusive::cache_last<true>,
                                             boost::intrusive::constant_time_size<true>>;
  using StarvedList = boost::intrusive::list<
      Command, boost::intrusive::member_hook<Command, boost::intrusive::list_member_hook<>,
                                             &Command::starved_hook>>;

  // Where the data segment of the present PDU goes; what is beyond `to` is dropped.
  struct Place {
    MutableBytes to;
    Command* command = nullptr;
  };

  // ---- receiving (session_receive.cc)
  Task<void> ReceiveLoop();
  Task<bool> ReceivePayload(const Bhs& header, MutableBytes to, bool* digest_ok);
  Task<int> TakeAll(MutableBytes to, size_t tail);
  void NoteClosed(int error);
  bool CheckHeaderDigest(size_t length);
  enum class Order { kAccept, kIgnore };
  Order CheckCmdSn(const Bhs& header);
  Place Begin(const Bhs& header);
  void End(const Bhs& header, Place place, bool digest_ok);
  Place BeginCommand(const Bhs& header);
  Place BeginDataOut(const Bhs& header);
  void EndCommand(const Bhs& header, Command* command);
  void EndDataOut(const Bhs& header, Command* command);
  void Forsake(Command* command);
  void HandleNopOut(const Bhs& header);
  void HandleText(const Bhs& header);
  void AnswerText(const std::vector<TextPair>& pairs);
  void HandleLogout(const Bhs& header);
  void Reject(const Bhs& header, RejectReason reason);

  // ---- commands (session_commands.cc)
  Command* TakeCommand(bool immediate);
  void Free(Command* command);
  bool AcquireBuffer(Command* command);
  void Charge(Command* command);
  bool OverBudget(uint32_t bytes) const;
  void ContinueData(Command* command);
  void Execute(Command* command);
  void Answer(Command* command);
  void FailPrepared(Command* command, const scsi::Sense& sense);
  void FailData(Command* command, const scsi::Sense& sense);
  Command* FindSolicited(uint32_t transfer_tag);
  Command* FindUnsolicited(uint32_t task_tag);
  Command* FindTask(uint32_t task_tag);
  Task<void> FeedStarved();
  void OnRequestDone(scsi::Request* request) noexcept override;
  void OnRequestAborted(scsi::Request* request) noexcept override;
  void StartTaskManagement(const Bhs& header);
  Task<void> TaskManagement(Bhs header);
  TmResponse AbortTask(const Bhs& header, scsi::LuNexus* nexus);

  // ---- sending (session_send.cc)
  void Queue(OutputItem* item);
  ControlPdu* NewPdu(Op op, uint8_t byte1);
  void QueuePdu(ControlPdu* pdu);
  void Flush();
  void BuildBatch();
  bool BuildNext(OutputItem* item);  // true: the item is done
  void BuildAnswer(Command* command);
  bool BuildDataIn(Command* command);
  void BuildR2t(Command* command);
  void BuildControl(ControlPdu* pdu);
  void PutNumbers(Bhs* header, bool takes_status);
  static uint8_t Residual(const Command& command, uint32_t* count);
  void OnSent(int32_t result) noexcept;
  void ReleaseQueue();

  // ---- life (session.cc)
  void Tick() noexcept;
  void ScheduleTick();
  void Ping();
  bool Overdue(Time now);
  Task<void> Teardown();
  void AbortWithoutUnit();
  uint32_t max_cmd_sn() const { return exp_cmd_sn_ - 1 + (limits_.command_window - outstanding_); }

  struct FlushHook : Completion {
    explicit FlushHook(Session* s)
        : Completion([](Completion* self, int32_t) noexcept {
            static_cast<FlushHook*>(self)->session->flush_posted_ = false;
            static_cast<FlushHook*>(self)->session->Flush();
          }),
          session(s) {}
    Session* session;
  };
  struct SendHook : Completion {
    explicit SendHook(Session* s)
        : Completion([](Completion* self, int32_t result) noexcept {
            static_cast<SendHook*>(self)->session->OnSent(result);
          }),
          session(s) {}
    Session* session;
  };
  struct TickTimer : Timer {
    explicit TickTimer(Session* s)
        : Timer([](Timer* self) noexcept { static_cast<TickTimer*>(self)->session->Tick(); }),
          session(s) {}
    Session* session;
  };

  Reactor& reactor_;
  SessionHost& host_;
  std::unique_ptr<Stream> stream_;
  SessionSetup setup_;
  const SessionLimits limits_;
  SessionCounters counters_;
  PduReader reader_;
  std::optional<scsi::Nexus> nexus_;

  uint32_t exp_cmd_sn_;
  uint32_t stat_sn_;
  uint32_t outstanding_ = 0;  // windowed commands that have not been answered
  uint32_t immediate_ = 0;    // immediate commands and task management in progress
  uint64_t buffer_bytes_ = 0;

  std::deque<Command> commands_;
  std::vector<Command*> free_;
  uint32_t in_use_ = 0;
  StarvedList starved_;
  bool feeding_ = false;
  Command* filling_ = nullptr;  // its buffer is being received into
  Command* last_unsolicited_ = nullptr;
  std::string control_data_;  // data segment of a NOP-Out or Text request
  std::string text_request_;  // chained with the C bit
  std::string text_answer_;   // what is left of a long answer
  uint32_t text_tag_ = kReservedTag;
  uint32_t next_tag_ = 1;
  std::array<std::byte, 4096> dropped_;  // payload that nobody wants

  OutputList output_;
  uint32_t queued_pdus_ = 0;
  SendBatch batch_;
  std::vector<Command*> batch_commands_;  // given back when the batch is sent
  std::vector<ControlPdu*> batch_pdus_;
  bool sending_ = false;
  bool flush_posted_ = false;
  FlushHook flush_hook_{this};
  SendHook send_hook_{this};

  TickTimer tick_{this};
  bool heard_ = false;  // a PDU since the last tick
  Time quiet_since_{};
  Time send_since_{};
  uint32_t ping_tag_ = kReservedTag;
  bool ending_ = false;
  bool logged_out_ = false;
  bool has_ended_ = false;
  WaitQueue idle_;  // something of this session ended
  WaitQueue ended_;
  TaskGroup tasks_;
};

}  // namespace umblock::iscsi
