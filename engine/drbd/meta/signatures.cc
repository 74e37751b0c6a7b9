#include "engine/drbd/meta/signatures.h"

#include <algorithm>

#include "engine/drbd/meta/superblock.h"

namespace umblock::drbd::meta {
namespace {

struct Signature {
  size_t offset;
  std::string_view magic;
  std::string_view what;
};

using namespace std::string_view_literals;

constexpr Signature kSignatures[] = {
    {1024 + 56, "\x53\xEF"sv, "an ext2/3/4 filesystem"},
    {0, "XFSB"sv, "an xfs filesystem"},
    {0x8000, "JFS1"sv, "a jfs filesystem"},
    {0x10000 + 52, "ReIsErFs"sv, "a reiserfs filesystem"},
    {0x10000 + 52, "ReIsEr2Fs"sv, "a reiserfs filesystem"},
    {0x10000 + 52, "ReIsEr3Fs"sv, "a reiserfs filesystem"},
    {0x10000 + 64, "_BHRfS_M"sv, "a btrfs filesystem"},
    {3, "NTFS    "sv, "an NTFS filesystem"},
    {54, "FAT"sv, "a FAT filesystem"},
    {82, "FAT32"sv, "a FAT filesystem"},
    {4096 - 10, "SWAPSPACE2"sv, "swap space"},
    {4096 - 10, "SWAP-SPACE"sv, "swap space"},
    {0, "LABELONE"sv, "an LVM physical volume"},
    {512, "LABELONE"sv, "an LVM physical volume"},
    {1024, "LABELONE"sv, "an LVM physical volume"},
    {1536, "LABELONE"sv, "an LVM physical volume"},
    {0, "LUKS\xBA\xBE"sv, "a LUKS encrypted volume"},
    {512, "EFI PART"sv, "a GPT partition table"},
    {0, "\xFC\x4E\x2B\xA9"sv, "a member of an md array"},
    {4096, "\xFC\x4E\x2B\xA9"sv, "a member of an md array"},
};

bool Holds(Bytes start, size_t offset, std::string_view magic) {
  return start.size() >= offset + magic.size() &&
         std::ranges::equal(start.subspan(offset, magic.size()), magic, {}, {},
                            [](char c) { return static_cast<std::byte>(c); });
}

// A DOS partition table: the boot signature and at least one entry with a type.
bool HasPartitionTable(Bytes start) {
  if (!Holds(start, 510, "\x55\xAA"sv)) return false;
  for (size_t entry = 0; entry < 4; ++entry) {
    if (start[446 + 16 * entry + 4] != std::byte{0}) return true;
  }
  return false;
}

}  // namespace

std::optional<std::string_view> FindSignature(Bytes start) {
  for (const Signature& signature : kSignatures) {
    if (Holds(start, signature.offset, signature.magic)) return signature.what;
  }
  if (HasPartitionTable(start)) return "a partition table";
  if (start.size() >= kSuperblockBytes && LooksLikeSuperblock(start.first<kSuperblockBytes>())) {
    return "DRBD metadata (external layout)";
  }
  return std::nullopt;
}

}  // namespace umblock::drbd::meta
