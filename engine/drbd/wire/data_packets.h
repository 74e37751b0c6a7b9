// Packets of the data path and of resync: fixed layouts, encoded and decoded inline, never
// allocating (drbd-wire.md 5.2, 5.10 to 5.14).
//
// Every struct X here and in twopc_packets.h, and the fixed ones of config_packets.h, offers
//   X::kSize                    bytes of its fixed part
//   X::Decode(payload)          nullopt if the payload is too short, or for a packet of fixed
//                               length not exactly kSize long
//   Encode(x, to)               writes kSize bytes to the front of `to`, which must have room
// and EncodePacket (packet.h) puts a header before it. Numbers are host order. Opaque fields
// (block_id, barrier) keep their bytes: they are equal to what was received and not to be read as
// numbers. Pads are written as zero and ignored when read, since 8.4 leaves garbage in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

#include "engine/base/bytes.h"
#include "engine/drbd/wire/constants.h"

namespace umblock::drbd::wire {

namespace internal {
template <typename T>
T LoadOpaque(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <typename T>
void StoreOpaque(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}
inline std::byte* Room(MutableBytes to, size_t size) {
  UMBLOCK_ASSERT(to.size() >= size, "a packet is encoded into a buffer that holds it");
  return to.data();
}
}  // namespace internal

// P_DATA, P_DATA_REPLY, P_RS_DATA_REPLY: followed by the digest, if one is agreed, and the data.
struct DataHead {
  static constexpr size_t kSize = 24;
  uint64_t sector = 0;
  uint64_t block_id = 0;  // opaque
  uint32_t seq_num = 0;
  uint32_t dp_flags = 0;

  static std::optional<DataHead> Decode(Bytes payload) {
    if (payload.size() < kSize) return std::nullopt;
    const std::byte* p = payload.data();
    return DataHead{LoadBe<uint64_t>(p), internal::LoadOpaque<uint64_t>(p + 8),
                    LoadBe<uint32_t>(p + 16), LoadBe<uint32_t>(p + 20)};
  }
  friend bool operator==(const DataHead&, const DataHead&) = default;
};
inline void Encode(const DataHead& x, MutableBytes to) {
  std::byte* p = internal::Room(to, DataHead::kSize);
  StoreBe(p, x.sector);
  internal::StoreOpaque(p + 8, x.block_id);
  StoreBe(p + 16, x.seq_num);
  StoreBe(p + 20, x.dp_flags);
}

// P_TRIM and P_ZEROES: no digest and no data follow, whatever was agreed (6.2).
struct TrimRequest {
  static constexpr size_t kSize = 28;
  DataHead head;
  uint32_t size = 0;  // bytes

  static std::optional<TrimRequest> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    return TrimRequest{*DataHead::Decode(payload), LoadBe<uint32_t>(payload.data() + 24)};
  }
  friend bool operator==(const TrimRequest&, const TrimRequest&) = default;
};
inline void Encode(const TrimRequest& x, MutableBytes to) {
  std::byte* p = internal::Room(to, TrimRequest::kSize);
  Encode(x.head, to);
  StoreBe(p + 24, x.size);
}

// P_RECV_ACK, P_WRITE_ACK, P_WRITE_ACK_IN_SYNC, P_RS_WRITE_ACK, P_SUPERSEDED, P_NEG_ACK,
// P_RS_NEG_ACK, P_NEG_DREPLY, P_NEG_RS_DREPLY, P_OV_RESULT, P_RS_IS_IN_SYNC, P_RS_CANCEL,
// P_RS_CANCEL_AHEAD, P_RETRY_WRITE, and P_RS_DEALLOCATED_ID on the data socket (5.11).
struct BlockAck {
  static constexpr size_t kSize = 24;
  uint64_t sector = 0;
  uint64_t block_id = 0;  // opaque; in P_OV_RESULT a big-endian number, see ov_result()
  uint32_t blksize = 0;   // bytes
  uint32_t seq_num = 0;

  static std::optional<BlockAck> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    const std::byte* p = payload.data();
    return BlockAck{LoadBe<uint64_t>(p), internal::LoadOpaque<uint64_t>(p + 8),
                    LoadBe<uint32_t>(p + 16), LoadBe<uint32_t>(p + 20)};
  }
  // P_OV_RESULT: kOvResultSkipped, kOvResultInSync or kOvResultOutOfSync.
  uint64_t ov_result() const { return LoadBe<uint64_t>(&block_id); }
  void set_ov_result(uint64_t result) { StoreBe(&block_id, result); }
  friend bool operator==(const BlockAck&, const BlockAck&) = default;
};
inline void Encode(const BlockAck& x, MutableBytes to) {
  std::byte* p = internal::Room(to, BlockAck::kSize);
  StoreBe(p, x.sector);
  internal::StoreOpaque(p + 8, x.block_id);
  StoreBe(p + 16, x.blksize);
  StoreBe(p + 20, x.seq_num);
}

