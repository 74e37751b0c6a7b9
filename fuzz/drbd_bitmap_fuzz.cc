// Any bytes as a bitmap transfer. What arrives is inside the bitmap and in order within a packet;
// what arrived completely can be sent again in every mode and arrives the same.
#include <algorithm>
#include <utility>
#include <vector>

#include "engine/base/assert.h"
#include "engine/base/bytes.h"
#include "engine/drbd/wire/bitmap_stream.h"
#include "fuzz/drbd_wire_input.h"

namespace umblock::fuzz {
namespace {

namespace wire = drbd::wire;
using Ranges = std::vector<std::pair<uint64_t, uint64_t>>;

class CheckedSink : public wire::BitSink {
 public:
  explicit CheckedSink(uint64_t bits) : bits_(bits) {}
  void NextPacket() { last_end_ = 0; }
  void SetRange(uint64_t begin, uint64_t end) override {
    UMBLOCK_ASSERT(begin < end && end <= bits_, "a range lies inside the bitmap");
    UMBLOCK_ASSERT(begin >= last_end_, "ranges of a packet ascend");
    last_end_ = end;
    ranges_.emplace_back(begin, end);
  }
  // Sorted, without overlap or touching.
  Ranges Merged() {
    std::ranges::sort(ranges_);
    Ranges merged;
    for (const auto& range : ranges_) {
      if (!merged.empty() && range.first <= merged.back().second) {
        merged.back().second = std::max(merged.back().second, range.second);
      } else {
        merged.push_back(range);
      }
    }
    return merged;
  }

 private:
  const uint64_t bits_;
  uint64_t last_end_ = 0;
  Ranges ranges_;
};

class RangeRuns : public wire::BitRuns {
 public:
  RangeRuns(uint64_t bits, const Ranges& ranges) : bits_(bits), ranges_(ranges) {}
  Run RunAt(uint64_t position) override {
    const auto next =
        std::ranges::upper_bound(ranges_, position, {}, &std::pair<uint64_t, uint64_t>::second);
    if (next == ranges_.end()) return {bits_, false};
    if (position < next->first) return {next->first, false};
    return {next->second, true};
  }

 private:
  const uint64_t bits_;
  const Ranges& ranges_;
};

void SendAgain(uint64_t bits, const Ranges& ranges, wire::BitmapSender::Mode mode) {
  RangeRuns runs(bits, ranges);
  wire::BitmapSender sender(runs, bits, mode);
  CheckedSink sink(bits);
  wire::BitmapReceiver receiver(bits, sink);
  std::vector<std::byte> buffer(wire::MaxBitmapPayload(wire::HeaderKind::kH100));
  while (!sender.done()) {
    const auto [type, length] = sender.Next(buffer);
    sink.NextPacket();
    const auto complete = receiver.Receive(type, Bytes(buffer).first(length));
    UMBLOCK_ASSERT(complete && *complete == sender.done(), "the own receiver takes what is sent");
  }
  UMBLOCK_ASSERT(sink.Merged() == ranges, "a bitmap arrives as it was sent");
}

}  // namespace

void FuzzBitmap(Bytes input) {
  ByteReader in(input);
  const uint64_t bits = in.Be<uint64_t>() % kMaxFuzzedBits;
  CheckedSink sink(bits);
  wire::BitmapReceiver receiver(bits, sink);
  while (in.left() >= 3) {
    const auto kind = in.Be<uint8_t>();
    const size_t length = std::min<size_t>(in.Be<uint16_t>(), in.left());
    const Bytes payload = in.Raw(length);
    sink.NextPacket();
    const auto complete = receiver.Receive(kind == 0   ? wire::PacketType::kBitmap
                                           : kind == 1 ? wire::PacketType::kCompressedBitmap
                                                       : wire::PacketType::kState,
                                           payload);
    UMBLOCK_ASSERT(receiver.position() <= bits, "the position stays inside the bitmap");
    if (!complete) return;
  }
  if (!receiver.complete()) return;
  const Ranges ranges = sink.Merged();
  // A plain transfer of a large bitmap takes long and shows nothing new.
  if (bits <= 1 << 20) SendAgain(bits, ranges, wire::BitmapSender::Mode::kPlain);
  SendAgain(bits, ranges, wire::BitmapSender::Mode::kCompressedOnly);
  if (bits <= 1 << 24) SendAgain(bits, ranges, wire::BitmapSender::Mode::kCompressed);
}

}  // namespace umblock::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  umblock::fuzz::FuzzBitmap(std::as_bytes(std::span(data, size)));
  return 0;
}
