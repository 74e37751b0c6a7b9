// A packet as one line of text, field by field, for comparing what our node sends with what a
// recorded kernel sent in the same place. Fields that cannot be equal are left out of the text;
// docs/protocol.md lists them with the reasons. Tests only.
#pragma once

#include <string>
#include <vector>

#include "engine/drbd/wire/header.h"
#include "engine/drbd/wire/packet_type.h"

namespace umblock::drbd::testing {

// `features`: as agreed on the connection that the packet was sent on.
std::string PacketText(const wire::Header& header, Bytes payload, uint32_t features);

struct SentPacket {
  wire::SocketKind socket = wire::SocketKind::kData;
  wire::PacketType type{};
  std::string text;
};

// True for packets that are not compared: pings (answered whenever they come), hints, and those of
// features that we decline.
bool IsLeftOut(wire::PacketType type);

// Drops what a kernel sends twice: a packet equal to the last one of its type on the same socket.
std::vector<SentPacket> WithoutRepetitions(const std::vector<SentPacket>& packets);

}  // namespace umblock::drbd::testing
