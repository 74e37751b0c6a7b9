// Runs SCSI commands against a Nexus, the way a transport does, and collects the answers.
#pragma once

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "engine/scsi/nexus.h"
#include "engine/scsi/testing/inline_reactor.h"

namespace umblock::scsi {

using Cdb = std::vector<uint8_t>;

inline Cdb Cdb10(uint8_t opcode, uint32_t lba, uint16_t length, uint8_t flags = 0) {
  Cdb cdb(10);
  cdb[0] = opcode;
  cdb[1] = flags;
  StoreBe<uint32_t>(&cdb[2], lba);
  StoreBe<uint16_t>(&cdb[7], length);
  return cdb;
}

inline Cdb Cdb16(uint8_t opcode, uint64_t lba, uint32_t length, uint8_t flags = 0) {
  Cdb cdb(16);
  cdb[0] = opcode;
  cdb[1] = flags;
  StoreBe<uint64_t>(&cdb[2], lba);
  StoreBe<uint32_t>(&cdb[10], length);
  return cdb;
}

struct Answer {
  bool done = false;
  bool aborted = false;
  ScsiStatus status = ScsiStatus::kGood;
  Sense sense;
  std::vector<uint8_t> data;
};

// One command in flight; the answer is there once `done`.
class RunningCommand final : public RequestOwner {
 public:
  RunningCommand() : request(this) {}
  ~RunningCommand() {
    if (request.state == Request::State::kWaiting) Nexus::Abandon(&request);
  }

  void OnRequestDone(Request*) noexcept override {
    answer.done = true;
    answer.aborted = request.aborted;
    answer.status = request.status;
    answer.sense = request.sense;
    if (request.data_in_bytes != 0) {
      const auto* at = reinterpret_cast<const uint8_t*>(request.buffer.data());
      answer.data.assign(at, at + request.data_in_bytes);
    }
    request.buffer.Release();
  }
  void OnRequestAborted(Request*) noexcept override {
    Nexus::Abandon(&request);
    answer.done = true;
    answer.aborted = true;
  }

  Request request;
  Answer answer;
};

class CommandRunner {
 public:
  CommandRunner(InlineReactor& reactor, Nexus& nexus) : reactor_(reactor), nexus_(nexus) {}

  // Prepares only; data is as much as the initiator says it sends.
  std::unique_ptr<RunningCommand> Prepare(const Cdb& cdb, const std::vector<uint8_t>& data = {},
                                          TaskAttribute attribute = TaskAttribute::kSimple,
                                          uint32_t lun = 0) {
    auto running = std::make_unique<RunningCommand>();
    Request& request = running->request;
    std::memcpy(request.cdb.data(), cdb.data(), std::min(cdb.size(), request.cdb.size()));
    request.attribute = attribute;
    if (nexus_.Prepare(EncodeLun(lun), &request) == Nexus::Stage::kFinished) {
      running->OnRequestDone(&request);
      return running;
    }
    if (request.buffer_bytes != 0) {
      request.buffer = reactor_.buffers().TryAllocate(request.buffer_bytes);
    }
    size_t sent = std::min<size_t>(data.size(), request.data_out_bytes);
    if (sent != 0) std::memcpy(request.buffer.data(), data.data(), sent);
    request.data_out_received = static_cast<uint32_t>(sent);
    request.data_out_truncated = data.size() < request.data_out_bytes;
    request.data_out_excess = data.size() > request.data_out_bytes;
    return running;
  }
  std::unique_ptr<RunningCommand> Start(const Cdb& cdb, const std::vector<uint8_t>& data = {},
                                        TaskAttribute attribute = TaskAttribute::kSimple) {
    auto running = Prepare(cdb, data, attribute);
    if (!running->answer.done) nexus_.Execute(&running->request);
    return running;
  }
  Answer Run(const Cdb& cdb, const std::vector<uint8_t>& data = {}, uint32_t lun = 0) {
    auto running = Prepare(cdb, data, TaskAttribute::kSimple, lun);
    if (!running->answer.done) nexus_.Execute(&running->request);
    reactor_.Run();
    return running->answer;
  }
  Nexus& nexus() { return nexus_; }

 private:
  InlineReactor& reactor_;
  Nexus& nexus_;
};

}  // namespace umblock::scsi