// P_DATA_REQUEST, P_RS_DATA_REQUEST, P_OV_REQUEST, P_RS_THIN_REQ; and P_OV_REPLY and
// P_CSUM_RS_REQUEST, where a digest follows.
struct BlockRequest {
  static constexpr size_t kSize = 24;
  uint64_t sector = 0;
  uint64_t block_id = 0;  // opaque
  uint32_t blksize = 0;   // bytes

  static std::optional<BlockRequest> Decode(Bytes payload) {
    if (payload.size() < kSize) return std::nullopt;
    const std::byte* p = payload.data();
    return BlockRequest{LoadBe<uint64_t>(p), internal::LoadOpaque<uint64_t>(p + 8),
                        LoadBe<uint32_t>(p + 16)};
  }
  friend bool operator==(const BlockRequest&, const BlockRequest&) = default;
};
inline void Encode(const BlockRequest& x, MutableBytes to) {
  std::byte* p = internal::Room(to, BlockRequest::kSize);
  StoreBe(p, x.sector);
  internal::StoreOpaque(p + 8, x.block_id);
  StoreBe(p + 16, x.blksize);
  StoreBe<uint32_t>(p + 20, 0);
}

// P_RS_DAGTAG_REQ, P_RS_THIN_DAGTAG_REQ, P_OV_DAGTAG_REQ; and P_OV_DAGTAG_REPLY and
// P_RS_CSUM_DAGTAG_REQ, where a digest follows.
struct DagtagRequest {
  static constexpr size_t kSize = 32;
  uint64_t sector = 0;
  uint64_t block_id = 0;  // opaque
  uint32_t blksize = 0;   // bytes
  uint32_t dagtag_node_id = 0;
  uint64_t dagtag = 0;  // 0: depends on nothing

  static std::optional<DagtagRequest> Decode(Bytes payload) {
    if (payload.size() < kSize) return std::nullopt;
    const std::byte* p = payload.data();
    return DagtagRequest{LoadBe<uint64_t>(p), internal::LoadOpaque<uint64_t>(p + 8),
                         LoadBe<uint32_t>(p + 16), LoadBe<uint32_t>(p + 20),
                         LoadBe<uint64_t>(p + 24)};
  }
  friend bool operator==(const DagtagRequest&, const DagtagRequest&) = default;
};
inline void Encode(const DagtagRequest& x, MutableBytes to) {
  std::byte* p = internal::Room(to, DagtagRequest::kSize);
  StoreBe(p, x.sector);
  internal::StoreOpaque(p + 8, x.block_id);
  StoreBe(p + 16, x.blksize);
  StoreBe(p + 20, x.dagtag_node_id);
  StoreBe(p + 24, x.dagtag);
}

// P_OUT_OF_SYNC and P_RS_DEALLOCATED.
struct BlockDescription {
  static constexpr size_t kSize = 16;
  uint64_t sector = 0;
  uint32_t blksize = 0;  // bytes

  static std::optional<BlockDescription> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    return BlockDescription{LoadBe<uint64_t>(payload.data()), LoadBe<uint32_t>(payload.data() + 8)};
  }
  friend bool operator==(const BlockDescription&, const BlockDescription&) = default;
};
inline void Encode(const BlockDescription& x, MutableBytes to) {
  std::byte* p = internal::Room(to, BlockDescription::kSize);
  StoreBe(p, x.sector);
  StoreBe(p + 8, x.blksize);
  StoreBe<uint32_t>(p + 12, 0);
}

// P_BARRIER (5.10.6).
struct Barrier {
  static constexpr size_t kSize = 8;
  uint32_t barrier = 0;  // opaque

  static std::optional<Barrier> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    return Barrier{internal::LoadOpaque<uint32_t>(payload.data())};
  }
  friend bool operator==(const Barrier&, const Barrier&) = default;
};
inline void Encode(const Barrier& x, MutableBytes to) {
  std::byte* p = internal::Room(to, Barrier::kSize);
  internal::StoreOpaque(p, x.barrier);
  StoreBe<uint32_t>(p + 4, 0);
}

