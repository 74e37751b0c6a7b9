// The inputs of the DRBD wire fuzzers, shared with the program that writes their seeds.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/drbd/wire/validate.h"

namespace umblock::fuzz {

// drbd_packet_fuzz: one byte, then header and payload of one packet as on the wire. The byte's
// lowest bit says control socket, the others choose one of these agreements.
struct Agreed {
  int protocol;
  uint32_t features;
  uint32_t digest_size;
};
inline constexpr std::array<Agreed, 8> kAgreements = {{{124, 0x3ff, 0},
                                                       {124, 0x3ff, 4},
                                                       {123, 0x07f, 0},
                                                       {121, 0x06f, 20},
                                                       {118, 0x00f, 0},
                                                       {101, 0x00f, 0},
                                                       {101, 0x00f, 4},
                                                       {96, 0x000, 0}}};

// drbd_bitmap_fuzz: the number of bits (8 bytes, big endian), then steps of one byte (0: P_BITMAP,
// 1: P_COMPRESSED_BITMAP, else another packet), two bytes length (big endian) and the payload.
inline constexpr uint64_t kMaxFuzzedBits = uint64_t{1} << 44;

}  // namespace umblock::fuzz
