// The activity log in memory: which 4 MiB extents may hold writes that are not yet everywhere, and
// the transactions that record this on disk (drbd-metadata-resync.md 3.1–3.3, drbd-io-path.md A.3).
//
// A pure state machine without I/O. It upholds, together with its driver (MetaStore):
//   INV-2  no write is submitted or sent before a durable transaction names its extents: a waiter
//   is
//          released only by TransactionDurable, or at once if every extent is already hot and
//          durable;
//   INV-5  an extent with references is never evicted;
//   3.7    an evicted extent's bitmap pages are durable before its slot is overwritten: the driver
//   writes
//          the pages of `evicted` before the block of `transaction`.
//
// Cycle of the driver:
//   Acquire -> kHot: go on.  kQueued: while there is no transaction in flight, call
//   NextTransaction; write evicted pages, then the block (preflush + FUA), then TransactionDurable
//   (or TransactionFailed); resume the waiters of the list; call NextTransaction again.
//   Release(range) when the write is done for all peers; if it returns true, NextTransaction has
//   become worth calling.
//
// Rules of queueing: requests are all or nothing; the queue is first in, first out; everything that
// waits joins the next transaction as far as 64 changes and free or unreferenced slots allow. While
// the head of the queue starves for slots, extents that would need a change get no new references.
// Hot extents may still be used, but only kStarvationPatience times; after that every newcomer
// queues, so that the head is served as soon as the writes in flight are done.
//
// Extents are numbered by offset / 4 MiB. Memory is allocated by the constructor only. Threading:
// one thread.
#pragma once

#include <array>
#include <boost/intrusive/list.hpp>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/drbd/meta/al_transaction.h"

namespace umblock::drbd::meta {

// Embedded in (a base of) the request that waits. Not to be destroyed while linked.
class AlWaiter : public boost::intrusive::list_base_hook<> {
 public:
  uint32_t first_extent() const { return first_; }
  uint32_t last_extent() const { return last_; }
  // After release: true if the extents are hot and referenced; false if the transaction failed, in
  // which case the waiter holds no reference and its write must not reach the local disk.
  bool granted() const { return granted_; }

 private:
  friend class ActivityLog;
  uint32_t first_ = 0;
  uint32_t last_ = 0;
  bool granted_ = false;
  bool joined_ = false;  // part of the transaction in flight
};
using AlWaiterList = boost::intrusive::list<AlWaiter>;

struct AlCounters {
  uint64_t hits = 0;          // Acquire calls that were hot at once
  uint64_t misses = 0;        // Acquire calls that had to wait
  uint64_t evictions = 0;     // extents that lost their slot
  uint64_t transactions = 0;  // durable ones
  uint64_t updates = 0;       // slot changes in them
  uint64_t starved = 0;       // times the head of the queue found no slot
};

// What is to be written next. Valid until TransactionDurable or TransactionFailed.
struct AlBatch {
  AlTransaction transaction;
  std::array<uint32_t, kAlUpdatesPerTransaction> evicted_extents{};
  uint32_t evicted_count = 0;

  std::span<const uint32_t> evicted() const { return {evicted_extents.data(), evicted_count}; }
};

class ActivityLog {
 public:
  enum class Outcome : uint8_t {
    kHot,     // references taken, go on
    kQueued,  // the waiter is linked; it will be in a list of released waiters
    kFailed,  // the log has failed (disk lost): nothing taken, nothing queued
  };

  // A request may touch at most this many extents (the front splits larger ones; a 128 MiB discard
  // touches 33). One transaction can always make them hot.
  static constexpr uint32_t kMaxExtentsPerRequest = 64;
  static constexpr uint32_t kStarvationPatience = 256;

  // `slots` is al-extents, 67…65534. `first_number` is the number of the first transaction: 0 over
  // a freshly initialised ring, else newest + 1 (drbd-metadata-resync.md 2.9.4).
  ActivityLog(uint32_t slots, uint32_t first_number);
  // Asserts that no transaction is in flight and no one waits.
  ~ActivityLog();
  ActivityLog(const ActivityLog&) = delete;
  ActivityLog& operator=(const ActivityLog&) = delete;

