#include "engine/scsi/logical_unit.h"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

namespace umblock::scsi {
namespace {

bool Exclusive(CommandKind kind) {
  return kind == CommandKind::kCompareAndWrite || kind == CommandKind::kOrWrite;
}

bool Ordered(const Request& request) { return request.attribute == TaskAttribute::kOrdered; }

// Would the two touch the same blocks, one of them exclusively? UNMAP has its ranges in its
// parameter list and counts as touching everything.
bool RangesConflict(const Request& a, const Request& b) {
  if (!a.command.info->writes || !b.command.info->writes) return false;
  if (!Exclusive(a.command.kind()) && !Exclusive(b.command.kind())) return false;
  if (a.command.kind() == CommandKind::kUnmap || b.command.kind() == CommandKind::kUnmap) {
    return true;
  }
  return a.command.lba < b.command.lba + b.command.blocks &&
         b.command.lba < a.command.lba + a.command.blocks;
}

}  // namespace

Request::Request(RequestOwner* request_owner) : BlockIo(nullptr), owner(request_owner) {}

Status LogicalUnit::Validate(BlockDevice& device, const UnitOptions& options) {
  if (options.block_size != 512 && options.block_size != 4096) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "LUN {}: block size {} is not offered; use 512 or 4096", options.lun,
                     options.block_size);
  }
  if (options.lun > kMaxLun) {
    return MakeError(ErrorCode::kInvalidArgument, "LUN {} is out of range; LUNs are 0 to {}",
                     options.lun, kMaxLun);
  }
  if (device.geometry().logical_block_size > options.block_size) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "LUN {}: {} has blocks of {} bytes and cannot be offered with {} byte blocks",
                     options.lun, device.name(), device.geometry().logical_block_size,
                     options.block_size);
  }
  bool printable = std::ranges::all_of(options.serial, [](char c) { return c > ' ' && c < 0x7f; });
  if (options.serial.empty() || options.serial.size() > 36 || !printable) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "LUN {}: the serial number '{}' must have 1 to 36 printable ASCII characters",
                     options.lun, options.serial);
  }
  return {};
}

LogicalUnit::LogicalUnit(BlockDevice& device, UnitOptions options)
    : device_(device),
      options_(std::move(options)),
      blocks_(device.geometry().size / options_.block_size),
      access_(access()),
      changed_(device.reactor()),
      steps_(device.reactor()) {
  modes_.write_cache = device.geometry().volatile_cache;
  device_.AddObserver(this);
}

LogicalUnit::~LogicalUnit() {
  UMBLOCK_ASSERT(requests_.empty(), "a logical unit is stopped before it goes");
  UMBLOCK_ASSERT(attached_.empty(), "sessions leave a logical unit before it goes");
  device_.RemoveObserver(this);
}

Task<void> LogicalUnit::Stop() {
  stopping_ = true;
  AbortMatching([](const Request&) { return true; });
  while (!requests_.empty() || waiting_ != 0) {
    changed_.NotifyAll();
    co_await device_.reactor().Yield();
    if (!requests_.empty()) co_await changed_.Wait();
  }
  co_await steps_.Join();
}

std::vector<std::string> LogicalUnit::session_names() const {
  std::vector<std::string> names;
  for (const LuNexus* nexus : attached_) {
    names.push_back(const_cast<LuNexus*>(nexus)->nexus().identity().initiator_name);
  }
  return names;
}

void LogicalUnit::Detach(LuNexus* nexus) {
  reservations_.EndSession(nexus->nexus().identity().session);
  std::erase(attached_, nexus);
}

Access LogicalUnit::access() const {
  const bool too_coarse = device_.geometry().logical_block_size > options_.block_size;
  return too_coarse ? Access::kUnavailable : device_.access();
}

