#include "engine/runtime/sim/disk.h"

#include <algorithm>
#include <cerrno>

#include "engine/base/assert.h"
#include "engine/runtime/sim/file.h"

namespace umblock {
namespace {

constexpr std::array<std::byte, SimDisk::kSector> kZeroSector{};

uint64_t HashName(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return hash;
}

// The bytes of a scatter list, one sector at a time.
class SectorCursor {
 public:
  explicit SectorCursor(const std::vector<iovec>& iov) : iov_(iov) {}
  // Points at the next 512 bytes, copied only where they straddle two buffers.
  const std::byte* Next() {
    while (iov_[index_].iov_len == at_) Advance();
    const auto* base = static_cast<const std::byte*>(iov_[index_].iov_base);
    if (iov_[index_].iov_len - at_ >= SimDisk::kSector) {
      at_ += SimDisk::kSector;
      return base + at_ - SimDisk::kSector;
    }
    for (std::byte& byte : straddling_) {
      while (iov_[index_].iov_len == at_) Advance();
      byte = static_cast<const std::byte*>(iov_[index_].iov_base)[at_++];
    }
    return straddling_.data();
  }

 private:
  void Advance() {
    ++index_;
    at_ = 0;
  }

  const std::vector<iovec>& iov_;
  size_t index_ = 0;
  size_t at_ = 0;
  std::array<std::byte, SimDisk::kSector> straddling_;
};

}  // namespace

SimDisk::SimDisk(SimWorld& world, std::string name, const SimDiskOptions& options)
    : world_(world),
      name_(std::move(name)),
      options_(options),
      random_(world.Stream(HashName(name_))) {
  UMBLOCK_ASSERT(options.size % kPage == 0, "a simulated disk is whole pages");
  chunks_.resize((options.size / kPage + kPagesPerChunk - 1) / kPagesPerChunk);
}

void SimDisk::Grow(uint64_t bytes) {
  UMBLOCK_ASSERT(bytes % kPage == 0 && bytes >= options_.size, "a disk only grows, by whole pages");
  options_.size = bytes;
  chunks_.resize((bytes / kPage + kPagesPerChunk - 1) / kPagesPerChunk);
}

SimDisk::Page* SimDisk::FindPage(uint64_t page) const {
  const auto& chunk = chunks_[page / kPagesPerChunk];
  return chunk == nullptr ? nullptr : chunk->pages[page % kPagesPerChunk].get();
}

SimDisk::Page& SimDisk::MakePage(uint64_t page) {
  auto& chunk = chunks_[page / kPagesPerChunk];
  if (chunk == nullptr) chunk = std::make_unique<Chunk>();
  auto& slot = chunk->pages[page % kPagesPerChunk];
  if (slot == nullptr) slot = std::make_unique<Page>();
  return *slot;
}

bool SimDisk::PageInUse(uint64_t page) const { return FindPage(page) != nullptr; }

void SimDisk::ReadNow(uint64_t offset, MutableBytes into) const {
  while (!into.empty()) {
    const size_t within = offset % kPage;
    const size_t n = std::min(into.size(), kPage - within);
    if (const Page* page = FindPage(offset / kPage)) {
      std::memcpy(into.data(), page->data() + within, n);
    } else {
      std::memset(into.data(), 0, n);
    }
    into = into.subspan(n);
    offset += n;
  }
}

void SimDisk::ReadStable(uint64_t offset, MutableBytes into) const {
  while (!into.empty()) {
    const size_t within = offset % kSector;
    const size_t n = std::min(into.size(), kSector - within);
    const size_t index = offset % kPage / kSector;
    auto found = unstable_.find(offset / kPage);
    if (found != unstable_.end() && found->second.written[index] != 0) {
      std::memcpy(into.data(), found->second.stable.data() + offset % kPage, n);
    } else {
      ReadNow(offset, into.first(n));
    }
    into = into.subspan(n);
    offset += n;
  }
}

void SimDisk::WriteNow(uint64_t offset, Bytes bytes) {
  UMBLOCK_ASSERT(offset % kSector == 0 && bytes.size() % kSector == 0, "whole sectors");
  for (size_t at = 0; at < bytes.size(); at += kSector) {
    WriteSector((offset + at) / kSector, bytes.data() + at, true);
  }
}

uint64_t SimDisk::unstable_sectors() const {
  uint64_t count = 0;
  for (const auto& [page, unstable] : unstable_) {
    count += kSectorsPerPage - static_cast<uint64_t>(std::count(unstable.written.begin(),
                                                                unstable.written.end(), 0u));
  }
  return count;
}

bool SimDisk::SyncCovers(uint64_t write) const {
  return std::any_of(in_flight_.begin(), in_flight_.end(), [&](const auto& entry) {
    return entry.second.op == SimDiskOp::kSync && entry.second.sync_covers >= write;
  });
}

void SimDisk::WriteSector(uint64_t sector, const std::byte* data, bool stable) {
  const uint64_t number = sector / kSectorsPerPage;
  const size_t index = sector % kSectorsPerPage;
  if (data == nullptr) data = kZeroSector.data();
  Page* page = FindPage(number);
  const std::byte* old = page != nullptr ? page->data() + index * kSector : kZeroSector.data();
  auto entry = unstable_.find(number);
  if (stable) {
    if (entry != unstable_.end()) entry->second.written[index] = 0;
  } else {
    if (entry == unstable_.end()) {
      if (page == nullptr && std::memcmp(data, old, kSector) == 0) return;
      entry = unstable_.try_emplace(number).first;
    }
    Unstable& unstable = entry->second;
    // A sector that was stable, or whose version is written back now (which a flush in progress may
    // be about to promise): that version is what a power cut leaves at the least.
    if (unstable.written[index] == 0 || random_.OneIn(4) || SyncCovers(unstable.written[index])) {
      std::memcpy(unstable.stable.data() + index * kSector, old, kSector);
    }
    unstable.written[index] = writes_;
  }
  if (page == nullptr) {
    if (std::memcmp(data, old, kSector) == 0) return;
    page = &MakePage(number);
  }
  std::memcpy(page->data() + index * kSector, data, kSector);
}

void SimDisk::Apply(const Operation& operation, const std::vector<bool>* sectors) {
  ++writes_;
  const bool stable = operation.durable || !options_.volatile_cache;
  const uint64_t first = operation.offset / kSector;
  const uint64_t count = operation.length / kSector;
  if (operation.op == SimDiskOp::kWrite) {
    SectorCursor cursor(operation.iov);
    for (uint64_t i = 0; i < count; ++i) {
      const std::byte* data = cursor.Next();
      if (sectors == nullptr || (*sectors)[i]) WriteSector(first + i, data, stable);
    }
    return;
  }
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t page = (first + i) / kSectorsPerPage;
    if ((first + i) % kSectorsPerPage == 0 && count - i >= kSectorsPerPage && !PageInUse(page) &&
        !unstable_.contains(page)) {
      i += kSectorsPerPage - 1;  // a hole already
      continue;
    }
    if (sectors == nullptr || (*sectors)[i]) WriteSector(first + i, nullptr, stable);
  }
}

