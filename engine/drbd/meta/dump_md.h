// Metadata as text, in the grammar of drbdmeta's dump-md (drbd-metadata-resync.md 2.13), for
// diagnostics and for `drbdmeta restore-md`. Writing only.
#pragma once

#include <string>

#include "engine/drbd/meta/bitmap.h"
#include "engine/drbd/meta/geometry.h"
#include "engine/drbd/meta/superblock.h"

namespace umblock::drbd::meta {

struct DumpOptions {
  // drbdmeta before 9.27 does not restore a dump with the line `members`.
  bool members = true;
};

// `bitmap` has the superblock's slots and granularity, and the superblock's size (or no bits if
// that is 0). Of unclean metadata the dump holds a word that keeps it from being restored, as
// drbdmeta's has.
std::string DumpMd(const Superblock& superblock, const Geometry& geometry, const Bitmap& bitmap,
                   DumpOptions options = {});

}  // namespace umblock::drbd::meta
