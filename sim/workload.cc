#include "sim/workload.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/runtime/sync.h"

namespace umblock::sim {
namespace {

constexpr size_t kAlignment = 4096;
constexpr Duration kFocus = 20ms;
constexpr uint64_t kExtentSectors = 4 * 2048;  // drbd-metadata-resync.md 2: 4 MiB
constexpr std::byte kUsed{0xdd};               // what a buffer holds once its operation has ended

std::byte* Aligned(std::vector<std::byte>& buffer) {
  const auto address = reinterpret_cast<uintptr_t>(buffer.data());
  return buffer.data() + (AlignUp<uintptr_t>(address, kAlignment) - address);
}

}  // namespace

Workload::Workload(SimWorld& world, History& history, const WorkloadOptions& options)
    : world_(world), history_(history), options_(options), random_(world.Stream(0x776f726b)) {
  const uint64_t sectors = options.volume_bytes / kSectorBytes;
  for (uint64_t& spot : warm_) spot = AlignDown<uint64_t>(random_.Below(sectors - 4096), 8);
  slots_.resize(static_cast<size_t>(options.workers));
}

void Workload::Start(SimReactor& reactor, BlockDevice& device, uint32_t node) {
  session_ = std::make_shared<Session>(Session{&reactor, &device, node});
  for (size_t i = 0; i < slots_.size(); ++i) {
    slots_[i].busy = false;
    ++session_->workers;
    reactor.Spawn(Worker(session_, i));
  }
}

void Workload::Focus(uint64_t sector) {
  focus_ = sector;
  focus_until_ = world_.now() + kFocus;
}

void Workload::Stop() {
  if (session_ != nullptr) session_->stop = true;
}

Duration Workload::OldestAge() const {
  if (session_ == nullptr) return Duration(0);
  Duration oldest{};
  for (const Slot& slot : slots_) {
    if (slot.busy) oldest = std::max(oldest, world_.now() - slot.since);
  }
  return oldest;
}

std::string Workload::DescribeOldest() const {
  const Duration age = OldestAge();
  for (const Slot& slot : slots_) {
    if (slot.busy && world_.now() - slot.since == age) return slot.what;
  }
  return "nothing";
}

void Workload::Begin(size_t index, std::string what) {
  slots_[index] = {true, world_.now(), std::move(what)};
}

// A device without data says nothing about its size.
uint64_t Workload::Sectors() const {
  uint64_t bytes = options_.volume_bytes;
  if (options_.follows_size) bytes = std::max(bytes, session_->device->geometry().size);
  return bytes / kSectorBytes;
}

Workload::Range Workload::PickRange(uint64_t max_sectors) {
  const uint64_t sectors = Sectors();
  const uint64_t kind = random_.Below(10);
  uint64_t first = 0;
  if (kind < 3 && world_.now() < focus_until_) {
    first = focus_ + random_.Below(512);
  } else if (kind < 5) {
    first = random_.Below(options_.hot_sectors);
  } else if (kind < 8) {
    first = warm_[random_.Below(warm_.size())] + random_.Below(1024);
  } else if (options_.follows_size && kind == 9) {
    first = sectors - 1 - random_.Below(8192);  // what a volume grows by
  } else {
    first = random_.Below(sectors);
  }
  uint64_t count = 1 + random_.Below(1 + random_.Below(max_sectors));
  if (!random_.OneIn(4)) {
    first = AlignDown<uint64_t>(first, 8);
    count = AlignUp<uint64_t>(count, 8);
  }
  first = std::min(first, sectors - 8);
  return {first, std::min(count, sectors - first)};
}

// What lies off the granularity a device may leave as it is.
Workload::Range Workload::AlignToDiscard(Session& session, Range range) {
  const uint64_t unit =
      std::max<uint64_t>(session.device->geometry().discard_granularity / kSectorBytes, 1);
  range.sector = AlignDown(range.sector, unit);
  range.count = std::min(AlignUp(range.count, unit), Sectors() - range.sector);
  range.count = AlignDown(range.count, unit);
  return range;
}

std::vector<iovec> Workload::Scatter(std::byte* buffer, uint64_t bytes) {
  std::vector<iovec> parts;
  const uint64_t cut =
      random_.OneIn(3) ? random_.Below(bytes / kSectorBytes) * kSectorBytes : uint64_t{0};
  if (cut != 0) parts.push_back({buffer, cut});
  parts.push_back({buffer + cut, bytes - cut});
  return parts;
}

Task<void> Workload::Worker(std::shared_ptr<Session> session, size_t index) {
  std::vector<std::byte> buffer(options_.max_write_sectors * kSectorBytes + 8 * kSectorBytes +
                                kAlignment);
  while (!session->stop) {
    co_await OneOperation(*session, index, buffer);
    slots_[index].busy = false;
    if (session->stop) break;
    const auto mean = static_cast<uint64_t>(options_.mean_pause.count());
    if (!random_.OneIn(3)) {
      co_await Sleep(*session->reactor, Duration(static_cast<int64_t>(random_.Below(3 * mean))));
    }
  }
  --session->workers;
}

Task<void> Workload::OneOperation(Session& session, size_t index, std::vector<std::byte>& buffer) {
  std::byte* data = Aligned(buffer);
  const uint64_t dice = random_.Below(1000);
  uint64_t limit = options_.flush_permille;
  if (dice < limit) {
    Begin(index, "flush");
    co_await DoFlush(session);
    co_return;
  }
  limit += options_.zero_permille;
  if (dice < limit) {
    const bool discard = random_.OneIn(2);
    Range range = PickRange(random_.OneIn(8) ? 32768 : 512);
    if (discard) range = AlignToDiscard(session, range);
    Begin(index,
          fmt::format("{} of {}+{}", discard ? "discard" : "zeroes", range.sector, range.count));
    co_await DoZero(session, range, discard);
    co_return;
  }
  limit += options_.sweep_permille;
  if (dice < limit) {
    const uint64_t all = options_.volume_bytes / kSectorBytes / kExtentSectors;
    const uint64_t count = std::min({40 + random_.Below(80), all, options_.max_write_sectors});
    const uint64_t first = random_.Below(all);
    Begin(index, fmt::format("sweep over {} extents from {}", count, first));
    co_await DoSweep(session, first, count, data);
    co_return;
  }
  const Range range = PickRange(options_.max_write_sectors);
  if (dice < limit + options_.read_permille) {
    Begin(index, fmt::format("read of {}+{}", range.sector, range.count));
    co_await DoRead(session, range, data);
  } else {
    Begin(index, fmt::format("write of {}+{}", range.sector, range.count));
    co_await DoWrite(session, range, data, random_.Permille(options_.fua_permille));
  }
  std::fill_n(data, range.count * kSectorBytes, kUsed);
  if (!session.stop && session.device->access() != Access::kReadWrite) {
    co_await Sleep(*session.reactor, 20ms);
  }
}

Task<void> Workload::DoRead(Session& session, Range range, std::byte* buffer) {
  ++counts_.reads;
  const uint64_t bytes = range.count * kSectorBytes;
  const std::vector<iovec> parts = Scatter(buffer, bytes);
  const History::Read read = history_.BeginRead(range.sector, range.count);
  const int error = co_await session.device->Read(range.sector * kSectorBytes, parts);
  world_.Note(range.sector, static_cast<uint64_t>(error));
  if (error != 0) {
    history_.FailRead();
    ++counts_.errors;
    co_return;
  }
  if (Verdict wrong = history_.EndRead(read, {buffer, bytes})) world_.Fail(*wrong);
}

Task<void> Workload::DoWrite(Session& session, Range range, std::byte* buffer, bool fua) {
  ++counts_.writes;
  const uint64_t bytes = range.count * kSectorBytes;
  const std::vector<iovec> parts = Scatter(buffer, bytes);
  const uint32_t sequence =
      history_.BeginWrite(session.node, range.sector, range.count, false, fua);
  for (uint64_t i = 0; i < range.count; ++i) {
    WriteStamp({session.node, sequence, range.sector + i},
               {buffer + i * kSectorBytes, kSectorBytes});
  }
  const int error = co_await session.device->Write(range.sector * kSectorBytes, parts, fua);
  world_.Note(sequence, static_cast<uint64_t>(error));
  history_.EndWrite(sequence, error == 0);
  counts_.errors += error != 0;
  ++writes_ended_;
}

Task<void> Workload::DoSweep(Session& session, uint64_t first_extent, uint64_t extents,
                             std::byte* buffer) {
  ++counts_.sweeps;
  const uint64_t all = options_.volume_bytes / kSectorBytes / kExtentSectors;
  TaskGroup writes(*session.reactor);
  for (uint64_t i = 0; i < extents; ++i) {
    const uint64_t sector = (first_extent + i) % all * kExtentSectors + random_.Below(8);
    writes.Spawn(DoWrite(session, {sector, 1}, buffer + i * kSectorBytes, false));
  }
  co_await writes.Join();
}

Task<void> Workload::DoZero(Session& session, Range range, bool discard) {
  const BlockGeometry& geometry = session.device->geometry();
  discard = discard && geometry.can_discard && geometry.discard_reads_zeroes;
  if ((!discard && !geometry.can_write_zeroes) || range.count == 0) co_return;
  ++counts_.zeroes;
  const uint64_t offset = range.sector * kSectorBytes;
  const uint64_t bytes = range.count * kSectorBytes;
  const uint32_t sequence =
      history_.BeginWrite(session.node, range.sector, range.count, true, false);
  const int error = discard ? co_await session.device->Discard(offset, bytes)
                            : co_await session.device->WriteZeroes(offset, bytes, random_.OneIn(2));
  world_.Note(sequence, static_cast<uint64_t>(error));
  history_.EndWrite(sequence, error == 0);
  counts_.errors += error != 0;
}

Task<void> Workload::DoFlush(Session& session) {
  ++counts_.flushes;
  const uint64_t covers = history_.BeginFlush();
  const int error = co_await session.device->Flush();
  world_.Note(covers, static_cast<uint64_t>(error));
  history_.EndFlush(covers, error == 0);
  counts_.errors += error != 0;
}

}  // namespace umblock::sim
