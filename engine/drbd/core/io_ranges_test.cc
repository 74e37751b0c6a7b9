#include "engine/drbd/core/io_ranges.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

namespace umblock::drbd {
namespace {

struct Entry : IoRange {
  int id = 0;
  std::vector<int>* grants = nullptr;
  static void OnGranted(IoRange* self) noexcept {
    auto* entry = static_cast<Entry*>(self);
    entry->grants->push_back(entry->id);
  }
};

// Inserts by hand and remembers who was granted, in order.
class Bench {
 public:
  ~Bench() {
    for (auto& entry : entries) {
      if (entry->inserted()) table.Remove(entry.get());
    }
  }
  Entry* Add(RangeKind kind, uint64_t first, uint64_t end, int peer = 1) {
    entries.push_back(std::make_unique<Entry>());
    Entry* entry = entries.back().get();
    entry->id = static_cast<int>(entries.size()) - 1;
    entry->grants = &grants;
    if (table.Insert(entry, kind, peer, first, end, &Entry::OnGranted)) grants.push_back(entry->id);
    return entry;
  }
  RangeTable table;
  std::vector<int> grants;
  std::vector<std::unique_ptr<Entry>> entries;
};

TEST(RangeTableTest, AReadOfAPeerWaitsForWritesOnlyAndNothingWaitsForIt) {
  Bench bench;
  Entry* write = bench.Add(RangeKind::kPeerWrite, 0, 8);
  Entry* read = bench.Add(RangeKind::kPeerRead, 4, 12);
  Entry* later = bench.Add(RangeKind::kPeerWrite, 8, 16);
  EXPECT_FALSE(read->granted());
  EXPECT_TRUE(later->granted());
  bench.table.Remove(later);
  EXPECT_FALSE(read->granted());
  bench.table.Remove(write);
  EXPECT_TRUE(read->granted());
  EXPECT_TRUE(bench.Add(RangeKind::kPeerWrite, 0, 12)->granted());
  EXPECT_TRUE(bench.Add(RangeKind::kResyncRead, 20, 28)->granted());
  EXPECT_TRUE(bench.Add(RangeKind::kPeerRead, 20, 28)->granted());
}

TEST(RangeTableTest, OverlappingWritesAreServedInTheOrderOfInsertion) {
  Bench bench;
  Entry* a = bench.Add(RangeKind::kLocalWrite, 0, 8);
  Entry* b = bench.Add(RangeKind::kLocalWrite, 4, 12);
  Entry* c = bench.Add(RangeKind::kLocalWrite, 8, 16);  // overlaps only the one that waits
  Entry* d = bench.Add(RangeKind::kLocalWrite, 16, 24);
  EXPECT_TRUE(a->granted());
  EXPECT_FALSE(b->granted());
  EXPECT_FALSE(c->granted());
  EXPECT_TRUE(d->granted());
  EXPECT_EQ(bench.table.waiting(), 2u);
  bench.table.Remove(a);
  EXPECT_TRUE(b->granted());
  EXPECT_FALSE(c->granted());
  bench.table.Remove(b);
  EXPECT_TRUE(c->granted());
  EXPECT_EQ(bench.grants, (std::vector<int>{0, 3, 1, 2}));
}

TEST(RangeTableTest, OneThatWaitsCanBeTakenBack) {
  Bench bench;
  Entry* a = bench.Add(RangeKind::kLocalWrite, 0, 8);
  Entry* b = bench.Add(RangeKind::kLocalWrite, 0, 100);
  Entry* c = bench.Add(RangeKind::kLocalWrite, 50, 60);
  EXPECT_FALSE(c->granted());
  bench.table.Remove(b);
  EXPECT_TRUE(c->granted());
  EXPECT_TRUE(a->granted());
  EXPECT_EQ(bench.table.waiting(), 0u);
}

TEST(RangeTableTest, LongRangesAreFoundFromAnyPlaceInThem) {
  Bench bench;
  Entry* discard = bench.Add(RangeKind::kLocalWrite, 1000, 1000 + 262144);
  Entry* at_end = bench.Add(RangeKind::kLocalWrite, 1000 + 262144 - 1, 1000 + 262144 + 7);
  Entry* behind = bench.Add(RangeKind::kLocalWrite, 1000 + 262144 + 7, 1000 + 262144 + 8);
  EXPECT_FALSE(at_end->granted());
  EXPECT_TRUE(behind->granted());
  bench.table.Remove(discard);
  EXPECT_TRUE(at_end->granted());
}

TEST(RangeTableTest, ResyncReadsDoNotWaitForEachOther) {
  Bench bench;
  EXPECT_TRUE(bench.Add(RangeKind::kResyncRead, 0, 8)->granted());
  EXPECT_TRUE(bench.Add(RangeKind::kResyncRead, 0, 8, 2)->granted());
  EXPECT_FALSE(bench.Add(RangeKind::kLocalWrite, 4, 5)->granted());
}

// drbd-io-path.md G.3: PW against an RW that waits for its reply, toward the same or another peer.
TEST(RangeTableTest, AWriteOfTheSourceOvertakesTheReplyThatItComesBefore) {
  Bench bench;
  Entry* block = bench.Add(RangeKind::kResyncWrite, 0, 8, 1);
  Entry* same = bench.Add(RangeKind::kPeerWrite, 0, 4, 1);
  Entry* other = bench.Add(RangeKind::kPeerWrite, 4, 8, 2);
  EXPECT_TRUE(same->granted());
  EXPECT_FALSE(other->granted());
  // The reply is there: it waits for the write that is going to the disk.
  EXPECT_FALSE(bench.table.Restage(block, &Entry::OnGranted));
  bench.grants.clear();
  bench.table.Remove(same);
  EXPECT_EQ(bench.grants, std::vector<int>{0});
  bench.table.Remove(block);
  EXPECT_TRUE(other->granted());
}

// INV-28: what comes behind the reply on the stream waits for it.
TEST(RangeTableTest, AWriteBehindTheReplyWaits) {
  Bench bench;
  Entry* block = bench.Add(RangeKind::kResyncWrite, 0, 8, 1);
  EXPECT_TRUE(bench.table.Restage(block, &Entry::OnGranted));
  Entry* later = bench.Add(RangeKind::kPeerWrite, 0, 8, 1);
  EXPECT_FALSE(later->granted());
  bench.table.Remove(block);
  EXPECT_TRUE(later->granted());
}

// INV-27: a write of the front that came while the block was on its way is newer than the block.
TEST(RangeTableTest, AWriteOfTheFrontStaysBehindTheBlockThatWasAskedForBefore) {
  Bench bench;
  Entry* block = bench.Add(RangeKind::kResyncWrite, 0, 8, 1);
  Entry* write = bench.Add(RangeKind::kLocalWrite, 0, 8);
  EXPECT_FALSE(write->granted());
  EXPECT_TRUE(bench.table.Restage(block, &Entry::OnGranted)) << "the block is written first";
  EXPECT_FALSE(write->granted());
  bench.table.Remove(block);
  EXPECT_TRUE(write->granted());
}

TEST(RangeTableTest, ABlockThatWaitsToBeWrittenStillHoldsTheFrontBack) {
  Bench bench;
  Entry* block = bench.Add(RangeKind::kResyncWrite, 0, 8, 1);
  Entry* before = bench.Add(RangeKind::kPeerWrite, 0, 8, 1);
  Entry* write = bench.Add(RangeKind::kLocalWrite, 0, 8);
  EXPECT_FALSE(bench.table.Restage(block, &Entry::OnGranted));
  bench.grants.clear();
  bench.table.Remove(before);
  EXPECT_EQ(bench.grants, std::vector<int>{0}) << "the block, and not the newer write";
  bench.table.Remove(block);
  EXPECT_TRUE(write->granted());
}

TEST(RangeTableTest, WouldWaitSaysWhatInsertDoes) {
  Bench bench;
  bench.Add(RangeKind::kPeerWrite, 0, 8, 1);
  EXPECT_FALSE(bench.table.WouldWait(RangeKind::kResyncWrite, 1, 0, 8));
  EXPECT_TRUE(bench.table.WouldWait(RangeKind::kResyncWrite, 2, 0, 8));
  EXPECT_TRUE(bench.table.WouldWait(RangeKind::kResyncRead, 1, 7, 9));
  EXPECT_FALSE(bench.table.WouldWait(RangeKind::kLocalWrite, -1, 8, 16));
}

TEST(RangeTableTest, AGrantedOwnerMayRemoveItsRangeAtOnce) {
  struct Hasty : IoRange {
    RangeTable* table = nullptr;
    int granted = 0;
  };
  RangeTable table;
  Hasty first;
  Hasty rest[3];
  for (Hasty* each : {&first, &rest[0], &rest[1], &rest[2]}) each->table = &table;
  auto remove = [](IoRange* self) noexcept {
    auto* hasty = static_cast<Hasty*>(self);
    ++hasty->granted;
    hasty->table->Remove(hasty);
  };
  ASSERT_TRUE(table.Insert(&first, RangeKind::kLocalWrite, -1, 0, 8, remove));
  for (Hasty& each : rest) {
    ASSERT_FALSE(table.Insert(&each, RangeKind::kLocalWrite, -1, 0, 8, remove));
  }
  table.Remove(&first);
  for (Hasty& each : rest) EXPECT_EQ(each.granted, 1);
  EXPECT_TRUE(table.empty());
}

// --- against a naive model
// -----------------------------------------------------------------------

struct ModelEntry {
  int id;
  RangeKind kind;
  int peer;
  uint64_t first, end;
  bool awaiting;
  bool granted;
};

// Two ranges of which the first may go on in spite of the second.
bool Exempt(const ModelEntry& a, const ModelEntry& b) {
  if (a.kind == RangeKind::kResyncRead && b.kind == RangeKind::kResyncRead) return true;
  if (a.peer != b.peer) return false;
  if (a.kind == RangeKind::kPeerWrite && b.kind == RangeKind::kResyncWrite) return b.awaiting;
  if (a.kind == RangeKind::kResyncWrite && b.kind == RangeKind::kPeerWrite) return a.awaiting;
  return false;
}
bool Overlap(const ModelEntry& a, const ModelEntry& b) {
  return a.first < b.end && b.first < a.end;
}

// In the order of insertion; who is granted when nothing changes any more.
class Model {
 public:
  void Insert(ModelEntry entry) {
    entries.push_back(entry);
    Settle();
  }
  void Restage(int id) {
    ModelEntry& entry = At(id);
    entry.awaiting = false;
    entry.granted = false;
    Settle();
  }
  void Remove(int id) {
    std::erase_if(entries, [id](const ModelEntry& e) { return e.id == id; });
    Settle();
  }
  ModelEntry& At(int id) {
    return *std::find_if(entries.begin(), entries.end(), [id](auto& e) { return e.id == id; });
  }
  std::vector<ModelEntry> entries;