void SimDisk::FillFrom(Operation& operation) {
  uint64_t offset = operation.offset;
  for (const iovec& part : operation.iov) {
    ReadNow(offset, {static_cast<std::byte*>(part.iov_base), part.iov_len});
    offset += part.iov_len;
  }
}

Duration SimDisk::LatencyOf(const Operation& operation) {
  if (operation.op == SimDiskOp::kSync) {
    return random_.Skewed(options_.min_latency, options_.max_sync_latency) * slowdown_;
  }
  const bool transfers = operation.op == SimDiskOp::kRead || operation.op == SimDiskOp::kWrite;
  Duration transfer{};
  if (transfers) {
    transfer = Duration(
        static_cast<int64_t>(operation.length * 1'000'000'000 / options_.bytes_per_second));
  }
  medium_free_ = std::max(medium_free_, world_.now()) + transfer * slowdown_;
  return medium_free_ - world_.now() +
         random_.Skewed(options_.min_latency, options_.max_latency) * slowdown_;
}

void SimDisk::Start(SimFile* file, void* cookie, SimDiskOp op, uint64_t offset, uint64_t length,
                    std::vector<iovec> iov, bool durable) {
  const uint64_t id = next_id_++;
  Operation& operation =
      in_flight_.emplace(id, Operation{file, cookie, op, offset, length, std::move(iov), durable})
          .first->second;
  if (op == SimDiskOp::kSync) operation.sync_covers = writes_;
  ++counts_[static_cast<size_t>(op)];
  world_.Note(SimMix(offset, length), static_cast<uint64_t>(op));
  Observe(SimDiskEvent::What::kStarted, operation, 0);
  world_.After(LatencyOf(operation), SimEventKind::kDisk, [this, id] { Complete(id); });
}

int SimDisk::ErrorFor(const Operation& operation) {
  Fault& fault = faults_[static_cast<size_t>(operation.op)];
  if (fault.count != 0) {
    if (fault.skip != 0) {
      --fault.skip;
    } else {
      --fault.count;
      return fault.error;
    }
  }
  if (fault.permille != 0 && random_.Permille(fault.permille)) return fault.permille_error;
  if (operation.op == SimDiskOp::kSync) return 0;
  for (const BadRange& bad : bad_) {
    if (operation.offset < bad.end && bad.offset < operation.offset + operation.length) {
      return bad.error;
    }
  }
  return 0;
}

void SimDisk::Complete(uint64_t id) {
  auto found = in_flight_.find(id);
  if (found == in_flight_.end()) return;  // a crash took it
  if (hang_) {
    held_.push_back(id);
    return;
  }
  Operation& operation = found->second;
  const int error = ErrorFor(operation);
  if (error != 0) {
    if (operation.op != SimDiskOp::kRead && operation.op != SimDiskOp::kSync) {
      std::vector<bool> units =
          ChooseUnits(operation, random_.OneIn(2) ? Survival::kNothing : Survival::kRandom);
      operation.durable = false;
      Apply(operation, &units);
    }
  } else if (operation.op == SimDiskOp::kRead) {
    FillFrom(operation);
  } else if (operation.op == SimDiskOp::kSync) {
    CompleteSync(operation);
  } else {
    Apply(operation, nullptr);
  }
  Operation done = std::move(operation);
  in_flight_.erase(found);
  Observe(SimDiskEvent::What::kCompleted, done, error);
  done.file->OnDone(done.cookie, -error);
}

void SimDisk::CompleteSync(const Operation& operation) {
  for (auto entry = unstable_.begin(); entry != unstable_.end();) {
    bool any = false;
    for (uint64_t& written : entry->second.written) {
      if (written <= operation.sync_covers) written = 0;
      any |= written != 0;
    }
    entry = any ? std::next(entry) : unstable_.erase(entry);
  }
}

void SimDisk::FailNext(SimDiskOp op, int error, uint32_t count, uint32_t skip) {
  Fault& fault = faults_[static_cast<size_t>(op)];
  fault.error = error;
  fault.count = count;
  fault.skip = skip;
}

void SimDisk::SetErrorPermille(SimDiskOp op, uint32_t permille, int error) {
  Fault& fault = faults_[static_cast<size_t>(op)];
  fault.permille = permille;
  fault.permille_error = error;
}

void SimDisk::AddBadRange(uint64_t offset, uint64_t length, int error) {
  bad_.push_back({offset, offset + length, error});
}

void SimDisk::ClearFaults() {
  faults_ = {};
  bad_.clear();
}

void SimDisk::SetHang(bool hang) {
  hang_ = hang;
  if (hang) return;
  for (uint64_t id : held_) {
    world_.After(random_.Skewed(options_.min_latency, options_.max_latency), SimEventKind::kDisk,
                 [this, id] { Complete(id); });
  }
  held_.clear();
}

std::vector<bool> SimDisk::ChooseUnits(const Operation& operation, Survival survival) {
  const uint64_t count = operation.length / kSector;
  std::vector<bool> units(count, survival == Survival::kEverything);
  if (survival == Survival::kNothing || survival == Survival::kEverything) return units;
  const uint64_t per_unit = options_.atomic_bytes / kSector;
  const uint64_t first = operation.offset / kSector;
  const uint64_t prefix = random_.Below(count + 1);
  bool chosen = false;
  for (uint64_t i = 0; i < count; ++i) {
    if (i == 0 || (first + i) % per_unit == 0) {
      chosen = survival == Survival::kPrefix ? i < prefix : random_.OneIn(2);
    }
    units[i] = chosen;
  }
  return units;
}

void SimDisk::TearInFlight() {
  std::vector<uint64_t> order;
  for (const auto& [id, operation] : in_flight_) {
    if (operation.op != SimDiskOp::kRead && operation.op != SimDiskOp::kSync) order.push_back(id);
  }
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_.Below(i)]);
  for (uint64_t id : order) {
    const Operation& operation = in_flight_.at(id);
    std::vector<bool> units = ChooseUnits(operation, static_cast<Survival>(random_.Below(4)));
    Apply(operation, &units);
    const auto arrived = static_cast<size_t>(std::count(units.begin(), units.end(), true));
    const bool torn = arrived != 0 && arrived != units.size();
    Observe(torn ? SimDiskEvent::What::kTorn : SimDiskEvent::What::kDropped, operation, 0);
  }
}

