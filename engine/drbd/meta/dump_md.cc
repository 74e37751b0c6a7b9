#include "engine/drbd/meta/dump_md.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <string_view>
#include <utility>

#include "engine/base/bytes.h"

namespace umblock::drbd::meta {
namespace {

using Out = std::back_insert_iterator<std::string>;

constexpr uint64_t kWordsPerLine = 4;
constexpr uint64_t kShortestRun = 8;

std::string PeerFlagNames(uint32_t flags) {
  static constexpr std::array<std::pair<uint32_t, std::string_view>, 6> kNames = {{
      {kPeerConnected, "connected"},
      {kPeerOutdated, "<=outdated"},
      {kPeerFencing, "fencing"},
      {kPeerFullSync, "full-sync"},
      {kPeerDeviceSeen, "seen"},
      {kPeerNodeExists, "exists"},
  }};
  std::string names;
  for (const auto& [flag, name] : kNames) {
    if ((flags & flag) == 0) continue;
    names += names.empty() ? " # " : " ";
    names += name;
  }
  return names;
}

void DumpPlaces(Out out, const Geometry& g) {
  fmt::format_to(out, "# md_size_sect {}\n# md_offset {}\n# al_offset {}\n# bm_offset {}\n\n",
                 g.md_size_sectors, g.superblock_offset, g.al_offset, g.bm_offset);
}

template <size_t kCount>
void DumpUuids(Out out, const std::array<uint64_t, kCount>& uuids) {
  for (size_t i = 0; i < kCount; i += kWordsPerLine) {
    fmt::format_to(out, "   ");
    for (size_t k = i; k < i + kWordsPerLine; ++k) fmt::format_to(out, " 0x{:016X};", uuids[k]);
    fmt::format_to(out, "\n");
  }
}

void DumpV08Head(Out out, const Superblock& sb, const Geometry& g) {
  DumpPlaces(out, g);
  fmt::format_to(out, "uuid {{\n");
  DumpUuids(out, std::array<uint64_t, 4>{sb.current_uuid, sb.v08_bitmap_uuid, sb.history[0],
                                         sb.history[1]});
  fmt::format_to(out, "    flags 0x{:08X};\n}}\n", sb.flags);
}

void DumpV09Head(Out out, const Superblock& sb, const Geometry& g, DumpOptions options) {
  fmt::format_to(out, "max-peers {};\n", sb.max_peers);
  DumpPlaces(out, g);
  fmt::format_to(out, "node-id {};\ncurrent-uuid 0x{:016X};\nflags 0x{:08X};\n", sb.node_id,
                 sb.current_uuid, sb.flags);
  if (options.members) fmt::format_to(out, "members 0x{:016X};\n", sb.members);
  for (size_t i = 0; i < kMaxNodes; ++i) {
    const PeerEntry& peer = sb.peers[i];
    fmt::format_to(out,
                   "peer[{}] {{\n    bitmap-index {};\n    bitmap-uuid 0x{:016X};\n"
                   "    bitmap-dagtag 0x{:016X};\n    flags 0x{:08X};{}\n}}\n",
                   i, peer.bitmap_index, peer.bitmap_uuid, peer.bitmap_dagtag, peer.flags,
                   PeerFlagNames(peer.flags));
  }
  fmt::format_to(out, "history-uuids {{\n");
  DumpUuids(out, sb.history);
  fmt::format_to(out, "}}\n");
}

uint64_t WordAt(const Bitmap& bitmap, uint32_t slot, uint64_t index) {
  // The dump speaks of the bits as they are on disk, whatever block size they stand for.
  const uint64_t base = index * 64;
  if (base >= bitmap.bits()) return 0;
  uint64_t word = 0;
  for (uint64_t half = 0; half < 2; ++half) {
    const uint64_t at = BitmapByteOffset(base + half * 32, slot, bitmap.max_peers());
    const Bytes page = bitmap.Page(at / kBlockBytes);
    word |= uint64_t{LoadLe<uint32_t>(page.data() + at % kBlockBytes)} << (32 * half);
  }
  return word;
}

// A word that can be part of a run: both halves equal.
bool Uniform(uint64_t word) { return (word >> 32) == (word & 0xFFFFFFFF); }

uint64_t RunLength(const Bitmap& bitmap, uint32_t slot, uint64_t at, uint64_t words) {
  const uint64_t value = WordAt(bitmap, slot, at);
  if (!Uniform(value)) return 0;
  uint64_t end = at + 1;
  while (end < words && WordAt(bitmap, slot, end) == value) ++end;
  return AlignDown(end - at, kWordsPerLine);
}

void DumpSlot(Out out, const Bitmap& bitmap, uint32_t slot, uint64_t words) {
  for (uint64_t at = 0; at < words;) {
    if (at % 32 == 0) {
      fmt::format_to(out, "   # at {}kB\n", at * 64 * (bitmap.bytes_per_bit() / 1024));
    }
    if (const uint64_t run = RunLength(bitmap, slot, at, words); run >= kShortestRun) {
      fmt::format_to(out, "    {} times 0x{:016X};\n", run, WordAt(bitmap, slot, at));
      at += run;
      continue;
    }
    fmt::format_to(out, "   ");
    for (const uint64_t end = std::min(words, at + kWordsPerLine); at < end; ++at) {
      fmt::format_to(out, " 0x{:016X};", WordAt(bitmap, slot, at));
    }
    fmt::format_to(out, "\n");
  }
}

}  // namespace

std::string DumpMd(const Superblock& sb, const Geometry& g, const Bitmap& bitmap,
                   DumpOptions options) {
  std::string text;
  const Out out(text);
  const bool v08 = sb.format == Format::kV08;
  fmt::format_to(out, "# DRBD meta data dump\n#\n\nversion \"{}\";\n\n", v08 ? "v08" : "v09");
  if (!sb.al_clean()) {
    fmt::format_to(out,
                   "This_is_an_unclean_meta_data_dump._Don't_trust_the_bitmap.\n"
                   "# The activity log has not been applied; do that before restoring this.\n\n");
  }
  v08 ? DumpV08Head(out, sb, g) : DumpV09Head(out, sb, g, options);
  const uint64_t bytes = bitmap.page_count() * kBlockBytes;
  fmt::format_to(out,
                 "# al-extents {};\nla-size-sect {};\nbm-byte-per-bit {};\n"
                 "device-uuid 0x{:016X};\nla-peer-max-bio-size {};\nal-stripes {};\n"
                 "al-stripe-size-4k {};\n# bm-bytes {};\n",
                 sb.al_nr_extents, sb.effective_sectors, sb.bytes_per_bit, sb.device_uuid,
                 sb.la_peer_max_bio_bytes, sb.al_stripes, sb.al_stripe_size_4k, bytes);
  const uint64_t words = bytes / 8 / sb.max_peers;
  uint64_t set = 0;
  for (uint32_t slot = 0; slot < bitmap.max_peers(); ++slot) {
    v08 ? fmt::format_to(out, "bm {{\n") : fmt::format_to(out, "bitmap[{}] {{\n", slot);
    DumpSlot(out, bitmap, slot, words);
    fmt::format_to(out, "}}\n");
    set += bitmap.weight(slot);
  }
  fmt::format_to(out, "# bits-set {};\n", set);
  return text;
}

}  // namespace umblock::drbd::meta