void LogicalUnit::OnDeviceChanged() {
  uint64_t blocks = device_.geometry().size / options_.block_size;
  Access access = this->access();
  if (blocks != blocks_) {
    blocks_ = blocks;
    RaiseOthers(nullptr, UnitAttention::kCapacityChanged);
  }
  if (access == access_) return;
  access_ = access;
  RaiseOthers(nullptr, UnitAttention::kAccessChanged);
  for (LuNexus* nexus : attached_) {
    access == Access::kReadWrite ? static_cast<void>(nexus->TryOpen()) : nexus->Close();
  }
}

// ---- admission

bool LogicalUnit::Refuse(Request* request, const Sense& sense) {
  request->Fail(sense);
  ++counters_.check_conditions;
  return false;
}

Sense LogicalUnit::NotReadySense() const {
  switch (access()) {
    case Access::kStandby:
      return kNotReadyStandby;
    case Access::kUnavailable:
      return kNotReadyUnavailable;
    default:
      return kNotReadyCause;
  }
}

Sense LogicalUnit::SenseFor(int error, bool write) const {
  if (error == EROFS || error == ENODEV || error == ENXIO) {
    return access() == Access::kReadWrite ? SenseFromErrno(error, write) : NotReadySense();
  }
  return SenseFromErrno(error, write);
}

bool LogicalUnit::MediumReady(LuNexus* nexus) {
  return access() == Access::kReadWrite && nexus->TryOpen();
}

bool LogicalUnit::CheckState(Request* request) {
  const CommandInfo& info = *request->command.info;
  LuNexus* nexus = request->nexus;
  if (reservations_.active()) [[unlikely]] {
    const NexusIdentity& identity = nexus->nexus().identity();
    if (!reservations_.Permits(identity.initiator_port, identity.session, info)) {
      request->status = ScsiStatus::kReservationConflict;
      ++counters_.conflicts;
      return false;
    }
  }
  if (info.needs_ready && !MediumReady(nexus)) return Refuse(request, NotReadySense());
  bool may_write = !modes_.write_protect && !options_.read_only;
  if (info.writes && !may_write && info.kind != CommandKind::kSynchronizeCache) {
    return Refuse(request, kWriteProtected);
  }
  return true;
}

bool LogicalUnit::CheckRange(Request* request) {
  const Command& command = request->command;
  // An LBA at the very end with no blocks is outside, too (SBC-3 §4.5.2 leaves it to us).
  if (command.lba >= blocks_ || command.blocks > blocks_ - command.lba) {
    return Refuse(request, kLbaOutOfRange.WithInformation(command.lba));
  }
  return true;
}

// Sets data_out_bytes and buffer_bytes, within the limits that VPD page B0h declares.
bool LogicalUnit::Size(Request* request) {
  const Command& command = request->command;
  uint64_t bytes = uint64_t{command.blocks} * options_.block_size;
  uint8_t length_at = command.info->cdb_length == 10 ? 7 : command.info->cdb_length == 12 ? 6 : 10;
  switch (command.kind()) {
    case CommandKind::kRead:
      if (!CheckRange(request)) return false;
      request->buffer_bytes = static_cast<uint32_t>(bytes);
      break;
    case CommandKind::kWrite:
    case CommandKind::kWriteAndVerify:
    case CommandKind::kOrWrite:
      if (!CheckRange(request)) return false;
      request->data_out_bytes = static_cast<uint32_t>(bytes);
      break;
    case CommandKind::kVerify:
      if (!CheckRange(request)) return false;
      if (command.bytchk != 0) request->data_out_bytes = static_cast<uint32_t>(bytes);
      break;
    case CommandKind::kCompareAndWrite:
      if (!CheckRange(request)) return false;
      if (command.blocks > kMaxCompareAndWriteBlocks) {
        return Refuse(request, kInvalidFieldInCdb.AtCdb(13));
      }
      request->data_out_bytes = static_cast<uint32_t>(2 * bytes);
      return true;
    case CommandKind::kWriteSame:
      if (command.blocks == 0 || bytes > kMaxWriteSameLength) {
        return CheckRange(request) && Refuse(request, kInvalidFieldInCdb.AtCdb(length_at));
      }
      request->data_out_bytes = command.no_data_out ? 0 : options_.block_size;
      return CheckRange(request);
    case CommandKind::kPreFetch:
    case CommandKind::kSynchronizeCache:
      return CheckRange(request);
    case CommandKind::kModeSelect:
    case CommandKind::kUnmap:
    case CommandKind::kPersistentReserveOut:
      request->data_out_bytes = command.parameter_length;
      return true;
    default:
      request->buffer_bytes = std::min(command.allocation_length, kMaxParameterData);
      return true;
  }
  return bytes <= kMaxTransferLength || Refuse(request, kInvalidFieldInCdb.AtCdb(length_at));
}

