// Numbers of the DRBD wire protocol that are no packet types: versions, feature flags, flags inside
// packets, limits. Source: drbd-wire.md, the section named at each group.
#pragma once

#include <cstddef>
#include <cstdint>

namespace umblock::drbd::wire {

// Protocol versions (3.4). 102..117 are the early dialects of DRBD 9, which nobody supports any
// more; below 110 the dialect is that of 8.4.
inline constexpr int kProtocolMin84 = 86;
inline constexpr int kProtocolMax84 = 101;
inline constexpr int kProtocolMin9 = 118;
inline constexpr int kProtocolMax9 = 124;
inline constexpr int kProtocolFirst9 = 110;      // dialect boundary: node ids, two-phase commit
inline constexpr int kProtocolMarkedSync = 120;  // WFBitMapS and T on a link that stands
inline constexpr int kProtocolBlockIds = 122;    // block ids in all resync and verify packets
inline constexpr int kProtocolFlush = 123;       // P_FLUSH_*

// Feature flags (3.3).
inline constexpr uint32_t kFeatureTrim = 1;
inline constexpr uint32_t kFeatureThinResync = 2;
inline constexpr uint32_t kFeatureWsame = 4;  // P_SIZES has 56 bytes, trims up to 128 MiB
inline constexpr uint32_t kFeatureWzeroes = 8;
inline constexpr uint32_t kFeatureResyncDagtag = 16;
inline constexpr uint32_t kFeatureTwoPcV2 = 32;
inline constexpr uint32_t kFeatureRsSkipUuid = 64;
inline constexpr uint32_t kFeatureResyncWithoutReplication = 128;
inline constexpr uint32_t kFeatureBmBlockShift = 256;
inline constexpr uint32_t kFeatureReconcileReconnect = 512;

// dp_flags of a data head (5.10.1). Unknown bits are ignored.
inline constexpr uint32_t kDpHardBarrier = 1;  // obsolete
inline constexpr uint32_t kDpRwSync = 2;
inline constexpr uint32_t kDpMaySetInSync = 4;
inline constexpr uint32_t kDpUnplug = 8;  // obsolete
inline constexpr uint32_t kDpFua = 16;
inline constexpr uint32_t kDpFlush = 32;
inline constexpr uint32_t kDpDiscard = 64;
inline constexpr uint32_t kDpSendReceiveAck = 128;
inline constexpr uint32_t kDpSendWriteAck = 256;
inline constexpr uint32_t kDpWsame = 512;  // must not be set
inline constexpr uint32_t kDpZeroes = 1024;

// uuid_flags of P_UUIDS110 (5.4.2); P_UUIDS knows the first four.
inline constexpr uint64_t kUuidFlagDiscardMyData = 0x1;
inline constexpr uint64_t kUuidFlagCrashedPrimary = 0x2;
inline constexpr uint64_t kUuidFlagInconsistent = 0x4;
inline constexpr uint64_t kUuidFlagSkipInitialSync = 0x8;
inline constexpr uint64_t kUuidFlagNewDatagen = 0x10;
inline constexpr uint64_t kUuidFlagStable = 0x20;
inline constexpr uint64_t kUuidFlagGotStable = 0x40;
inline constexpr uint64_t kUuidFlagResync = 0x80;
inline constexpr uint64_t kUuidFlagReconnect = 0x100;
inline constexpr uint64_t kUuidFlagDisklessPrimary = 0x200;
inline constexpr uint64_t kUuidFlagPrimaryLostQuorum = 0x400;
inline constexpr uint64_t kUuidFlagSyncTarget = 0x800;
inline constexpr uint64_t kUuidFlagHasUnalloc = 0x1000;
inline constexpr int kUuidUnallocShift = 56;  // with HasUnalloc: the node id in bits 56..63

// Special UUIDs (5.4).
inline constexpr uint64_t kUuidJustCreated = 4;
inline constexpr uint64_t kUuidPrimaryBit = 1;          // masked before comparing
inline constexpr uint64_t kUuidUnknown = ~uint64_t{0};  // "no information" in a bitmap slot

// Flags of a two-phase commit request in the V2 layout (5.8.2).
inline constexpr uint32_t kTwoPcHasFlags = 0x80000000;
inline constexpr uint32_t kTwoPcHasReachable = 0x40000000;
inline constexpr uint32_t kTwoPcPrimaryIncapable = 0x20000000;

// conn_flags of P_PROTOCOL (5.3.1).
inline constexpr uint32_t kConnDiscardMyData = 1;
inline constexpr uint32_t kConnDryRun = 2;

// after-split-brain values of P_PROTOCOL (5.3.1).
enum class AfterSplitBrain : uint32_t {
  kDisconnect = 0,
  kDiscardYoungerPrimary = 1,
  kDiscardOlderPrimary = 2,
  kDiscardZeroChanges = 3,
  kDiscardLeastChanges = 4,
  kDiscardLocal = 5,
  kDiscardRemote = 6,
  kConsensus = 7,
  kDiscardSecondary = 8,
  kCallPriLostAfterSb = 9,
  kViolentlyAs0p = 10,
  kRetryConnect = 11,
  kAutoDiscard = 12,
};

// `protocol` of P_PROTOCOL.
enum class ReplicationProtocol : uint32_t { kA = 1, kB = 2, kC = 3 };

// dds_flags of P_SIZES and P_TWOPC_PREP_RSZ (5.5).
inline constexpr uint16_t kDdsForced = 1;
inline constexpr uint16_t kDdsNoResync = 2;
inline constexpr uint16_t kDdsLocalOnly = 8;

// retcode of P_STATE_CHG_REPLY (5.7.2); 1 and more mean yes.
inline constexpr int32_t kStateChangeSuccess = 1;

// Results in P_OV_RESULT (in place of block_id, as a big-endian number) and P_OV_RESULT_ID (5.13).
inline constexpr uint64_t kOvResultSkipped = 4710;
inline constexpr uint64_t kOvResultInSync = 4711;
inline constexpr uint64_t kOvResultOutOfSync = 4712;
enum class VerifyResult : uint32_t { kSkipped = 0, kInSync = 1, kOutOfSync = 2 };

// block_id of resync packets below protocol 122 (5.2): eight 0xff bytes.
inline constexpr uint64_t kIdSyncer = ~uint64_t{0};

// Limits (2.4, 5.4.2, 6.1, 7.1, 9.2).
inline constexpr uint32_t kSectorSize = 512;
inline constexpr int kSectorShift = 9;
inline constexpr uint32_t kMaxRequestBytes = 1 << 20;            // writes, reads, resync
inline constexpr uint32_t kMaxTrimBytes = 128u << 20;            // with kFeatureWsame
inline constexpr uint32_t kMaxTrimBytesWithoutWsame = 4u << 20;  // without
inline constexpr uint32_t kMaxBitmapPacketBytes = 4096;          // header and payload
inline constexpr uint32_t kMaxDigestBytes = 64;
inline constexpr uint32_t kAlgorithmNameBytes = 64;  // including the terminating NUL
inline constexpr uint32_t kMaxSharedSecretBytes = 63;
inline constexpr int kMaxNodeId = 31;
inline constexpr int kMaxPeers = 32;               // node ids 0..31, so slots in a bitmap uuid mask
inline constexpr int kHistoryUuids = 32;           // that P_UUIDS110 carries and we keep
inline constexpr uint32_t kBitmapBitBytes = 4096;  // what one bit of the bitmap stream covers

}  // namespace umblock::drbd::wire
