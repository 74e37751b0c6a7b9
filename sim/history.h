// History: what the application was promised, and whether what is read keeps the promises.
//
// The model of one sector is the list of writes it may hold, in the order of their submission
// (which is the order in which a replicated volume applies overlapping writes on every copy):
//   * `floor`: the oldest one that a read may return now. It rises when a write is acknowledged and
//     when a read has returned a newer one (reads never go back in time; INV-1, INV-11).
//   * `sure`: the same without the reads: the newest acknowledged one. A read may show a write that
//     is not acknowledged yet; if that write fails, or is lost with its node, floor falls back
//     here.
//   * `durable`: what no crash can take back: acknowledged with FUA, or acknowledged before a flush
//     that was acknowledged (INV-10). Without a volatile cache every acknowledged write is.
// When the primary loses power with its cache, floor falls back to durable; when its process is
// killed, or another node that has everything takes over, it does not.
// Writes that failed or were in flight in a crash may or may not have happened; once a later
// tenure has read the older content, they have not.
//
// Check functions return what is wrong, or nothing. Threading: none.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/bytes.h"
#include "sim/stamp.h"

namespace umblock::sim {

using Verdict = std::optional<std::string>;

class History {
 public:
  // `stable_on_ack`: disks have no volatile cache.
  explicit History(bool stable_on_ack) : stable_on_ack_(stable_on_ack) {
    writes_.push_back({.zero = true, .state = State::kAcked});  // the empty disk
  }

  uint32_t tenure() const { return tenure_; }
  // A node became primary.
  void BeginTenure() { ++tenure_; }
  // Writes in flight are lost. Ends of operations of this tenure that are reported later are an
  // error of the caller.
  void EndTenureByCrash();
  // Acknowledged writes that were not made durable may be gone.
  void ForgetVolatile();

  // Returns its number. `zero`: discard or write zeroes.
  uint32_t BeginWrite(uint32_t writer, uint64_t sector, uint64_t count, bool zero, bool fua);
  void EndWrite(uint32_t sequence, bool ok);

  // What a flush covers, to be handed to EndFlush.
  uint64_t BeginFlush() const { return first_volatile_ + volatile_.size(); }
  void EndFlush(uint64_t covers, bool ok);

  struct Read {
    uint64_t sector = 0;
    std::vector<uint32_t> floors;
  };
  Read BeginRead(uint64_t sector, uint64_t count);
  Verdict EndRead(const Read& read, Bytes data);
  // The same for a read that failed.
  void FailRead() { --reads_in_flight_; }

  // Sectors from here on hold anything until they are written: a volume that has grown.
  void AllowGarbageFrom(uint64_t sector) { garbage_from_ = std::min(garbage_from_, sector); }

  // Is this content of a sector allowed now? For disks at rest.
  Verdict CheckAtRest(uint64_t sector, Bytes data) const;
  // Every sector that was ever written, ascending: calls visit(sector).
  template <typename Fn>
  void ForEachSector(Fn&& visit) const {
    for (const auto& [number, chunk] : chunks_) {
      for (uint64_t i = 0; i < kChunk; ++i) {
        if (!chunk->sectors[i].versions.empty()) visit(number * kChunk + i);
      }
    }
  }

  uint64_t writes_acked() const { return acked_; }
  uint64_t in_flight() const { return in_flight_; }

 private:
  static constexpr uint64_t kChunk = 256;
  enum class State : uint8_t { kPending, kAcked, kFailed, kLost };
  struct Write {
    uint64_t sector = 0;
    uint64_t count = 0;
    uint32_t writer = 0;
    uint32_t tenure = 0;
    bool zero = false;
    bool fua = false;
    State state = State::kPending;
  };
  struct Sector {
    uint32_t floor = 0;
    uint32_t sure = 0;  // floor without what only reads have shown
    uint32_t durable = 0;
    std::vector<uint32_t> versions;  // ascending, at least from `durable` on; empty: never written
  };
  struct Chunk {
    Sector sectors[kChunk];
  };
  struct Raised {  // sectors whose floor may be above durable
    uint64_t sector;
    uint64_t count;
  };

  Sector& At(uint64_t sector);
  const Sector* Find(uint64_t sector) const;
  void Unpin(const Write& write, uint32_t sequence);
  void MakeDurable(const Write& write, uint32_t sequence);
  // The write that a sector shows: which of `state.versions` >= floor.
  std::optional<uint32_t> Match(const Sector& state, uint32_t floor, uint64_t sector,
                                const SectorContent& content) const;
  std::string Explain(const Sector& state, uint32_t floor, uint64_t sector,
                      const SectorContent& content) const;

  const bool stable_on_ack_;
  uint64_t garbage_from_ = UINT64_MAX;
  uint32_t tenure_ = 0;
  std::vector<Write> writes_;  // by sequence
  std::map<uint64_t, std::unique_ptr<Chunk>> chunks_;
  std::vector<uint32_t> volatile_;  // acknowledged, not known durable, in order of acknowledgement
  uint64_t first_volatile_ = 0;     // index of volatile_[0] among all of those ever
  std::vector<Raised> raised_;
  uint64_t acked_ = 0;
  uint64_t in_flight_ = 0;
  uint64_t reads_in_flight_ = 0;
};

}  // namespace umblock::sim