// P_BARRIER_ACK.
struct BarrierAck {
  static constexpr size_t kSize = 8;
  uint32_t barrier = 0;   // opaque
  uint32_t set_size = 0;  // write packets in the epoch

  static std::optional<BarrierAck> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    return BarrierAck{internal::LoadOpaque<uint32_t>(payload.data()),
                      LoadBe<uint32_t>(payload.data() + 4)};
  }
  friend bool operator==(const BarrierAck&, const BarrierAck&) = default;
};
inline void Encode(const BarrierAck& x, MutableBytes to) {
  std::byte* p = internal::Room(to, BarrierAck::kSize);
  internal::StoreOpaque(p, x.barrier);
  StoreBe(p + 4, x.set_size);
}

// P_CONFIRM_STABLE.
struct ConfirmStable {
  static constexpr size_t kSize = 24;
  uint64_t oldest_block_id = 0;    // opaque
  uint64_t youngest_block_id = 0;  // opaque
  uint32_t set_size = 0;           // requests, both ends included

  static std::optional<ConfirmStable> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    const std::byte* p = payload.data();
    return ConfirmStable{internal::LoadOpaque<uint64_t>(p), internal::LoadOpaque<uint64_t>(p + 8),
                         LoadBe<uint32_t>(p + 16)};
  }
  friend bool operator==(const ConfirmStable&, const ConfirmStable&) = default;
};
inline void Encode(const ConfirmStable& x, MutableBytes to) {
  std::byte* p = internal::Room(to, ConfirmStable::kSize);
  internal::StoreOpaque(p, x.oldest_block_id);
  internal::StoreOpaque(p + 8, x.youngest_block_id);
  StoreBe(p + 16, x.set_size);
  StoreBe<uint32_t>(p + 20, 0);
}

// P_DAGTAG (5.10.8).
struct Dagtag {
  static constexpr size_t kSize = 8;
  uint64_t dagtag = 0;

  static std::optional<Dagtag> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    return Dagtag{LoadBe<uint64_t>(payload.data())};
  }
  friend bool operator==(const Dagtag&, const Dagtag&) = default;
};
inline void Encode(const Dagtag& x, MutableBytes to) {
  StoreBe(internal::Room(to, Dagtag::kSize), x.dagtag);
}

// P_PEER_ACK (5.10.9).
struct PeerAck {
  static constexpr size_t kSize = 16;
  uint64_t mask = 0;  // bit n: node n has the writes on disk
  uint64_t dagtag = 0;

  static std::optional<PeerAck> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    return PeerAck{LoadBe<uint64_t>(payload.data()), LoadBe<uint64_t>(payload.data() + 8)};
  }
  friend bool operator==(const PeerAck&, const PeerAck&) = default;
};
inline void Encode(const PeerAck& x, MutableBytes to) {
  std::byte* p = internal::Room(to, PeerAck::kSize);
  StoreBe(p, x.mask);
  StoreBe(p + 8, x.dagtag);
}

// P_PEER_DAGTAG (5.10.10).
struct PeerDagtag {
  static constexpr size_t kSize = 12;
  uint64_t dagtag = 0;
  uint32_t node_id = 0;

  static std::optional<PeerDagtag> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    return PeerDagtag{LoadBe<uint64_t>(payload.data()), LoadBe<uint32_t>(payload.data() + 8)};
  }
  friend bool operator==(const PeerDagtag&, const PeerDagtag&) = default;
};
inline void Encode(const PeerDagtag& x, MutableBytes to) {
  std::byte* p = internal::Room(to, PeerDagtag::kSize);
  StoreBe(p, x.dagtag);
  StoreBe(p + 8, x.node_id);
}

// P_PEERS_IN_SYNC (5.12.7), on the control socket.
struct PeersInSync {
  static constexpr size_t kSize = 24;
  uint64_t sector = 0;
  uint64_t mask = 0;  // node ids in sync with the sender in this range
  uint32_t size = 0;  // bytes

  static std::optional<PeersInSync> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    const std::byte* p = payload.data();
    return PeersInSync{LoadBe<uint64_t>(p), LoadBe<uint64_t>(p + 8), LoadBe<uint32_t>(p + 16)};
  }
  friend bool operator==(const PeersInSync&, const PeersInSync&) = default;
};
inline void Encode(const PeersInSync& x, MutableBytes to) {
  std::byte* p = internal::Room(to, PeersInSync::kSize);
  StoreBe(p, x.sector);
  StoreBe(p + 8, x.mask);
  StoreBe(p + 16, x.size);
  StoreBe<uint32_t>(p + 20, 0);
}