void SimDisk::LoseUnstable() {
  const auto survival = static_cast<Survival>(random_.Below(4));
  const uint64_t last_kept = random_.Below(writes_ + 1);
  const size_t per_unit = options_.atomic_bytes / kSector;
  for (auto& [number, unstable] : unstable_) {
    bool keep = false;
    for (size_t i = 0; i < kSectorsPerPage; ++i) {
      if (i % per_unit == 0) {
        keep = survival == Survival::kEverything ||
               (survival == Survival::kRandom && random_.OneIn(2));
      }
      if (survival == Survival::kPrefix) keep = unstable.written[i] <= last_kept;
      if (unstable.written[i] == 0 || keep) continue;
      std::memcpy(MakePage(number).data() + i * kSector, unstable.stable.data() + i * kSector,
                  kSector);
    }
  }
  unstable_.clear();
}

void SimDisk::PowerCut() {
  LoseUnstable();
  TearInFlight();
  unstable_.clear();
  Abandon();
  hang_ = false;
}

// The kernel finishes what it was given, in its own order, before the process is gone; what still
// waited for a place in the queue is dropped.
void SimDisk::ProcessKilled() {
  std::vector<uint64_t> order;
  for (const auto& [id, operation] : in_flight_) order.push_back(id);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_.Below(i)]);
  for (uint64_t id : order) {
    Operation& operation = in_flight_.at(id);
    if (operation.op != SimDiskOp::kRead && operation.op != SimDiskOp::kSync && !random_.OneIn(3)) {
      Apply(operation, nullptr);
    }
    Observe(SimDiskEvent::What::kDropped, operation, 0);
  }
  Abandon();
}

// What is in flight never ends.
void SimDisk::Abandon() {
  for (auto& [id, operation] : in_flight_) operation.file->OnLost(operation.cookie);
  in_flight_.clear();
  held_.clear();
  locked_ = false;
}

void SimDisk::Observe(SimDiskEvent::What what, const Operation& operation, int error) {
  if (observer_ == nullptr) return;
  observer_({what, operation.op, operation.offset, operation.length, operation.durable, error});
}

}  // namespace umblock
