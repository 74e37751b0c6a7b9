// RangeTable: who may touch which sectors of a volume now (drbd-io-path.md A.4, G.3).
//
// Writes of the front, writes from a peer and resync blocks of a volume never overlap in flight,
// with the exceptions of G.3 that keep two nodes from waiting for each other. Entries are served in
// the order of their insertion. Upholds INV-11 (overlapping writes are applied in issue order) and,
// with the order of a peer's stream, INV-27 and INV-28.
//
// An entry is granted when no overlapping entry that matters is granted or was inserted before it.
// Its owner keeps it in the table until its effect is complete (the front's: until upper
// completion; a peer's: until its ack was sent; a resync read: until the target acknowledged the
// block). Threading: one reactor. No allocation.
#pragma once

#include <boost/intrusive/list.hpp>
#include <boost/intrusive/set.hpp>
#include <cstdint>

namespace umblock::drbd {

enum class RangeKind : uint8_t {
  kLocalWrite,   // from the front
  kPeerWrite,    // P_DATA, P_TRIM, P_ZEROES
  kResyncWrite,  // sync target: from before the request is sent until the block is written
  kResyncRead,   // sync source: from the read until the target acknowledged
  kPeerRead,     // of the front of a peer: after what that peer wrote before; nothing waits for it
  kVerify,       // never waits and is never waited for; writes that overlap it mark it
};

class IoRange : public boost::intrusive::set_base_hook<>,
                public boost::intrusive::list_base_hook<> {
 public:
  using GrantedFn = void (*)(IoRange* self) noexcept;

  // Sectors [first, end).
  uint64_t first_sector() const { return first_; }
  uint64_t end_sector() const { return end_; }
  bool granted() const { return state_ == State::kGranted; }
  bool inserted() const { return state_ != State::kOutside; }
  // kVerify: a write has overlapped it at some time since it was inserted.
  bool touched() const { return touched_; }

 private:
  friend class RangeTable;
  enum class State : uint8_t { kOutside, kWaiting, kGranted };
  friend bool operator<(const IoRange& a, const IoRange& b) { return a.first_ < b.first_; }

  uint64_t first_ = 0;
  uint64_t end_ = 0;
  uint64_t sequence_ = 0;
  GrantedFn granted_fn_ = nullptr;
  RangeKind kind_ = RangeKind::kLocalWrite;
  int8_t peer_ = -1;
  State state_ = State::kOutside;
  bool awaiting_reply_ = false;
  bool touched_ = false;
};

class RangeTable {
 public:
  ~RangeTable();

  // True: granted, go on. False: `granted` will be called, never from inside this call.
  // `peer` is the node a peer write or resync block belongs to.
  bool Insert(IoRange* range, RangeKind kind, int peer, uint64_t first, uint64_t end,
              IoRange::GrantedFn granted);
  // kResyncWrite only: granted means the request may be sent; the reply then arrives with Restage,
  // which waits for the peer writes that came before it. Its place is that of the request: whatever
  // else was inserted since waits until the block is written.
  bool Restage(IoRange* range, IoRange::GrantedFn granted);
  // Also takes back one that still waits.
  void Remove(IoRange* range);

  // True if Insert would have to wait.
  bool WouldWait(RangeKind kind, int peer, uint64_t first, uint64_t end) const;
  bool empty() const { return small_.empty() && large_.empty() && verified_.empty(); }
  size_t waiting() const { return waiting_.size(); }

 private:
  // Ranges up to this length are looked up in one set, longer (discards) in another, so that a
  // look-up steps back by at most this much in the set that is full.
  static constexpr uint64_t kSmallSectors = 2048;
  static constexpr uint64_t kLargeSectors = 262144;
  using Set = boost::intrusive::multiset<IoRange>;

  Set& SetFor(const IoRange& range) {
    if (range.kind_ == RangeKind::kVerify) return verified_;
    return range.end_ - range.first_ <= kSmallSectors ? small_ : large_;
  }
  static bool Matters(RangeKind kind, int peer, bool awaiting_reply, const IoRange& other);
  bool MustWait(RangeKind kind, int peer, bool awaiting_reply, uint64_t sequence, uint64_t first,
                uint64_t end, const IoRange* self) const;
  static bool MustWaitIn(const Set& set, uint64_t longest, RangeKind kind, int peer,
                         bool awaiting_reply, uint64_t sequence, uint64_t first, uint64_t end,
                         const IoRange* self);
  void GrantWaiting();
  void TouchVerified(uint64_t first, uint64_t end);

  Set small_;
  Set large_;
  Set verified_;  // apart: there are many, and nobody but a write has to look at them
  uint64_t longest_verified_ = 0;            // since it was empty
  boost::intrusive::list<IoRange> waiting_;  // in the order of their sequence
  uint64_t next_sequence_ = 1;
  bool granting_ = false;
  bool grant_again_ = false;
};

}  // namespace umblock::drbd