  // References first…last (inclusive, at most kMaxExtentsPerRequest) for one write.
  Outcome Acquire(uint32_t first_extent, uint32_t last_extent, AlWaiter* waiter);
  // Takes references only if that needs no waiting.
  bool TryAcquire(uint32_t first_extent, uint32_t last_extent);
  // Gives back what one granted request took. True if someone waits whom this may help.
  bool Release(uint32_t first_extent, uint32_t last_extent);
  // Takes back a waiter that still only queues; false if it is already part of the transaction in
  // flight (then it will be released by that).
  bool Cancel(AlWaiter* waiter);

  // With no transaction in flight: the next one, or nullptr if nobody needs (or, starving, can
  // have) one. Waiters whose extents have become hot meanwhile are appended to `released`.
  const AlBatch* NextTransaction(AlWaiterList* released);
  // The batch of NextTransaction is on stable storage.
  void TransactionDurable(AlWaiterList* released);
  // It is not, or its bitmap pages are not. The log is failed from now on; everyone who waits is
  // released, not granted. Release for earlier grants stays allowed.
  void TransactionFailed(AlWaiterList* released);
  // The disk is gone for another reason: the same for everyone, with no transaction in flight.
  void Fail(AlWaiterList* released);

  bool in_flight() const { return in_flight_; }
  bool waiting() const { return !queue_.empty(); }
  bool starving() const { return starving_; }
  bool failed() const { return failed_; }
  uint32_t slots() const { return static_cast<uint32_t>(slots_.size()); }
  uint32_t used_slots() const { return used_; }
  uint32_t referenced_slots() const { return referenced_; }
  uint32_t next_number() const { return next_number_; }
  const AlCounters& counters() const { return counters_; }

  // Durable and usable without a transaction.
  bool IsHot(uint32_t extent) const;
  uint32_t References(uint32_t extent) const;
  // Extents with references, in slot order.
  std::vector<uint32_t> ReferencedExtents() const;

 private:
  using Index = uint16_t;
  static constexpr Index kNone = 0xFFFF;

  enum class SlotState : uint8_t { kFree, kHot, kPending };
  struct Slot {
    uint32_t extent = kAlNoExtent;   // the one being brought in while kPending
    uint32_t on_disk = kAlNoExtent;  // what the last durable transaction says
    uint32_t references = 0;
    Index chain = kNone;  // next in the hash bucket
    Index older = kNone;  // neighbours in the list of unreferenced slots
    Index newer = kNone;
    SlotState state = SlotState::kFree;
  };

  Index Find(uint32_t extent) const;
  uint32_t Bucket(uint32_t extent) const;
  void HashInsert(Index index);
  void HashRemove(Index index);
  void LruUnlink(Index index);
  void LruPushNewest(Index index);
  void Reference(Index index);
  void Unreference(Index index);

  enum class Presence : uint8_t { kAllHot, kHotOrPending, kNeedsChange };
  Presence Look(uint32_t first, uint32_t last) const;
  void ReferenceAll(uint32_t first, uint32_t last);
  enum class Admission : uint8_t { kHot, kJoined, kBatchFull, kNoSlot };
  Admission TryAdmit(AlWaiter& waiter);
  Index TakeSlot();
  void BringIn(uint32_t extent);
  void FillContext();

  std::vector<Slot> slots_;
  std::vector<Index> buckets_;
  Index oldest_ = kNone;  // unreferenced hot slots, oldest first
  Index newest_ = kNone;
  uint32_t next_free_ = 0;  // slots from here on were never used
  uint32_t used_ = 0;
  uint32_t referenced_ = 0;
  uint32_t evictable_ = 0;

  AlWaiterList queue_;
  AlWaiterList joined_;  // part of the transaction in flight
  AlBatch batch_;
  uint32_t next_number_;
  uint32_t context_cursor_ = 0;
  uint32_t granted_while_starving_ = 0;
  bool in_flight_ = false;
  bool starving_ = false;
  bool failed_ = false;
  AlCounters counters_;
};

}  // namespace umblock::drbd::meta
