// Request: one SCSI command on its way through a logical unit. It is embedded in the transport's
// own command object, comes from the transport's pool, and is at the same time the BlockIo of a
// plain READ or WRITE, so that the hot path allocates nothing.
//
// Life: the transport fills `cdb` and `attribute` and calls Nexus::Prepare. If that says kReady it
// provides `buffer` (buffer_bytes), receives data_out_bytes into it, and calls
// LogicalUnit::Execute; the owner then hears OnRequestDone exactly once, perhaps from inside
// Execute. A request that was prepared and will not be executed is given to LogicalUnit::Abandon.
#pragma once

#include <array>
#include <boost/intrusive/list.hpp>
#include <cstdint>

#include "engine/block/block_device.h"
#include "engine/runtime/buffer_pool.h"
#include "engine/scsi/cdb.h"
#include "engine/scsi/constants.h"
#include "engine/scsi/sense.h"

namespace umblock::scsi {

class LuNexus;
struct Request;

class RequestOwner {
 public:
  // Status, sense and data are in the request, which has left the logical unit. With
  // request->aborted there is no answer to the initiator.
  virtual void OnRequestDone(Request* request) noexcept = 0;
  // A task management function or a reset ends a request that was prepared and waits for its data:
  // the owner gives it up with LogicalUnit::Abandon before it returns, and sends no answer.
  virtual void OnRequestAborted(Request* request) noexcept = 0;

 protected:
  ~RequestOwner() = default;
};

struct Request : BlockIo {
  explicit Request(RequestOwner* request_owner);

  // From the transport.
  RequestOwner* owner;
  std::array<std::byte, kMaxCdbLength> cdb{};
  TaskAttribute attribute = TaskAttribute::kSimple;

  // From Prepare.
  LuNexus* nexus = nullptr;
  Command command;
  uint32_t data_out_bytes = 0;  // what the command takes from the initiator
  uint32_t buffer_bytes = 0;    // what `buffer` must hold; 0: none is needed

  // From the transport, before Execute.
  Buffer buffer;
  uint32_t data_out_received = 0;   // at most data_out_bytes
  bool data_out_truncated = false;  // the initiator meant to send less than data_out_bytes
  bool data_out_excess = false;     // the initiator meant to send more than data_out_bytes

  // The result.
  ScsiStatus status = ScsiStatus::kGood;
  Sense sense;
  uint32_t data_in_bytes = 0;  // in `buffer`
  bool aborted = false;

  // The logical unit's own.
  enum class State : uint8_t { kIdle, kWaiting, kBlocked, kRunning };
  State state = State::kIdle;
  boost::intrusive::list_member_hook<> hook;
  iovec data{};

  void Fail(const Sense& reason) {
    status = ScsiStatus::kCheckCondition;
    sense = reason;
  }
};

using RequestList = boost::intrusive::list<
    Request,
    boost::intrusive::member_hook<Request, boost::intrusive::list_member_hook<>, &Request::hook>>;

}  // namespace umblock::scsi
