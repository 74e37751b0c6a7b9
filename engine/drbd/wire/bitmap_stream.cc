#include "engine/drbd/wire/bitmap_stream.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/base/assert.h"
#include "engine/drbd/wire/bitmap_code.h"

namespace umblock::drbd::wire {
namespace {

// The first byte of a P_COMPRESSED_BITMAP (5.9.4).
constexpr uint8_t kRunLengthMethod = 2;
constexpr uint8_t kMethodMask = 0x0f;
constexpr int kPadShift = 4;
constexpr uint8_t kPadMask = 0x07;
constexpr uint8_t kFirstRunSet = 0x80;

// Sets the bits [begin, end) of a byte string, least significant bit first.
void SetBits(std::byte* to, uint64_t begin, uint64_t end) {
  while (begin < end && begin % 8 != 0) {
    to[begin / 8] |= static_cast<std::byte>(1u << begin % 8);
    ++begin;
  }
  if (begin >= end) return;
  const uint64_t whole = (end - begin) / 8;
  std::memset(to + begin / 8, 0xff, whole);
  begin += whole * 8;
  if (begin < end) to[begin / 8] |= static_cast<std::byte>((1u << (end - begin)) - 1);
}

// Hands the set bits of consecutive words to a sink, joining what touches.
class RangeJoiner {
 public:
  RangeJoiner(BitSink& sink, uint64_t limit) : sink_(sink), limit_(limit) {}

  void Word(uint64_t first_bit, uint64_t word) {
    int at = 0;
    while (word != 0) {
      const int gap = std::countr_zero(word);
      word >>= gap;
      const int ones = std::countr_one(word);
      at += gap;
      Add(first_bit + static_cast<uint64_t>(at), static_cast<uint64_t>(ones));
      at += ones;
      word = ones == 64 ? 0 : word >> ones;
    }
  }
  void Flush() {
    end_ = std::min(end_, limit_);  // the last word may have surplus bits
    if (begin_ < end_) sink_.SetRange(begin_, end_);
    begin_ = end_ = 0;
  }

 private:
  void Add(uint64_t begin, uint64_t count) {
    if (begin != end_ || begin_ == end_) {
      Flush();
      begin_ = begin;
    }
    end_ = begin + count;
  }

  BitSink& sink_;
  const uint64_t limit_;
  uint64_t begin_ = 0;
  uint64_t end_ = 0;
};

}  // namespace

BitmapSender::BitmapSender(BitRuns& runs, uint64_t bits, Mode mode, HeaderKind kind)
    : runs_(runs), bits_(bits), mode_(mode), max_payload_(MaxBitmapPayload(kind)) {
  UMBLOCK_ASSERT(bits <= kMaxCodedRun, "a run of the bitmap's length can be coded");
}

BitmapSender::Packet BitmapSender::Next(MutableBytes to) {
  UMBLOCK_ASSERT(!done_, "the bitmap has not been sent completely");
  UMBLOCK_ASSERT(to.size() >= max_payload_, "the buffer holds a full bitmap packet");
  if (mode_ != Mode::kPlain && position_ < bits_) {
    if (const size_t length = FillCompressed(to.first(max_payload_)); length != 0) {
      done_ = position_ == bits_;
      return {PacketType::kCompressedBitmap, length};
    }
  }
  const size_t length = FillPlain(to);
  done_ = length == 0;  // the empty packet that ends a plain transfer
  return {PacketType::kBitmap, length};
}

BitRuns::Run BitmapSender::WholeRunAt(uint64_t position) {
  BitRuns::Run run = runs_.RunAt(position);
  UMBLOCK_ASSERT(run.end > position, "a run is never empty");
  while (run.end < bits_) {
    const BitRuns::Run next = runs_.RunAt(run.end);
    UMBLOCK_ASSERT(next.end > run.end, "a run is never empty");
    if (next.set != run.set) break;
    run.end = next.end;
  }
  run.end = std::min(run.end, bits_);
  return run;
}

size_t BitmapSender::FillCompressed(MutableBytes to) {
  RunWriter code(to.subspan(1));
  uint64_t at = position_;
  bool first_set = false;
  while (at < bits_) {
    const BitRuns::Run run = WholeRunAt(at);
    if (!code.Append(CodeOfRun(run.end - at))) break;
    if (at == position_) first_set = run.set;
    at = run.end;
  }
  const bool plain_is_shorter = at - position_ < code.bits() / 8 * 8;
  if (plain_is_shorter && mode_ != Mode::kCompressedOnly) return 0;
  position_ = at;
  to[0] = static_cast<std::byte>(kRunLengthMethod | code.pad_bits() << kPadShift |
                                 (first_set ? kFirstRunSet : 0));
  return 1 + code.bytes();
}

size_t BitmapSender::FillPlain(MutableBytes to) {
  if (position_ == bits_) return 0;
  const uint64_t first_word = position_ / 64;  // rounded down: some bits may go twice (5.9.4)
  const uint64_t words = std::min<uint64_t>(max_payload_ / 8, BitmapWords(bits_) - first_word);
  const uint64_t begin = first_word * 64;
  const uint64_t end = std::min((first_word + words) * 64, bits_);
  std::memset(to.data(), 0, words * 8);
  for (uint64_t at = begin; at < end;) {
    const BitRuns::Run run = runs_.RunAt(at);
    UMBLOCK_ASSERT(run.end > at, "a run is never empty");
    const uint64_t run_end = std::min(run.end, end);
    if (run.set) SetBits(to.data(), at - begin, run_end - begin);
    at = run_end;
  }
  position_ = end;
  return words * 8;
}

BitmapReceiver::BitmapReceiver(uint64_t bits, BitSink& sink, HeaderKind kind)
    : bits_(bits), sink_(sink), max_payload_(MaxBitmapPayload(kind)) {}

Result<bool> BitmapReceiver::Receive(PacketType type, Bytes payload) {
  if (complete_) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "{} arrived after the bitmap was complete with {} bits", PacketName(type),
                     bits_);
  }
  switch (type) {
    case PacketType::kBitmap:
      UMBLOCK_TRY(TakePlain(payload));
      break;
    case PacketType::kCompressedBitmap:
      UMBLOCK_TRY(TakeCompressed(payload));
      break;
    default:
      return MakeError(ErrorCode::kInvalidArgument,
                       "{} arrived in the middle of a bitmap, at bit {} of {}", PacketName(type),
                       position_, bits_);
  }
  return complete_;
}

