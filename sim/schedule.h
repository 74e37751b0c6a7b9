// The faults of one run, drawn from the seed before it begins, so that single ones can be left out
// when a failure is narrowed down (--without).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/runtime/sim/random.h"
#include "engine/runtime/sim/world.h"

namespace umblock::sim {

enum class Fault : uint8_t {
  kCrashPrimary,
  kCrashSecondary,
  kCrashBoth,
  kCrashInBitmapExchange,
  kCrashInActivityLogWrite,
  kCrashAtPacket,  // the node that sends the next packet of some type
  kCutPayload,
  kCutAnywhere,
  kCutBarrierAck,
  kCutBothEnds,  // both learn at once and connect again at once
  kPartition,
  kOneWaySilence,
  kTwoPhaseCommitLoss,
  kRefuseConnects,
  kDataWriteErrors,
  kDataReadErrors,
  kMetadataErrors,
  kFlushErrors,
  kDiskHang,
  kSlowDisk,
  kSlowNode,
  kMove,
  kRefusedPromotion,
  kDisconnect,
  kDetach,
  kPauseAndCompare,
  // The repertoire (sim/repertoire.h).
  kVerifyAtRest,
  kVerifyUnderLoad,
  kGrow,
  kPausedResync,
  kInvalidate,
  kDiskless,
  kSuspendIo,
  kReconfigure,
  kCount,
};
std::string_view FaultName(Fault fault);

struct Episode {
  Fault fault;
  SimTime at;         // from the beginning of the active phase
  Duration duration;  // until it is undone, or the node is started again
  uint64_t choice;    // chance of its own for everything else about it
};
std::string Describe(const Episode& episode);

// `repertoire`: with the second table of weights, which has everything in it.
std::vector<Episode> MakeSchedule(SimRandom random, size_t episodes, Duration active,
                                  bool repertoire);

}  // namespace umblock::sim
