// A peer that does what a well-behaved node never does (drbd-wire.md 9.1, 9.2): every mistake ends
// the connection with its reason or is ignored, nothing is lost, and the next connect succeeds.
// What the scripted_*_test.cc share.
#pragma once

#include <gtest/gtest.h>

#include <string_view>

#include "engine/drbd/core/testing/scripted_peer.h"

namespace umblock::drbd::testing {

inline constexpr SocketKind kData = SocketKind::kData;
inline constexpr SocketKind kControl = SocketKind::kControl;

inline ClusterOptions ScriptedOptions(uint64_t seed = 1) {
  ClusterOptions options;
  options.seed = seed;
  options.disk_bytes = uint64_t{16} << 20;
  return options;
}

// What a mistake leads to: StandAlone where trying again cannot help, else a new attempt.
enum class After { kRetry, kStandAlone };

inline void ExpectDropped(ScriptedPeer& peer, After after, std::string_view reason) {
  ASSERT_TRUE(peer.WaitClosed(60s)) << "the connection stays up; " << reason;
  ASSERT_TRUE(
      peer.world().RunUntil([&] { return peer.state() != ConnectionState::kConnected; }, 10s));
  EXPECT_NE(peer.last_error().find(reason), std::string::npos) << peer.last_error();
  peer.bench->RunFor(500ms);
  if (after == After::kStandAlone) {
    EXPECT_EQ(peer.state(), ConnectionState::kStandAlone) << peer.last_error();
  } else {
    EXPECT_NE(peer.state(), ConnectionState::kStandAlone) << peer.last_error();
  }
  EXPECT_EQ(peer.bench->disk_state(0), DiskState::kUpToDate);
}

}  // namespace umblock::drbd::testing