Status BitmapReceiver::TakePlain(Bytes payload) {
  const uint64_t first_word = position_ / 64;
  const uint64_t words =
      position_ == bits_ ? 0
                         : std::min<uint64_t>(max_payload_ / 8, BitmapWords(bits_) - first_word);
  if (payload.size() != words * 8) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "P_BITMAP has {} bytes, {} expected at bit {} of {}", payload.size(),
                     words * 8, position_, bits_);
  }
  if (words == 0) {
    complete_ = true;
    return Ok();
  }
  RangeJoiner joiner(sink_, bits_);
  for (uint64_t i = 0; i < words; ++i) {
    joiner.Word((first_word + i) * 64, LoadLe<uint64_t>(payload.data() + i * 8));
  }
  joiner.Flush();
  position_ = std::min((first_word + words) * 64, bits_);
  return Ok();
}

Status BitmapReceiver::TakeCompressed(Bytes payload) {
  if (payload.size() < 2 || payload.size() > max_payload_) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "P_COMPRESSED_BITMAP has {} bytes, 2 to {} are valid", payload.size(),
                     max_payload_);
  }
  const auto encoding = static_cast<uint8_t>(payload[0]);
  if ((encoding & kMethodMask) != kRunLengthMethod) {
    return MakeError(ErrorCode::kInvalidArgument, "P_COMPRESSED_BITMAP has the unknown encoding {}",
                     encoding & kMethodMask);
  }
  RunReader runs(payload.subspan(1), encoding >> kPadShift & kPadMask);
  bool set = (encoding & kFirstRunSet) != 0;
  while (!runs.AtEnd()) {
    const std::optional<uint64_t> run = runs.Next();
    if (!run) {
      return MakeError(ErrorCode::kInvalidArgument,
                       "P_COMPRESSED_BITMAP: the code at bit {} of {} is cut off", position_,
                       bits_);
    }
    if (*run > bits_ - position_) {
      return MakeError(ErrorCode::kInvalidArgument,
                       "P_COMPRESSED_BITMAP: a run of {} bits at bit {} exceeds the bitmap's {}",
                       *run, position_, bits_);
    }
    if (set) sink_.SetRange(position_, position_ + *run);
    position_ += *run;
    set = !set;
  }
  complete_ = position_ == bits_;
  return Ok();
}

}  // namespace umblock::drbd::wire
