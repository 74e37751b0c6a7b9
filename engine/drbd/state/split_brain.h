// after-split-brain policies (drbd-metadata-resync.md 5.7), used by DecideSync.
#pragma once

#include "engine/drbd/state/sync_decision.h"

namespace umblock::drbd {

struct SplitBrainVerdict {
  // kNone = unresolved.
  SyncDirection direction = SyncDirection::kNone;
  bool demote_self = false;  // this Primary has to be demoted first
  bool call_pri_lost_after_sb = false;
};

// By the number of Primaries among the two sides.
SplitBrainVerdict ResolveSplitBrain(const SyncInput& in);

}  // namespace umblock::drbd
