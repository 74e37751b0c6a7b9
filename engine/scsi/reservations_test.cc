#include "engine/scsi/reservations.h"

#include <gtest/gtest.h>

#include <vector>

namespace umblock::scsi {
namespace {

constexpr Reservations::Port kA = "iqn.a,i,0x1";
constexpr Reservations::Port kB = "iqn.b,i,0x1";
constexpr Reservations::Port kC = "iqn.c,i,0x1";

Reservations::Outcome Out(Reservations& r, Reservations::Port port, PrOut action, uint64_t key,
                          uint64_t action_key = 0, int type = 0, uint8_t flags = 0) {
  std::byte cdb[16]{};
  cdb[0] = std::byte{kPersistentReserveOut};
  cdb[1] = std::byte(action);
  cdb[2] = std::byte(type);
  std::byte list[24]{};
  StoreBe<uint64_t>(list, key);
  StoreBe<uint64_t>(list + 8, action_key);
  list[20] = std::byte{flags};
  return r.Out(port, cdb, list);
}

const CommandInfo& kWriteInfo = *FindCommand(kWrite10);
const CommandInfo& kReadInfo = *FindCommand(kRead10);

TEST(Reservations, RegisterNeedsTheRightKey) {
  Reservations r;
  EXPECT_EQ(Out(r, kA, PrOut::kRegister, 7, 1).status, ScsiStatus::kReservationConflict);
  EXPECT_EQ(Out(r, kA, PrOut::kRegister, 0, 1).status, ScsiStatus::kGood);
  EXPECT_EQ(Out(r, kA, PrOut::kRegister, 9, 2).status, ScsiStatus::kReservationConflict);
  EXPECT_EQ(Out(r, kA, PrOut::kRegister, 1, 2).status, ScsiStatus::kGood);
  EXPECT_EQ(Out(r, kA, PrOut::kRegister, 2, 0).status, ScsiStatus::kGood);
  EXPECT_EQ(r.registrations(), 0u);
}

TEST(Reservations, AptplAndSpecIPtAreRefused) {
  Reservations r;
  EXPECT_TRUE(Out(r, kA, PrOut::kRegister, 0, 1, 0, 0x01).sense.Is(kInvalidFieldInParameterList));
  EXPECT_TRUE(Out(r, kA, PrOut::kRegister, 0, 1, 0, 0x08).sense.Is(kInvalidFieldInParameterList));
  EXPECT_EQ(r.registrations(), 0u);
}

TEST(Reservations, AccessByType) {
  struct Case {
    int type;
    bool registered_read, registered_write, stranger_read, stranger_write;
  };
  for (const Case& c : std::vector<Case>{{1, true, false, true, false},
                                         {3, false, false, false, false},
                                         {5, true, true, true, false},
                                         {6, true, true, false, false},
                                         {7, true, true, true, false},
                                         {8, true, true, false, false}}) {
    Reservations r;
    Out(r, kA, PrOut::kRegister, 0, 1);
    Out(r, kB, PrOut::kRegister, 0, 2);
    ASSERT_EQ(Out(r, kA, PrOut::kReserve, 1, 0, c.type).status, ScsiStatus::kGood);
    ASSERT_TRUE(r.active());
    EXPECT_TRUE(r.Permits(kA, 1, kWriteInfo)) << c.type;
    EXPECT_EQ(r.Permits(kB, 2, kReadInfo), c.registered_read) << c.type;
    EXPECT_EQ(r.Permits(kB, 2, kWriteInfo), c.registered_write) << c.type;
    EXPECT_EQ(r.Permits(kC, 3, kReadInfo), c.stranger_read) << c.type;
    EXPECT_EQ(r.Permits(kC, 3, kWriteInfo), c.stranger_write) << c.type;
    EXPECT_TRUE(r.Permits(kC, 3, *FindCommand(kInquiry)));
    EXPECT_FALSE(r.Permits(kC, 3, *FindCommand(kModeSelect6)));
  }
}

TEST(Reservations, OnlyTheHolderReleases) {
  Reservations r;
  Out(r, kA, PrOut::kRegister, 0, 1);
  Out(r, kB, PrOut::kRegister, 0, 2);
  Out(r, kA, PrOut::kReserve, 1, 0, 5);
  EXPECT_EQ(Out(r, kB, PrOut::kReserve, 2, 0, 5).status, ScsiStatus::kReservationConflict);
  EXPECT_EQ(Out(r, kB, PrOut::kRelease, 2, 0, 5).status, ScsiStatus::kGood);  // no effect
  EXPECT_TRUE(r.active());
  EXPECT_TRUE(Out(r, kA, PrOut::kRelease, 1, 0, 3).sense.Is(kInvalidRelease));
  auto outcome = Out(r, kA, PrOut::kRelease, 1, 0, 5);
  EXPECT_EQ(outcome.status, ScsiStatus::kGood);
  ASSERT_EQ(outcome.notices.size(), 1u);
  EXPECT_EQ(outcome.notices[0].port, kB);
  EXPECT_EQ(outcome.notices[0].what, ReservationNotice::kReleased);
  EXPECT_FALSE(r.active());
}

TEST(Reservations, UnregisteringTheHolderReleases) {
  Reservations r;
  Out(r, kA, PrOut::kRegister, 0, 1);
  Out(r, kA, PrOut::kReserve, 1, 0, 1);
  Out(r, kA, PrOut::kRegister, 1, 0);
  EXPECT_FALSE(r.active());
}

TEST(Reservations, AllRegistrantsEndWithTheLastOne) {
  Reservations r;
  Out(r, kA, PrOut::kRegister, 0, 1);
  Out(r, kB, PrOut::kRegister, 0, 2);
  Out(r, kA, PrOut::kReserve, 1, 0, 8);
  Out(r, kA, PrOut::kRegister, 1, 0);
  EXPECT_TRUE(r.active());
  EXPECT_FALSE(r.Permits(kA, 1, kReadInfo));
  EXPECT_TRUE(r.Permits(kB, 2, kWriteInfo));
  Out(r, kB, PrOut::kRegister, 2, 0);
  EXPECT_FALSE(r.active());
}

TEST(Reservations, PreemptTakesOverAndTells) {
  Reservations r;
  Out(r, kA, PrOut::kRegister, 0, 1);
  Out(r, kB, PrOut::kRegister, 0, 2);
  Out(r, kC, PrOut::kRegister, 0, 3);
  Out(r, kA, PrOut::kReserve, 1, 0, 5);
  EXPECT_EQ(Out(r, kB, PrOut::kPreempt, 2, 99, 5).status, ScsiStatus::kReservationConflict);
  EXPECT_TRUE(Out(r, kB, PrOut::kPreempt, 2, 0, 5).sense.Is(kInvalidFieldInParameterList));
  auto outcome = Out(r, kB, PrOut::kPreemptAndAbort, 2, 1, 3);
  EXPECT_EQ(outcome.status, ScsiStatus::kGood);
  ASSERT_EQ(outcome.abort.size(), 1u);
  EXPECT_EQ(outcome.abort[0], kA);
  ASSERT_EQ(outcome.notices.size(), 2u);
  EXPECT_EQ(outcome.notices[0].port, kA);
  EXPECT_EQ(outcome.notices[0].what, ReservationNotice::kRegistrationsPreempted);
  EXPECT_EQ(outcome.notices[1].port, kC);
  EXPECT_EQ(outcome.notices[1].what, ReservationNotice::kReleased);
  EXPECT_EQ(r.type(), ReservationType::kExclusiveAccess);
  EXPECT_EQ(r.registrations(), 2u);
  EXPECT_FALSE(r.Permits(kA, 1, kReadInfo));
  EXPECT_TRUE(r.Permits(kB, 2, kReadInfo));
}

TEST(Reservations, ClearEndsEverything) {
  Reservations r;
  Out(r, kA, PrOut::kRegister, 0, 1);
  Out(r, kB, PrOut::kRegister, 0, 2);
  Out(r, kA, PrOut::kReserve, 1, 0, 3);
  auto outcome = Out(r, kB, PrOut::kClear, 2);
  EXPECT_EQ(outcome.status, ScsiStatus::kGood);
  ASSERT_EQ(outcome.notices.size(), 1u);
  EXPECT_EQ(outcome.notices[0].what, ReservationNotice::kReservationsPreempted);
  EXPECT_FALSE(r.active());
  EXPECT_EQ(r.registrations(), 0u);
}

TEST(Reservations, RegistrationsAreBounded) {
  Reservations r;
  for (size_t i = 0; i < Reservations::kMaxRegistrations; ++i) {
    std::string port = "iqn." + std::to_string(i);
    ASSERT_EQ(Out(r, port, PrOut::kRegister, 0, i + 1).status, ScsiStatus::kGood);
  }
  EXPECT_TRUE(Out(r, "iqn.more", PrOut::kRegister, 0, 5).sense.Is(kOutOfRegistrations));
}

TEST(Reservations, ReadKeysAndReservation) {
  Reservations r;
  Out(r, kA, PrOut::kRegister, 0, 0x1122334455667788);
  Out(r, kA, PrOut::kReserve, 0x1122334455667788, 0, 6);
  ParameterData keys = r.In(PrIn::kReadKeys);
  ASSERT_EQ(keys.size(), 16u);
  EXPECT_EQ(LoadBe<uint32_t>(keys.bytes().data()), 1u);
  EXPECT_EQ(LoadBe<uint64_t>(&keys.bytes()[8]), 0x1122334455667788u);
  ParameterData reservation = r.In(PrIn::kReadReservation);
  ASSERT_EQ(reservation.size(), 24u);
  EXPECT_EQ(LoadBe<uint64_t>(&reservation.bytes()[8]), 0x1122334455667788u);
  EXPECT_EQ(reservation.bytes()[21], std::byte{6});
  ParameterData full = r.In(PrIn::kReadFullStatus);
  EXPECT_EQ(LoadBe<uint32_t>(&full.bytes()[4]), full.size() - 8);
  EXPECT_EQ(full.bytes()[8 + 24], std::byte{0x45});  // TransportID of an iSCSI port
}

TEST(Reservations, ReserveSixExcludesOthersUntilTheSessionEnds) {
  Reservations r;
  EXPECT_TRUE(r.Reserve(1));
  EXPECT_TRUE(r.Reserve(1));
  EXPECT_FALSE(r.Reserve(2));
  EXPECT_FALSE(r.Permits(kB, 2, kReadInfo));
  EXPECT_TRUE(r.Permits(kB, 2, *FindCommand(kInquiry)));
  EXPECT_EQ(Out(r, kB, PrOut::kRegister, 0, 1).status, ScsiStatus::kReservationConflict);
  r.Release(2);
  EXPECT_TRUE(r.active());
  r.EndSession(1);
  EXPECT_FALSE(r.active());
  Out(r, kA, PrOut::kRegister, 0, 1);
  EXPECT_FALSE(r.Reserve(2));
}

}  // namespace
}  // namespace umblock::scsi