bool LogicalUnit::Prepare(Request* request) {
  auto command = ParseCdb(request->cdb);
  LuNexus* nexus = request->nexus;
  bool reports_attention = !command || command->info->reports_attention;
  if (nexus->attention_pending() && reports_attention) [[unlikely]] {
    return Refuse(request, nexus->TakeAttention());
  }
  if (!command) return Refuse(request, command.error());
  request->command = *command;
  if (!device_.geometry().can_discard) {
    // Not thin: LBPME is 0, and nothing is unmapped (SBC-3 §4.7.2).
    if (command->kind() == CommandKind::kUnmap) return Refuse(request, kInvalidOpcode);
    if (command->unmap) return Refuse(request, kInvalidFieldInCdb.AtCdb(1, 3));
  }
  if (stopping_) return Refuse(request, kNotReadyUnavailable);
  if (!CheckState(request) || !Size(request)) return false;
  request->buffer_bytes = std::max(request->buffer_bytes, request->data_out_bytes);
  request->state = Request::State::kWaiting;
  requests_.push_back(*request);
  ++nexus->requests;
  if (Ordered(*request)) ++gates_;
  return true;
}

// ---- order

bool LogicalUnit::Gates(const Request& request) const {
  return Ordered(request) || Exclusive(request.command.kind());
}

bool LogicalUnit::CanStart(const Request& request) const {
  bool older = true;
  for (const Request& other : requests_) {
    if (&other == &request) {
      older = false;
      continue;
    }
    bool executing = other.state == Request::State::kRunning;
    bool before = older && other.state == Request::State::kBlocked;
    if ((executing || before) && RangesConflict(other, request)) return false;
    bool in_order = Ordered(other) || Ordered(request);
    if (in_order && request.attribute != TaskAttribute::kHeadOfQueue && (older || executing)) {
      return false;
    }
  }
  return true;
}

void LogicalUnit::Execute(Request* request) noexcept {
  UMBLOCK_ASSERT(request->state == Request::State::kWaiting, "a request is executed once");
  if (Exclusive(request->command.kind()) && !Ordered(*request)) ++gates_;
  if (gates_ != 0 && !CanStart(*request)) [[unlikely]] {
    request->state = Request::State::kBlocked;
    ++blocked_;
    return;
  }
  Start(request);
}

void LogicalUnit::Remove(Request* request) noexcept {
  bool executed = request->state != Request::State::kWaiting;
  if (request->state == Request::State::kBlocked) --blocked_;
  if (Ordered(*request) || (executed && Gates(*request))) --gates_;
  request->state = Request::State::kIdle;
  requests_.erase(requests_.iterator_to(*request));
  --request->nexus->requests;
  if (!changed_.empty()) changed_.NotifyAll();
}

void LogicalUnit::Abandon(Request* request) noexcept {
  UMBLOCK_ASSERT(request->state == Request::State::kWaiting, "only a waiting request is abandoned");
  Remove(request);
  if (blocked_ != 0) ResumeBlocked();
}

