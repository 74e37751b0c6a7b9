// The DRBD 9 columns of drbd-io-path.md A.6, cell by cell.
#include "engine/drbd/state/write_routing.h"

#include <gtest/gtest.h>

namespace umblock::drbd {
namespace {

constexpr ReplicationState kAllRepl[] = {
    ReplicationState::kOff,           ReplicationState::kEstablished,
    ReplicationState::kStartingSyncS, ReplicationState::kStartingSyncT,
    ReplicationState::kWFBitMapS,     ReplicationState::kWFBitMapT,
    ReplicationState::kWFSyncUUID,    ReplicationState::kSyncSource,
    ReplicationState::kSyncTarget,    ReplicationState::kVerifyS,
    ReplicationState::kVerifyT,       ReplicationState::kPausedSyncS,
    ReplicationState::kPausedSyncT,   ReplicationState::kAhead,
    ReplicationState::kBehind};
constexpr DiskState kAllDisks[] = {
    DiskState::kDiskless,    DiskState::kAttaching,    DiskState::kDetaching, DiskState::kFailed,
    DiskState::kNegotiating, DiskState::kInconsistent, DiskState::kOutdated,  DiskState::kUnknown,
    DiskState::kConsistent,  DiskState::kUpToDate};

TEST(WriteRouting, UpToDatePeerGetsTheData) {
  for (const auto repl :
       {ReplicationState::kEstablished, ReplicationState::kSyncTarget, ReplicationState::kVerifyS,
        ReplicationState::kPausedSyncT, ReplicationState::kBehind}) {
    EXPECT_EQ(RouteWrite(DiskState::kUpToDate, repl, true), WriteRoute::kData);
    EXPECT_EQ(RouteWrite(DiskState::kUpToDate, repl, false), WriteRoute::kData);
  }
}

TEST(WriteRouting, InconsistentPeerFollowsTheReplicationSwitch) {
  for (const auto repl :
       {ReplicationState::kEstablished, ReplicationState::kWFBitMapT, ReplicationState::kWFSyncUUID,
        ReplicationState::kSyncSource, ReplicationState::kSyncTarget, ReplicationState::kVerifyS,
        ReplicationState::kVerifyT, ReplicationState::kPausedSyncS,
        ReplicationState::kPausedSyncT}) {
    EXPECT_EQ(RouteWrite(DiskState::kInconsistent, repl, true), WriteRoute::kData);
    EXPECT_EQ(RouteWrite(DiskState::kInconsistent, repl, false), WriteRoute::kOutOfSync);
  }
  EXPECT_EQ(RouteWrite(DiskState::kInconsistent, ReplicationState::kStartingSyncS, true),
            WriteRoute::kNothing);
}

TEST(WriteRouting, WFBitMapSAndAheadGetOutOfSync) {
  for (const DiskState disk : kAllDisks) {
    for (const bool replication : {false, true}) {
      EXPECT_EQ(RouteWrite(disk, ReplicationState::kWFBitMapS, replication),
                WriteRoute::kOutOfSync);
      EXPECT_EQ(RouteWrite(disk, ReplicationState::kAhead, replication), WriteRoute::kOutOfSync);
    }
  }
}

TEST(WriteRouting, OutdatedPeerGetsOutOfSync) {
  for (const ReplicationState repl : kAllRepl) {
    EXPECT_EQ(RouteWrite(DiskState::kOutdated, repl, true),
              repl == ReplicationState::kOff ? WriteRoute::kNothing : WriteRoute::kOutOfSync);
  }
}

TEST(WriteRouting, ConsistentOrDisklessPeerGetsNothing) {
  for (const DiskState disk :
       {DiskState::kConsistent, DiskState::kDiskless, DiskState::kAttaching, DiskState::kDetaching,
        DiskState::kFailed, DiskState::kNegotiating, DiskState::kUnknown}) {
    EXPECT_EQ(RouteWrite(disk, ReplicationState::kEstablished, true), WriteRoute::kNothing)
        << DiskStateName(disk);
  }
}

TEST(WriteRouting, WithoutConnectionNothing) {
  for (const DiskState disk : kAllDisks) {
    EXPECT_EQ(RouteWrite(disk, ReplicationState::kOff, true), WriteRoute::kNothing);
  }
}

}  // namespace
}  // namespace umblock::drbd