// P_OV_RESULT_ID (5.13), protocol 122 and up.
struct OvResultId {
  static constexpr size_t kSize = 32;
  uint64_t sector = 0;
  uint64_t block_id = 0;  // opaque
  uint32_t blksize = 0;   // bytes
  uint32_t seq_num = 0;
  VerifyResult result = VerifyResult::kSkipped;

  // nullopt also for a result that is none of the three.
  static std::optional<OvResultId> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    const std::byte* p = payload.data();
    const uint32_t result = LoadBe<uint32_t>(p + 24);
    if (result > static_cast<uint32_t>(VerifyResult::kOutOfSync)) return std::nullopt;
    return OvResultId{LoadBe<uint64_t>(p), internal::LoadOpaque<uint64_t>(p + 8),
                      LoadBe<uint32_t>(p + 16), LoadBe<uint32_t>(p + 20),
                      static_cast<VerifyResult>(result)};
  }
  friend bool operator==(const OvResultId&, const OvResultId&) = default;
};
inline void Encode(const OvResultId& x, MutableBytes to) {
  std::byte* p = internal::Room(to, OvResultId::kSize);
  StoreBe(p, x.sector);
  internal::StoreOpaque(p + 8, x.block_id);
  StoreBe(p + 16, x.blksize);
  StoreBe(p + 20, x.seq_num);
  StoreBe(p + 24, static_cast<uint32_t>(x.result));
  StoreBe<uint32_t>(p + 28, 0);
}

// P_FLUSH_REQUESTS (5.10.11).
struct FlushRequests {
  static constexpr size_t kSize = 8;
  uint64_t flush_sequence = 0;

  static std::optional<FlushRequests> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    return FlushRequests{LoadBe<uint64_t>(payload.data())};
  }
  friend bool operator==(const FlushRequests&, const FlushRequests&) = default;
};
inline void Encode(const FlushRequests& x, MutableBytes to) {
  StoreBe(internal::Room(to, FlushRequests::kSize), x.flush_sequence);
}

// P_FLUSH_FORWARD, on the control socket.
struct FlushForward {
  static constexpr size_t kSize = 12;
  uint64_t flush_sequence = 0;
  uint32_t initiator_node_id = 0;

  static std::optional<FlushForward> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    return FlushForward{LoadBe<uint64_t>(payload.data()), LoadBe<uint32_t>(payload.data() + 8)};
  }
  friend bool operator==(const FlushForward&, const FlushForward&) = default;
};
inline void Encode(const FlushForward& x, MutableBytes to) {
  std::byte* p = internal::Room(to, FlushForward::kSize);
  StoreBe(p, x.flush_sequence);
  StoreBe(p + 8, x.initiator_node_id);
}

// P_FLUSH_REQUESTS_ACK, on the data socket.
struct FlushRequestsAck {
  static constexpr size_t kSize = 12;
  uint64_t flush_sequence = 0;
  uint32_t primary_node_id = 0;

  static std::optional<FlushRequestsAck> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    return FlushRequestsAck{LoadBe<uint64_t>(payload.data()), LoadBe<uint32_t>(payload.data() + 8)};
  }
  friend bool operator==(const FlushRequestsAck&, const FlushRequestsAck&) = default;
};
inline void Encode(const FlushRequestsAck& x, MutableBytes to) {
  std::byte* p = internal::Room(to, FlushRequestsAck::kSize);
  StoreBe(p, x.flush_sequence);
  StoreBe(p + 8, x.primary_node_id);
}

// P_ENABLE_REPLICATION_NEXT and P_ENABLE_REPLICATION (5.12.8).
struct EnableReplication {
  static constexpr size_t kSize = 4;
  bool enable = false;

  // Any value but 0 counts as 1.
  static std::optional<EnableReplication> Decode(Bytes payload) {
    if (payload.size() != kSize) return std::nullopt;
    return EnableReplication{payload[0] != std::byte{0}};
  }
  friend bool operator==(const EnableReplication&, const EnableReplication&) = default;
};
inline void Encode(const EnableReplication& x, MutableBytes to) {
  StoreBe<uint32_t>(internal::Room(to, EnableReplication::kSize), x.enable ? 0x01000000 : 0);
}

}  // namespace umblock::drbd::wire