void LogicalUnit::Finish(Request* request) noexcept {
  if (request->aborted) --aborted_running_;
  if (request->status != ScsiStatus::kGood) request->data_in_bytes = 0;
  if (request->status == ScsiStatus::kCheckCondition) ++counters_.check_conditions;
  Remove(request);
  request->owner->OnRequestDone(request);
  if (blocked_ != 0) [[unlikely]]
    ResumeBlocked();
}

// Starts what no longer has to wait. Starting may finish requests and come back here: then the
// outer loop goes round once more.
void LogicalUnit::ResumeBlocked() noexcept {
  resume_again_ = true;
  if (resuming_) return;
  resuming_ = true;
  while (std::exchange(resume_again_, false)) {
    for (Request& request : requests_) {
      if (request.state != Request::State::kBlocked || !CanStart(request)) continue;
      --blocked_;
      Start(&request);
      resume_again_ = true;  // the list may have changed: from the start
      break;
    }
  }
  resuming_ = false;
}

// ---- task management

void LogicalUnit::EndAborted(Request* request) noexcept {
  request->aborted = true;
  switch (request->state) {
    case Request::State::kWaiting:
      request->owner->OnRequestAborted(request);
      break;
    case Request::State::kBlocked:
      Remove(request);
      request->owner->OnRequestDone(request);
      break;
    default:
      ++aborted_running_;
      break;
  }
}

bool LogicalUnit::AbortTask(Request* request) {
  if (request->state == Request::State::kIdle || request->aborted) return false;
  EndAborted(request);
  if (blocked_ != 0) ResumeBlocked();
  return true;
}

template <typename Match>
void LogicalUnit::AbortMatching(Match match) {
  bool again = true;
  while (again) {
    again = false;
    for (Request& request : requests_) {
      if (request.aborted || !match(request)) continue;
      EndAborted(&request);
      again = true;
      break;
    }
  }
  if (blocked_ != 0) ResumeBlocked();
}

void LogicalUnit::AbortPort(const std::string& port) {
  AbortMatching([&port](const Request& request) {
    return request.nexus->nexus().identity().initiator_port == port;
  });
}

void LogicalUnit::AbortTasks(LuNexus* nexus) {
  AbortMatching([nexus](const Request& request) { return request.nexus == nexus; });
}

void LogicalUnit::ClearTasks(LuNexus* cause) {
  for (LuNexus* nexus : attached_) {
    if (nexus != cause && nexus->requests != 0) nexus->Raise(UnitAttention::kCommandsCleared);
  }
  AbortMatching([](const Request&) { return true; });
}

void LogicalUnit::Reset() {
  AbortMatching([](const Request&) { return true; });
  reservations_.ReleaseAllSessions();
  ModeValues defaults{.write_cache = device_.geometry().volatile_cache};
  modes_ = defaults;
  for (LuNexus* nexus : attached_) {
    nexus->prevents_removal = false;
    nexus->Raise(UnitAttention::kReset);
  }
}

Task<void> LogicalUnit::WaitAborted() {
  ++waiting_;
  while (aborted_running_ != 0) co_await changed_.Wait();
  --waiting_;
}

Task<void> LogicalUnit::WaitRequestEnd() {
  ++waiting_;
  co_await changed_.Wait();
  --waiting_;
}

void LogicalUnit::RaiseOthers(const LuNexus* cause, UnitAttention attention) {
  for (LuNexus* nexus : attached_) {
    if (nexus != cause) nexus->Raise(attention);
  }
}

// ---- hot path