 private:
  void Settle() {
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t i = 0; i < entries.size(); ++i) {
        if (entries[i].granted) continue;
        bool blocked = false;
        for (size_t j = 0; j < entries.size(); ++j) {
          if (i == j || !Overlap(entries[i], entries[j]) || Exempt(entries[i], entries[j])) {
            continue;
          }
          blocked = blocked || entries[j].granted || j < i;
        }
        if (blocked) continue;
        entries[i].granted = true;
        changed = true;
      }
    }
  }
};

class RangeTableModel : public ::testing::TestWithParam<uint32_t> {};

TEST_P(RangeTableModel, AgreesAndNeverBlocksForEver) {
  std::mt19937 random(GetParam());
  auto pick = [&random](uint64_t n) { return random() % n; };
  RangeTable table;
  Model model;
  std::vector<std::unique_ptr<Entry>> all;
  std::vector<int> grants;
  std::vector<Entry*> live;
  auto compare = [&] {
    for (Entry* entry : live) {
      ASSERT_EQ(entry->granted(), model.At(entry->id).granted)
          << "entry " << entry->id << " [" << entry->first_sector() << ", " << entry->end_sector()
          << ")";
    }
    for (const ModelEntry& a : model.entries) {
      for (const ModelEntry& b : model.entries) {
        if (&a == &b || !a.granted || !b.granted || !Overlap(a, b)) continue;
        ASSERT_TRUE(Exempt(a, b) || Exempt(b, a)) << a.id << " and " << b.id << " at once";
      }
    }
  };
  for (int step = 0; step < 1500; ++step) {
    uint64_t what = live.size() < 3 ? 0 : live.size() > 40 ? 2 : pick(4);
    if (what <= 1) {
      auto kind = static_cast<RangeKind>(pick(4));
      int peer = kind == RangeKind::kLocalWrite ? -1 : static_cast<int>(1 + pick(2));
      uint64_t first = pick(64);
      uint64_t end = first + 1 + pick(pick(10) == 0 ? 5000 : 12);
      // As its owner does: a resync request is not made where it would have to wait.
      if (kind == RangeKind::kResyncWrite && table.WouldWait(kind, peer, first, end)) continue;
      all.push_back(std::make_unique<Entry>());
      Entry* entry = all.back().get();
      entry->id = static_cast<int>(all.size()) - 1;
      entry->grants = &grants;
      table.Insert(entry, kind, peer, first, end, &Entry::OnGranted);
      live.push_back(entry);
      model.Insert({entry->id, kind, peer, first, end, kind == RangeKind::kResyncWrite, false});
    } else {
      size_t at = pick(live.size());
      Entry* entry = live[at];
      ModelEntry& seen = model.At(entry->id);
      if (seen.kind == RangeKind::kResyncWrite && seen.awaiting && pick(4) != 0) {
        table.Restage(entry, &Entry::OnGranted);
        model.Restage(entry->id);
      } else if (entry->granted() || pick(8) == 0) {
        table.Remove(entry);
        model.Remove(entry->id);
        live.erase(live.begin() + static_cast<long>(at));
      }
    }
    compare();
    if (HasFatalFailure()) break;
  }
  // Whoever is granted finishes; so everybody is served in the end.
  while (!live.empty()) {
    auto granted =
        std::find_if(live.begin(), live.end(), [](const Entry* e) { return e->granted(); });
    if (granted == live.end()) {
      ADD_FAILURE() << live.size() << " ranges wait for each other";
      break;
    }
    Entry* entry = *granted;
    live.erase(granted);
    model.Remove(entry->id);
    table.Remove(entry);
    compare();
  }
  for (Entry* entry : live) table.Remove(entry);
  EXPECT_TRUE(table.empty());
  EXPECT_EQ(table.waiting(), 0u);
}
INSTANTIATE_TEST_SUITE_P(Seeds, RangeTableModel, ::testing::Range(1u, 41u));

