#include "sim/history.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/base/assert.h"

namespace umblock::sim {

History::Sector& History::At(uint64_t sector) {
  auto& chunk = chunks_[sector / kChunk];
  if (chunk == nullptr) chunk = std::make_unique<Chunk>();
  Sector& state = chunk->sectors[sector % kChunk];
  if (state.versions.empty()) state.versions.push_back(0);
  return state;
}

const History::Sector* History::Find(uint64_t sector) const {
  auto found = chunks_.find(sector / kChunk);
  if (found == chunks_.end()) return nullptr;
  const Sector& state = found->second->sectors[sector % kChunk];
  return state.versions.empty() ? nullptr : &state;
}

uint32_t History::BeginWrite(uint32_t writer, uint64_t sector, uint64_t count, bool zero,
                             bool fua) {
  const auto sequence = static_cast<uint32_t>(writes_.size());
  writes_.push_back({sector, count, writer, tenure_, zero, fua});
  for (uint64_t i = 0; i < count; ++i) At(sector + i).versions.push_back(sequence);
  ++in_flight_;
  return sequence;
}

void History::EndWrite(uint32_t sequence, bool ok) {
  Write& write = writes_[sequence];
  UMBLOCK_ASSERT(write.state == State::kPending, "a write ends once, in its own tenure");
  --in_flight_;
  write.state = ok ? State::kAcked : State::kFailed;
  if (!ok) {
    Unpin(write, sequence);
    return;
  }
  ++acked_;
  for (uint64_t i = 0; i < write.count; ++i) {
    Sector& state = At(write.sector + i);
    state.floor = std::max(state.floor, sequence);
    state.sure = std::max(state.sure, sequence);
  }
  if (write.fua || stable_on_ack_) {
    MakeDurable(write, sequence);
  } else {
    volatile_.push_back(sequence);
    raised_.push_back({write.sector, write.count});
  }
}

// A write that failed or was lost may be there or not until the sector is written again, whatever
// reads that came beside it have shown.
void History::Unpin(const Write& write, uint32_t sequence) {
  for (uint64_t i = 0; i < write.count; ++i) {
    Sector& state = At(write.sector + i);
    if (state.floor == sequence) state.floor = state.sure;
  }
}

void History::MakeDurable(const Write& write, uint32_t sequence) {
  for (uint64_t i = 0; i < write.count; ++i) {
    Sector& state = At(write.sector + i);
    if (state.durable >= sequence) continue;
    state.durable = sequence;
    state.sure = std::max(state.sure, sequence);
    state.floor = std::max(state.floor, sequence);
    if (reads_in_flight_ != 0) continue;  // one that has begun may still show an older version
    auto keep = std::lower_bound(state.versions.begin(), state.versions.end(), sequence);
    state.versions.erase(state.versions.begin(), keep);
  }
}

void History::EndFlush(uint64_t covers, bool ok) {
  if (!ok || covers <= first_volatile_) return;
  const size_t n = std::min<uint64_t>(covers - first_volatile_, volatile_.size());
  for (size_t i = 0; i < n; ++i) MakeDurable(writes_[volatile_[i]], volatile_[i]);
  volatile_.erase(volatile_.begin(), volatile_.begin() + static_cast<ptrdiff_t>(n));
  first_volatile_ += n;
}

void History::EndTenureByCrash() {
  reads_in_flight_ = 0;
  for (auto write = writes_.rbegin(); write != writes_.rend() && in_flight_ != 0; ++write) {
    if (write->state != State::kPending) continue;
    write->state = State::kLost;
    Unpin(*write, static_cast<uint32_t>(writes_.rend() - write - 1));
    --in_flight_;
  }
}

void History::ForgetVolatile() {
  for (const Raised& raised : raised_) {
    for (uint64_t i = 0; i < raised.count; ++i) {
      Sector& state = At(raised.sector + i);
      state.floor = state.sure = state.durable;
    }
  }
  raised_.clear();
  first_volatile_ += volatile_.size();
  volatile_.clear();
}

History::Read History::BeginRead(uint64_t sector, uint64_t count) {
  Read read{sector, {}};
  ++reads_in_flight_;
  read.floors.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    const Sector* state = Find(sector + i);
    read.floors.push_back(state == nullptr ? 0 : state->floor);
  }
  return read;
}

std::optional<uint32_t> History::Match(const Sector& state, uint32_t floor, uint64_t sector,
                                       const SectorContent& content) const {
  if (content.kind == SectorContent::Kind::kGarbage) {
    if (sector < garbage_from_ || floor != 0 || state.versions.front() != 0) return std::nullopt;
    return 0;
  }
  for (auto version = std::lower_bound(state.versions.begin(), state.versions.end(), floor);
       version != state.versions.end(); ++version) {
    const Write& write = writes_[*version];
    if (content.kind == SectorContent::Kind::kZero) {
      if (write.zero) return *version;
    } else if (!write.zero && content.stamp == Stamp{write.writer, *version, sector}) {
      return *version;
    }
  }
  return std::nullopt;
}

std::string History::Explain(const Sector& state, uint32_t floor, uint64_t sector,
                             const SectorContent& content) const {
  std::string allowed;
  for (uint32_t version : state.versions) {
    static constexpr const char* kNames[] = {"in flight", "acknowledged", "failed", "lost"};
    const Write& write = writes_[version];
    allowed += fmt::format(" {}{}({}{}{})", version >= floor ? "" : "too old: ", version,
                           write.zero ? "zeroes, " : "", kNames[static_cast<int>(write.state)],
                           write.fua ? ", FUA" : "");
  }
  return fmt::format(
      "sector {} holds {}; allowed were the writes{} (tenure {}, floor {}, durable {})", sector,
      Describe(content), allowed, tenure_, floor, state.durable);
}

Verdict History::EndRead(const Read& read, Bytes data) {
  --reads_in_flight_;
  for (uint64_t i = 0; i < read.floors.size(); ++i) {
    const uint64_t sector = read.sector + i;
    const SectorContent content = ReadStamp(data.subspan(i * kSectorBytes, kSectorBytes));
    if (Find(sector) == nullptr && content.kind == SectorContent::Kind::kZero) continue;
    Sector& state = At(sector);
    const uint32_t floor = std::min(read.floors[i], state.floor);  // lower if a write has failed
    const std::optional<uint32_t> seen = Match(state, floor, sector, content);
    if (!seen) return "a read went wrong: " + Explain(state, floor, sector, content);
    if (*seen > state.floor && writes_[*seen].state != State::kFailed) {
      state.floor = *seen;
      raised_.push_back({sector, 1});
    }
    // What earlier tenures left in flight and this read does not show has not happened.
    std::erase_if(state.versions, [&](uint32_t version) {
      return version > *seen && writes_[version].tenure < tenure_;
    });
  }
  return std::nullopt;
}

Verdict History::CheckAtRest(uint64_t sector, Bytes data) const {
  const SectorContent content = ReadStamp(data);
  const Sector* state = Find(sector);
  if (state == nullptr) {
    if (content.kind == SectorContent::Kind::kZero || sector >= garbage_from_) return std::nullopt;
    return fmt::format("sector {} was never written and holds {}", sector, Describe(content));
  }
  if (Match(*state, state->floor, sector, content)) return std::nullopt;
  return "at rest: " + Explain(*state, state->floor, sector, content);
}

}  // namespace umblock::sim
