// Command descriptor blocks and their data on a logical unit in memory, from two initiators. Each
// command of the input is: a byte of options, 16 bytes of CDB, a length byte, and that many bytes
// of data, repeated to the length that the command takes.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/scsi/logical_unit.h"
#include "engine/scsi/testing/command_runner.h"
#include "engine/scsi/testing/inline_reactor.h"
#include "engine/scsi/testing/memory_device.h"

namespace umblock::scsi {
namespace {

void Apply(uint8_t options, MemoryDevice& device) {
  if ((options & 0x0c) == 0x0c) device.FailNext((options & 0x10) != 0 ? 5 : 28);
  if ((options & 0xe0) == 0xe0) device.SetAccess(Access::kStandby);
  if ((options & 0xe0) == 0xc0) device.SetAccess(Access::kReadWrite);
}

void Run(Bytes input) {
  InlineReactor reactor;
  MemoryDevice device(reactor, 64 * 1024);
  LogicalUnit unit(device, {.lun = 0, .serial = "fuzz", .target_name = "iqn.t:disk"});
  TargetDevice target("iqn.t:disk");
  target.AddUnit(0, &unit);
  {
    Nexus first(target, {"iqn.a", "iqn.a,i,0x1", "a", 1});
    Nexus second(target, {"iqn.b", "iqn.b,i,0x1", "b", 2});
    CommandRunner runners[] = {CommandRunner(reactor, first), CommandRunner(reactor, second)};
    std::vector<std::unique_ptr<RunningCommand>> running;
    ByteReader reader(input);
    while (reader.left() >= 18 && running.size() < 64) {
      auto options = reader.Be<uint8_t>();
      Bytes cdb = reader.Raw(16);
      Bytes seed = reader.Raw(std::min<size_t>(reader.Be<uint8_t>(), reader.left()));
      Apply(options, device);
      const auto* at = reinterpret_cast<const uint8_t*>(cdb.data());
      size_t length = seed.empty() ? 0 : (options & 2) != 0 ? seed.size() : 8192;
      std::vector<uint8_t> data(length);
      for (size_t i = 0; i < length; ++i) {
        data[i] = std::to_integer<uint8_t>(seed[i % seed.size()]);
      }
      running.push_back(runners[options & 1].Start(Cdb(at, at + 16), data));
      if ((options & 0x10) != 0) reactor.Run();
    }
    reactor.Run();
    for (const auto& command : running) {
      UMBLOCK_ASSERT(command->answer.done, "every command is answered");
      UMBLOCK_ASSERT(command->answer.status != ScsiStatus::kCheckCondition ||
                         command->answer.sense.key != 0 || command->answer.aborted,
                     "a CHECK CONDITION says why");
    }
  }
  target.RemoveUnit(0);
  TaskGroup group(reactor);
  group.Spawn(unit.Stop());
  reactor.Run();
  UMBLOCK_ASSERT(reactor.buffers().bytes_out() == 0, "all memory is given back");
}

}  // namespace
}  // namespace umblock::scsi

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  umblock::scsi::Run(std::as_bytes(std::span(data, size)));
  return 0;
}