// Nothing waits for a verify, nor a verify for anything; what was written meanwhile is known.
TEST(RangeTableVerify, WritesTouchItAndNobodyWaits) {
  for (RangeKind write : {RangeKind::kLocalWrite, RangeKind::kPeerWrite, RangeKind::kResyncWrite}) {
    Bench bench;
    Entry* beside = bench.Add(RangeKind::kVerify, 0, 8);
    Entry* verified = bench.Add(RangeKind::kVerify, 8, 16);
    EXPECT_TRUE(verified->granted());
    EXPECT_FALSE(verified->touched());
    Entry* writing = bench.Add(write, 15, 32, 2);
    EXPECT_TRUE(writing->granted());
    EXPECT_TRUE(verified->touched());
    EXPECT_FALSE(beside->touched());
    Entry* late = bench.Add(RangeKind::kVerify, 24, 32);
    EXPECT_TRUE(late->granted());
    EXPECT_TRUE(late->touched()) << "the write is still under way";
    bench.table.Remove(writing);
    EXPECT_TRUE(verified->touched()) << "it stays so";
    Entry* after = bench.Add(RangeKind::kVerify, 16, 24);
    EXPECT_FALSE(after->touched());
    // A discard over many.
    Entry* large = bench.Add(RangeKind::kLocalWrite, 0, 100000, 2);
    EXPECT_TRUE(large->granted());
    EXPECT_TRUE(beside->touched());
    EXPECT_TRUE(after->touched());
  }
}

TEST(RangeTableVerify, ReadsDoNotTouchIt) {
  Bench bench;
  Entry* verified = bench.Add(RangeKind::kVerify, 0, 8);
  Entry* read = bench.Add(RangeKind::kResyncRead, 0, 8);
  EXPECT_TRUE(read->granted());
  EXPECT_TRUE(bench.Add(RangeKind::kPeerRead, 0, 8)->granted());
  EXPECT_FALSE(verified->touched());
  EXPECT_FALSE(bench.Add(RangeKind::kVerify, 0, 8)->touched());
}

}  // namespace
}  // namespace umblock::drbd
