// A whole bitmap as a sequence of P_BITMAP and P_COMPRESSED_BITMAP packets (drbd-wire.md 5.9).
//
// Both ends count bits of 4 KiB of the volume (5.9.6 for larger local blocks: the BitRuns and
// BitSink passed in do that arithmetic). Neither side knows the bitmap's storage.
//
// A bitmap of 1 TiB has 2^28 bits: the sender makes one packet at a time and the receiver takes one
// at a time, so that a reactor can do other things in between. Nothing is allocated.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/drbd/wire/constants.h"
#include "engine/drbd/wire/header.h"
#include "engine/drbd/wire/packet_type.h"

namespace umblock::drbd::wire {

// The bits to send, as runs.
class BitRuns {
 public:
  struct Run {
    uint64_t end;  // exclusive; greater than the position asked for
    bool set;
  };
  virtual ~BitRuns() = default;
  // The value at `position`, and where the next bit of the other value is (or the end of the
  // bitmap). It may answer with a shorter run than there is: adjacent runs are merged.
  virtual Run RunAt(uint64_t position) = 0;
};

// Takes the set bits that arrive: [begin, end), begin < end, inside the bitmap, never twice the
// same range in one packet but possibly in consecutive ones. The receiver ORs, so there is no
// "clear".
class BitSink {
 public:
  virtual ~BitSink() = default;
  virtual void SetRange(uint64_t begin, uint64_t end) = 0;
};

// Payload bytes of a full P_BITMAP: 4080 behind an h100 header, 4088 behind the others.
constexpr size_t MaxBitmapPayload(HeaderKind kind) {
  return (kMaxBitmapPacketBytes - HeaderSize(kind)) / 8 * 8;
}
constexpr uint64_t BitmapWords(uint64_t bits) { return bits / 64 + (bits % 64 != 0 ? 1 : 0); }
// Stream bits of a volume (5.9.1).
constexpr uint64_t BitmapStreamBits(uint64_t sectors) {
  constexpr uint64_t kSectorsPerBit = kBitmapBitBytes / kSectorSize;
  return sectors / kSectorsPerBit + (sectors % kSectorsPerBit != 0 ? 1 : 0);
}

class BitmapSender {
 public:
  enum class Mode : uint8_t {
    kPlain,       // use-rle no
    kCompressed,  // use-rle yes: plain where that is shorter
    // Never plain: for a peer with a bitmap block of 16 KiB or more, whose plain path is broken
    // (5.9.6).
    kCompressedOnly,
  };

  struct Packet {
    PacketType type;
    size_t length;  // bytes of payload written
  };

  // `runs` must outlive the sender and must not change while it is at work.
  BitmapSender(BitRuns& runs, uint64_t bits, Mode mode, HeaderKind kind = HeaderKind::kH100);

  // Writes the payload of the next packet to `to`, at least MaxBitmapPayload() bytes. Not to be
  // called when done(). One call asks `runs` for at most some 16000 runs of its own bits, plus the
  // pieces in which RunAt answers them: an empty bitmap is one run and one packet.
  Packet Next(MutableBytes to);
  bool done() const { return done_; }
  uint64_t position() const { return position_; }  // bits sent so far

 private:
  // The length of the payload; 0 if the plain form is shorter.
  size_t FillCompressed(MutableBytes to);
  size_t FillPlain(MutableBytes to);
  BitRuns::Run WholeRunAt(uint64_t position);

  BitRuns& runs_;
  const uint64_t bits_;
  const Mode mode_;
  const size_t max_payload_;
  uint64_t position_ = 0;
  bool done_ = false;
};

class BitmapReceiver {
 public:
  BitmapReceiver(uint64_t bits, BitSink& sink, HeaderKind kind = HeaderKind::kH100);

  // Takes the payload of the next P_BITMAP or P_COMPRESSED_BITMAP. True when the transfer is
  // complete. kInvalidArgument for any other packet type, a wrong length, an unknown encoding, a
  // run beyond the end, a code that is cut off, and for a packet after the end. Ranges before the
  // fault may have reached the sink: that only marks too much as out of sync.
  Result<bool> Receive(PacketType type, Bytes payload);

  bool complete() const { return complete_; }
  uint64_t position() const { return position_; }  // bits received so far

 private:
  Status TakePlain(Bytes payload);
  Status TakeCompressed(Bytes payload);

  const uint64_t bits_;
  BitSink& sink_;
  const size_t max_payload_;
  uint64_t position_ = 0;
  bool complete_ = false;
};

}  // namespace umblock::drbd::wire
