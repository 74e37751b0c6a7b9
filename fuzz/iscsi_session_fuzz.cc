// An initiator in full feature phase that sends anything: PDUs, commands, data, text. The session
// must end with everything given back. The input starts with the parameters of the session and the
// sizes in which the bytes arrive; the CmdSN of PDUs is put in order unless the input says not to,
// so that commands get past the window.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "engine/iscsi/session.h"
#include "engine/iscsi/testing/fake_stream.h"
#include "engine/scsi/logical_unit.h"
#include "engine/scsi/testing/inline_reactor.h"
#include "engine/scsi/testing/memory_device.h"

namespace umblock::iscsi {
namespace {

class Host final : public SessionHost {
 public:
  std::string SendTargets(const Session&, std::string_view which) override {
    std::string text;
    for (int i = 0; i < 50; ++i) AppendText("TargetName", which.substr(0, 200), &text);
    return text;
  }
  void OnColdReset(Session& session) override { session.DropWithNotice("cold reset"); }
};

// Numbers the commands of a byte stream as a real initiator would.
void Renumber(std::string* bytes, bool digests) {
  size_t at = 0;
  uint32_t number = 1;
  while (bytes->size() - at >= kBhsLength) {
    Bhs header(std::as_bytes(std::span(*bytes)).subspan(at, kBhsLength));
    bool numbered = header.op() != Op::kDataOut && header.op() != Op::kSnack &&
                    !(header.op() == Op::kNopOut && header.task_tag() == kReservedTag);
    header.Put<uint32_t>(24, number);
    if (numbered && !header.immediate()) ++number;
    std::memcpy(bytes->data() + at, header.bytes().data(), kBhsLength);
    size_t length = kBhsLength + header.ahs_length() + header.padded_data_length();
    if (digests) length += kDigestLength;
    if (length > bytes->size() - at) return;
    at += length;
  }
}

void Run(std::string bytes, uint8_t mode, std::string pieces) {
  scsi::InlineReactor reactor;
  scsi::MemoryDevice device(reactor, 64 * 1024);
  scsi::TargetDevice target("iqn.t:disk");
  scsi::LogicalUnit unit(device, {.lun = 0, .serial = "fuzz", .target_name = "iqn.t:disk"});
  target.AddUnit(0, &unit);
  Host host;
  SessionSetup setup{.initiator = "iqn.i:host", .isid = "0x000000000001", .tsih = 1, .id = 1};
  setup.exp_cmd_sn = 1;
  setup.stat_sn = 1;
  setup.params = {.data_digest = (mode & 1) != 0,
                  .initial_r2t = (mode & 2) != 0,
                  .immediate_data = (mode & 4) == 0,
                  .max_burst = 4096,
                  .first_burst = 2048,
                  .initiator_max_data = 1024,
                  .target_max_data = 4096};
  if ((mode & 8) == 0) {
    setup.target = "iqn.t:disk";
    setup.device = &target;
  }
  if ((mode & 16) == 0) Renumber(&bytes, (mode & 1) != 0);
  if ((mode & 32) != 0) device.Hold();
  SessionLimits limits{.command_window = 8, .max_buffer_bytes = 32 * 1024, .max_immediate = 2};
  {
    Session session(reactor, host, std::make_unique<FakeStream>(reactor, std::move(bytes), pieces),
                    std::move(setup), limits);
    TaskGroup group(reactor);
    group.Spawn(session.Run());
    reactor.Run();
    device.ReleaseHeld();
    reactor.Run();
    UMBLOCK_ASSERT(session.has_ended(), "a session ends with its stream");
    UMBLOCK_ASSERT(reactor.buffers().bytes_out() == 0, "all memory is given back");
  }
  TaskGroup group(reactor);
  group.Spawn(unit.Stop());
  reactor.Run();
  UMBLOCK_ASSERT(group.running() == 0, "a unit without requests stops");
}

}  // namespace
}  // namespace umblock::iscsi

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  std::string pieces(reinterpret_cast<const char*>(data) + 1, data[0] % 5);
  umblock::iscsi::Run(std::string(reinterpret_cast<const char*>(data) + 8, size - 8), data[7],
                      std::move(pieces));
  return 0;
}