// The initiator sent less than the command takes: whole blocks are written (FCP-4 §9.5.8, as iSCSI
// initiators expect it), a part of a block is an error, and so is anything else that is short.
// True: go on. False: the request is finished or failed.
bool LogicalUnit::AdjustTruncated(Request* request) {
  CommandKind kind = request->command.kind();
  if (request->data_out_excess) {
    // Here too much data means that the initiator counts in other blocks than we do.
    bool same = kind == CommandKind::kWriteSame && !request->command.no_data_out;
    bool compare = kind == CommandKind::kCompareAndWrite;
    if (same) request->Fail(kInvalidFieldInInformationUnit);
    if (compare) request->Fail(kInvalidFieldInCdb.AtCdb(13));
    return !same && !compare;
  }
  bool writes = kind == CommandKind::kWrite || kind == CommandKind::kWriteAndVerify;
  if (!writes) {
    bool list = kind == CommandKind::kModeSelect || kind == CommandKind::kUnmap ||
                kind == CommandKind::kPersistentReserveOut;
    request->Fail(list ? kParameterListLengthError : kInvalidFieldInInformationUnit);
    return false;
  }
  if (request->data_out_received % options_.block_size != 0) {
    request->Fail(kInvalidFieldInInformationUnit);
    return false;
  }
  request->command.blocks = request->data_out_received / options_.block_size;
  return true;
}

void LogicalUnit::Start(Request* request) noexcept {
  request->state = Request::State::kRunning;
  if (request->data_out_truncated || request->data_out_excess) [[unlikely]] {
    if (!AdjustTruncated(request)) return Finish(request);
  }
  const Command& command = request->command;
  switch (command.kind()) {
    case CommandKind::kRead:
      ++counters_.reads;
      counters_.read_bytes += uint64_t{command.blocks} * options_.block_size;
      if (command.blocks == 0) return Finish(request);
      return StartTransfer(request, IoOp::kRead, false);
    case CommandKind::kWrite:
      ++counters_.writes;
      counters_.write_bytes += uint64_t{command.blocks} * options_.block_size;
      if (command.blocks == 0) return Finish(request);
      return StartTransfer(request, IoOp::kWrite, command.fua || !modes_.write_cache);
    case CommandKind::kSynchronizeCache:
      ++counters_.flushes;
      return StartTransfer(request, IoOp::kFlush, false);
    case CommandKind::kVerify:
    case CommandKind::kWriteAndVerify:
    case CommandKind::kCompareAndWrite:
    case CommandKind::kOrWrite:
    case CommandKind::kWriteSame:
    case CommandKind::kUnmap:
      command.info->writes ? ++counters_.writes : ++counters_.reads;
      return steps_.Spawn(RunSteps(request));
    case CommandKind::kPersistentReserveOut:
      ++counters_.others;
      return steps_.Spawn(ReserveOutSteps(request));
    case CommandKind::kModeSelect: {
      ++counters_.others;
      const bool cached = modes_.write_cache;
      RunControl(request);
      // SBC-3 §6.5.5: what is cached when the cache is turned off goes to the medium.
      if (cached && !modes_.write_cache) return StartTransfer(request, IoOp::kFlush, false);
      return Finish(request);
    }
    default:
      ++counters_.others;
      RunControl(request);
      return Finish(request);
  }
}

void LogicalUnit::StartTransfer(Request* request, IoOp op, bool fua) noexcept {
  request->op = op;
  request->fua = fua && op == IoOp::kWrite;
  request->offset = 0;
  request->length = 0;
  request->iov = {};
  if (op != IoOp::kFlush) {
    request->offset = request->command.lba * options_.block_size;
    request->length = uint64_t{request->command.blocks} * options_.block_size;
    request->data = request->buffer.iov(request->length);
    request->iov = std::span(&request->data, 1);
  }
  request->done = &TransferDone;
  device_.Submit(request);
}

void LogicalUnit::TransferDone(BlockIo* io, int error) noexcept {
  auto* request = static_cast<Request*>(io);
  LogicalUnit& unit = request->nexus->unit();
  if (error != 0) [[unlikely]] {
    Sense sense = unit.SenseFor(error, io->op != IoOp::kRead);
    request->Fail(io->op == IoOp::kFlush ? sense : sense.WithInformation(request->command.lba));
  } else if (io->op == IoOp::kRead) {
    request->data_in_bytes = static_cast<uint32_t>(io->length);
  }
  unit.Finish(request);
}

}  // namespace umblock::scsi
