// Any bytes as a packet: header, checks, decoding of every type. What decodes must encode to the
// same bytes, but for those that are to be ignored.
#include <algorithm>

#include "engine/base/assert.h"
#include "engine/base/bytes.h"
#include "engine/drbd/wire/config_packets.h"
#include "engine/drbd/wire/state_word.h"
#include "engine/drbd/wire/testing/reencode.h"
#include "engine/drbd/wire/validate.h"
#include "fuzz/drbd_wire_input.h"

namespace umblock::fuzz {
namespace {

namespace wire = drbd::wire;

// The same payload as every type: lengths that CheckHeader would have refused included.
void DecodeAsEverything(wire::Header header, Bytes payload) {
  for (unsigned number = 0; number <= 0x5a; ++number) {
    header.type = static_cast<wire::PacketType>(number);
    for (const auto layout : {wire::TwoPcLayout::kV1, wire::TwoPcLayout::kV2}) {
      const auto again = wire::testing::ReencodePayload(header, payload, layout);
      if (!again) continue;
      const auto masked = wire::testing::MaskIgnored(header, payload, layout);
      UMBLOCK_ASSERT(*again == masked, "what was decoded encodes to the same bytes");
    }
  }
}

void DecodeStateWords(Bytes payload) {
  const auto state = wire::State::Decode(payload);
  if (!state) return;
  for (const auto numbering : {wire::DiskNumbering::k9, wire::DiskNumbering::k84}) {
    const auto word = wire::DecodeStateWord(state->word, numbering);
    if (!word) continue;
    UMBLOCK_ASSERT(wire::EncodeStateWord(*word, numbering) == (state->word & wire::kStateWordBits),
                   "a state word encodes to the same bits");
    wire::MirrorStateWord(*word);
  }
}

}  // namespace

void FuzzPacket(Bytes input) {
  if (input.empty()) return;
  const auto selector = static_cast<uint8_t>(input[0]);
  const Agreed& agreed = kAgreements[(selector >> 1) % kAgreements.size()];
  const auto socket = (selector & 1) != 0 ? wire::SocketKind::kControl : wire::SocketKind::kData;
  auto header = wire::DecodeHeader(input.subspan(1));
  if (!header) return;
  const Bytes payload = input.subspan(1 + header->size());
  for (const auto phase : {wire::ConnectPhase::kInitial, wire::ConnectPhase::kFeatures,
                           wire::ConnectPhase::kAuthentication, wire::ConnectPhase::kConnected}) {
    const Status status = wire::CheckHeader(
        *header, socket, {phase, agreed.protocol, agreed.features, agreed.digest_size});
    if (!status) continue;
    UMBLOCK_ASSERT(header->length <= (1 << 20) + 256, "lengths are bounded");
    UMBLOCK_ASSERT(wire::Describe(header->type) != nullptr, "unknown types are refused");
  }
  DecodeAsEverything(*header, payload.first(std::min<size_t>(payload.size(), 4096)));
  DecodeStateWords(payload);
}

}  // namespace umblock::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  umblock::fuzz::FuzzPacket(std::as_bytes(std::span(data, size)));
  return 0;
}
