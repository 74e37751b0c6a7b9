// Checks on what a peer sends, before anything is allocated or acted upon (drbd-wire.md 9.2).
//
// None of these allocates unless it fails. Every failure is kInvalidArgument with a message that
// names the packet, the field, its value and what would have been right; the caller drops the
// connection with it.
#pragma once

#include <cstdint>

#include "engine/base/error.h"
#include "engine/drbd/wire/constants.h"
#include "engine/drbd/wire/header.h"

namespace umblock::drbd::wire {

// How far a connection has come.
enum class ConnectPhase : uint8_t {
  kInitial,         // a new socket: only P_INITIAL_DATA or P_INITIAL_META
  kFeatures,        // data: only P_CONNECTION_FEATURES
  kAuthentication,  // data: only P_AUTH_*
  kConnected,       // everything else
};

// What both sides have agreed on so far; the defaults are right before the features.
struct Agreement {
  ConnectPhase phase = ConnectPhase::kInitial;
  int protocol = 0;
  uint32_t features = 0;
  // Size of the digest that the peer puts before its data (data-integrity-alg it announced).
  uint32_t integrity_digest_size = 0;

  // Who talks to 8.4, or to a 9 in legacy mode.
  bool legacy() const { return protocol < kProtocolFirst9; }
};

// Header form, type, socket, protocol, features, volume field and length. Whether the volume exists
// is the caller's business. `length` has been checked against all limits of 2.4 when this succeeds,
// so it may be used to size a buffer.
//
// P_ENABLE_REPLICATION passes even if its feature was not agreed (9.3 sends it by mistake, 3.5):
// ignore it then. P_PING and P_PING_ACK pass in any header form (1.11).
Status CheckHeader(const Header& header, SocketKind socket, const Agreement& agreed);

// A sector range of a request (7.1, 7.4, 9.2 point 4): non-zero, whole sectors, at most
// `max_bytes`, no overflow, inside `capacity_sectors`.
Status CheckRange(PacketType type, uint64_t sector, uint32_t size_bytes, uint32_t max_bytes,
                  uint64_t capacity_sectors);

// Largest P_DATA, read and resync request (7.1), and largest P_TRIM or P_ZEROES, in bytes.
uint32_t MaxRequestBytes(int protocol);
uint32_t MaxTrimBytes(uint32_t agreed_features);

// Node ids are 0..31; others in masks are to be ignored (9.2 point 12).
inline constexpr uint64_t kNodeMask = 0xffffffff;
Status CheckNodeId(PacketType type, int64_t node_id);

}  // namespace umblock::drbd::wire
