#include "sim/history.h"

#include <gtest/gtest.h>

namespace umblock::sim {
namespace {

// One sector, small history.
class HistoryTest : public testing::Test {
 protected:
  uint32_t Begin(bool zero = false, bool fua = false) {
    return history.BeginWrite(0, kSector, 1, zero, fua);
  }
  uint32_t Acked(bool zero = false, bool fua = false) {
    const uint32_t sequence = Begin(zero, fua);
    history.EndWrite(sequence, true);
    return sequence;
  }
  std::vector<std::byte> Content(uint32_t sequence) {
    std::vector<std::byte> bytes(kSectorBytes);
    WriteStamp({0, sequence, kSector}, bytes);
    return bytes;
  }
  std::vector<std::byte> Zeroes() { return std::vector<std::byte>(kSectorBytes); }
  bool Reads(const std::vector<std::byte>& bytes) {
    return !history.EndRead(history.BeginRead(kSector, 1), bytes);
  }

  static constexpr uint64_t kSector = 77;
  History history{false};
};

TEST_F(HistoryTest, AReadShowsTheLastAcknowledgedWrite) {
  EXPECT_TRUE(Reads(Zeroes()));
  const uint32_t first = Acked();
  EXPECT_TRUE(Reads(Content(first)));
  const uint32_t second = Acked();
  EXPECT_FALSE(Reads(Zeroes()));
  EXPECT_FALSE(Reads(Content(first)));
  EXPECT_TRUE(Reads(Content(second)));
  const uint32_t zeroed = Acked(true);
  EXPECT_FALSE(Reads(Content(second)));
  EXPECT_TRUE(Reads(Zeroes()));
  EXPECT_GT(zeroed, second);
}

TEST_F(HistoryTest, AWriteInFlightMayShowAndThenStays) {
  const uint32_t old = Acked();
  const uint32_t pending = Begin();
  EXPECT_TRUE(Reads(Content(old)));
  EXPECT_TRUE(Reads(Content(pending)));
  EXPECT_FALSE(Reads(Content(old)));  // never back in time
}

TEST_F(HistoryTest, AReadThatBeganBeforeTheAckMayShowTheOldContent) {
  const uint32_t old = Acked();
  const uint32_t next = Begin();
  const History::Read read = history.BeginRead(kSector, 1);
  history.EndWrite(next, true);
  EXPECT_FALSE(history.EndRead(read, Content(old)));
  EXPECT_FALSE(Reads(Content(old)));
}

TEST_F(HistoryTest, AReadThatBeganBeforeADurableAckMayShowTheOldContent) {
  const uint32_t old = Acked(false, true);
  const uint32_t next = Begin(false, true);
  const History::Read read = history.BeginRead(kSector, 1);
  history.EndWrite(next, true);
  EXPECT_FALSE(history.EndRead(read, Content(old)));
  EXPECT_FALSE(Reads(Content(old)));
}

TEST_F(HistoryTest, AFailedWriteThatWasReadMayBeGoneAgain) {
  const uint32_t old = Acked(false, true);
  const uint32_t next = Begin(false, true);
  EXPECT_TRUE(Reads(Content(next)));
  history.EndWrite(next, false);
  EXPECT_TRUE(Reads(Content(next)));
  EXPECT_TRUE(Reads(Content(old)));
}

TEST_F(HistoryTest, GarbageAndForeignSectorsAreSeen) {
  const uint32_t written = Acked();
  std::vector<std::byte> bytes = Content(written);
  bytes[300] ^= std::byte{1};
  EXPECT_FALSE(Reads(bytes));
  WriteStamp({0, written, kSector + 1}, bytes);
  EXPECT_FALSE(Reads(bytes));
  WriteStamp({1, written, kSector}, bytes);
  EXPECT_FALSE(Reads(bytes));
  WriteStamp({0, written + 5, kSector}, bytes);
  EXPECT_FALSE(Reads(bytes));
}

TEST_F(HistoryTest, APowerCutMayTakeWhatWasNotFlushed) {
  const uint32_t flushed = Acked();
  history.EndFlush(history.BeginFlush(), true);
  const uint32_t later = Acked();
  history.EndTenureByCrash();
  history.ForgetVolatile();
  history.BeginTenure();
  EXPECT_FALSE(Reads(Zeroes()));
  EXPECT_TRUE(Reads(Content(flushed)));
  EXPECT_FALSE(Reads(Content(later)));  // a later tenure has seen that it is gone
}

TEST_F(HistoryTest, AFlushCoversOnlyWhatWasAcknowledgedBeforeIt) {
  const uint32_t before = Acked();
  const uint64_t flush = history.BeginFlush();
  const uint32_t during = Acked();
  history.EndFlush(flush, true);
  history.EndFlush(history.BeginFlush(), false);  // a failed one covers nothing
  history.ForgetVolatile();
  EXPECT_TRUE(history.CheckAtRest(kSector, Zeroes()));
  EXPECT_FALSE(history.CheckAtRest(kSector, Content(before)));
  EXPECT_FALSE(history.CheckAtRest(kSector, Content(during)));
}

TEST_F(HistoryTest, FuaIsDurable) {
  const uint32_t old = Acked();
  const uint32_t fua = Acked(false, true);
  history.ForgetVolatile();
  EXPECT_TRUE(history.CheckAtRest(kSector, Content(old)));
  EXPECT_FALSE(history.CheckAtRest(kSector, Content(fua)));
}

TEST_F(HistoryTest, WithoutVolatileCachesEveryAcknowledgedWriteIsDurable) {
  History stable(true);
  const uint32_t written = stable.BeginWrite(0, kSector, 1, false, false);
  stable.EndWrite(written, true);
  stable.ForgetVolatile();
  EXPECT_TRUE(stable.CheckAtRest(kSector, Zeroes()));
  EXPECT_FALSE(stable.CheckAtRest(kSector, Content(written)));
}

TEST_F(HistoryTest, AFailedWriteMayOrMayNotHaveHappened) {
  const uint32_t old = Acked();
  const uint32_t failed = Begin();
  history.EndWrite(failed, false);
  EXPECT_FALSE(history.CheckAtRest(kSector, Content(old)));
  EXPECT_FALSE(history.CheckAtRest(kSector, Content(failed)));
}

TEST_F(HistoryTest, AWriteLostInACrashDoesNotComeBackAfterItWasSeenToBeGone) {
  const uint32_t old = Acked();
  const uint32_t lost = Begin();
  history.EndTenureByCrash();
  EXPECT_EQ(history.in_flight(), 0u);
  history.BeginTenure();
  EXPECT_FALSE(history.CheckAtRest(kSector, Content(lost)));
  EXPECT_TRUE(Reads(Content(old)));
  EXPECT_FALSE(Reads(Content(lost)));
}

TEST_F(HistoryTest, AWriteLostInACrashMayBeGoneThoughAReadHasShownIt) {
  const uint32_t old = Acked();
  const uint32_t lost = Begin();
  EXPECT_TRUE(Reads(Content(lost)));
  EXPECT_FALSE(Reads(Content(old)));
  history.EndTenureByCrash();
  EXPECT_FALSE(history.CheckAtRest(kSector, Content(old)));
  EXPECT_FALSE(history.CheckAtRest(kSector, Content(lost)));
  EXPECT_TRUE(history.CheckAtRest(kSector, Zeroes()));
}

TEST_F(HistoryTest, AFailedWriteDoesNotRaiseWhatWentWithTheCache) {
  const uint32_t old = Acked();
  history.ForgetVolatile();
  const uint32_t failed = Begin();
  EXPECT_TRUE(Reads(Content(failed)));
  history.EndWrite(failed, false);
  EXPECT_FALSE(history.CheckAtRest(kSector, Zeroes()));
  EXPECT_FALSE(history.CheckAtRest(kSector, Content(old)));
}

TEST_F(HistoryTest, SectorsNeverWrittenAreZero) {
  EXPECT_FALSE(history.CheckAtRest(5, Zeroes()));
  EXPECT_TRUE(history.CheckAtRest(5, Content(1)));
}

}  // namespace
}  // namespace umblock::sim
