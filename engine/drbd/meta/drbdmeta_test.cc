// Against Debian's drbdmeta, on regular files: it creates and we read, we create and it dumps, and
// its apply-al gives what our recovery gives. drbdmeta must be installed (package drbd-utils);
// without it these tests fail.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <random>

#include "engine/drbd/meta/dump_md.h"
#include "engine/drbd/meta/meta_store.h"
#include "engine/drbd/meta/test_disk.h"

namespace umblock::drbd::meta {
namespace {

using testing::CommandResult;
using testing::DiskFile;
using ::testing::HasSubstr;
using testing::Image;
using testing::Machine;
using testing::ParseDump;

constexpr uint64_t kMiB = 1 << 20;

struct Layout {
  MetaLayoutOptions options;
  uint64_t device_bytes;
};

std::string CreateMd(const MetaLayoutOptions& o) {
  std::string command = "create-md";
  if (o.al_stripes != 1 || o.al_stripe_size_4k != 8) {
    command += fmt::format(" --al-stripes {} --al-stripe-size-kB {}", o.al_stripes,
                           o.al_stripe_size_4k * 4);
  }
  return fmt::format("{} {}", command, o.max_peers);
}

// The metadata area of a file, as contents of a test disk, and back.
testing::DiskContents MetadataOf(const DiskFile& file, const Geometry& g) {
  if (g.placement == Placement::kFlexExternal)
    return testing::TestDisk::Load(file, 0, file.bytes());
  return testing::TestDisk::Load(file, g.bm_offset, file.bytes());
}

const std::vector<Layout>& Layouts() {
  constexpr auto kIn = Placement::kInternal;
  constexpr auto kEx = Placement::kFlexExternal;
  static const std::vector<Layout> kAll = {
      {{kIn, 1}, 100 * kMiB},
      {{kIn, 3}, 100 * kMiB},
      {{kIn, 7}, 8 * kMiB},
      {{kIn, 31}, 300 * kMiB},
      {{kIn, 2}, 300 * kMiB + 512},
      {{kIn, 3}, 129 * kMiB + 3584},
      {{kIn, 2, 4096, 4, 16}, 200 * kMiB},
      {{kIn, 5, 4096, 3, 8}, 64 * kMiB},
      {{kIn, 1, 4096, 1, 80}, 64 * kMiB},
      {{kEx, 1}, kMiB},
      {{kEx, 3}, 2 * kMiB},
      {{kEx, 7, 4096, 2, 32}, 3 * kMiB + 512},
  };
  return kAll;
}

class LayoutTest : public ::testing::TestWithParam<Layout> {};

TEST_P(LayoutTest, TheyCreateWeRead) {
  const auto& [options, bytes] = GetParam();
  DiskFile file(bytes);
  const CommandResult created = file.Drbdmeta(options.placement, CreateMd(options));
  ASSERT_EQ(created.exit_code, 0) << created.output;
  const Image image = testing::ParseImage(file, options.placement);
  const auto geometry = ComputeGeometry(options, bytes);
  ASSERT_TRUE(geometry);
  EXPECT_EQ(image.geometry, *geometry);
  EXPECT_TRUE(CheckSuperblock(image.superblock,
                              {options.placement == Placement::kInternal, bytes / 512, 0, true}));
  EXPECT_TRUE(ReplayAl(image.ring, options.al_stripes, options.al_stripe_size_4k)->pristine());
}

TEST_P(LayoutTest, WeCreateWhatTheyCreate) {
  const auto& [options, bytes] = GetParam();
  DiskFile theirs(bytes), ours(bytes);
  ASSERT_EQ(theirs.Drbdmeta(options.placement, CreateMd(options)).exit_code, 0);
  Machine machine(bytes);
  const auto geometry = machine.Await(MetaStore::Create(machine.disk, {options, 0, false}));
  ASSERT_TRUE(geometry) << geometry.error().message();
  machine.disk.Save(ours);
  EXPECT_EQ(MetadataOf(ours, *geometry), MetadataOf(theirs, *geometry)) << "byte for byte";
  const CommandResult dump = ours.Drbdmeta(options.placement, "dump-md");
  ASSERT_EQ(dump.exit_code, 0) << dump.output;
  const Image image = testing::ParseImage(ours, options.placement);
  EXPECT_EQ(ParseDump(DumpMd(image.superblock, image.geometry, testing::BitmapOf(image),
                             {.members = false})),
            ParseDump(dump.output));
}

INSTANTIATE_TEST_SUITE_P(Layouts, LayoutTest, ::testing::ValuesIn(Layouts()));

// --- random states -----------------------------------------------------------------------------

class RandomState : public ::testing::TestWithParam<uint64_t> {
 protected:
  void SetUp() override {
    random_.seed(GetParam());
    layout_ = Layouts()[GetParam() % Layouts().size()];
    const auto geometry = ComputeGeometry(layout_.options, layout_.device_bytes);
    ASSERT_TRUE(geometry);
    image_.geometry = *geometry;
    MakeSuperblock();
    MakeBitmap();
    MakeRing();
    file_ = std::make_unique<DiskFile>(layout_.device_bytes);
    testing::WriteImage(*file_, image_);
  }

  uint64_t Below(uint64_t n) { return random_() % n; }

  void MakeSuperblock() {
    Superblock& sb = image_.superblock;
    const Geometry& g = image_.geometry;
    // External: some backing device that the bitmap can track; drbdmeta knows only the metadata.
    const uint64_t usable = UsableSectors(g, 4096 * kMiB / 512);
    // Sizes at every kind of border: full, in the last extent, any.
    const uint64_t sizes[] = {usable, AlignDown<uint64_t>(usable, kAlExtentSectors),
                              1 + Below(usable), usable - Below(std::min<uint64_t>(usable, 8192))};
    sb.effective_sectors = std::max<uint64_t>(8, sizes[Below(4)] / 8 * 8);
    sb.current_uuid = random_();
    sb.device_uuid = random_();
    sb.flags = static_cast<uint32_t>(random_() & 0x755) & ~(kMdCrashedPrimary | kMdAlDisabled);
    if (Below(4) != 0) sb.flags |= kMdPrimaryInd;
    sb.md_size_sectors = g.md_size_sectors;
    sb.al_offset_sectors = g.al_offset_sectors;
    sb.al_nr_extents = 1237;
    sb.bm_offset_sectors = g.bm_offset_sectors;
    sb.la_peer_max_bio_bytes = 1 << 20;
    sb.max_peers = g.max_peers;
    sb.node_id = static_cast<int32_t>(Below(32));
    sb.al_stripes = g.al_stripes;
    sb.al_stripe_size_4k = g.al_stripe_size_4k;
    int32_t slot = 0;
    for (uint32_t node = 0; node < kMaxNodes; ++node) {
      PeerEntry& peer = sb.peers[node];
      peer.bitmap_uuid = random_() % 3 == 0 ? 0 : random_();
      peer.bitmap_dagtag = random_();
      if (static_cast<int32_t>(node) == sb.node_id || Below(3) == 0) continue;
      if (slot < static_cast<int32_t>(g.max_peers)) {
        peer.bitmap_index = slot++;
        peer.flags = static_cast<uint32_t>(random_() & 0x17);
      }
    }
    for (uint64_t& uuid : sb.history) uuid = random_();
  }

  void MakeBitmap() {
    image_.bitmap_area.assign(image_.geometry.bm_bytes, std::byte{0});
    Bitmap bitmap = testing::BitmapOf(image_);
    for (int i = 0; i < 30; ++i) {
      const uint64_t first = Below(bitmap.bits());
      const uint64_t length = Below(3) == 0 ? Below(3000) : Below(5);
      bitmap.SetBits(static_cast<uint32_t>(Below(bitmap.max_peers())), first, first + length);
    }
    for (uint64_t page = 0; page < bitmap.page_count(); ++page) {
      std::ranges::copy(bitmap.Page(page), image_.bitmap_area.begin() + page * kBlockBytes);
    }
  }

  // Runs a real activity log for a while, sometimes across the wrap of its numbers, sometimes
  // beyond the device; then spoils a block or two.
  void MakeRing() {
    const Geometry& g = image_.geometry;
    image_.ring.assign(g.al_bytes(), std::byte{0});
    const auto block = [&](uint64_t i) {
      return MutableAlBlockBytes(image_.ring.data() + i * kBlockBytes, kBlockBytes);
    };
    for (uint64_t i = 0; i < g.al_blocks(); ++i) EncodeInitialisedAlBlock(block(i));
    const auto extents = static_cast<uint32_t>(
        (image_.superblock.effective_sectors + kAlExtentSectors - 1) / kAlExtentSectors + Below(3));
    // drbdmeta follows the ring by position, which breaks at the wrap unless the size is a power of
    // two.
    const bool wrap = (g.al_blocks() & (g.al_blocks() - 1)) == 0 && Below(2) == 0;
    ActivityLog log(67 + static_cast<uint32_t>(Below(2) * Below(2000)), wrap ? 0xFFFFFFFA : 0);
    for (uint64_t turn = Below(40); turn > 0; --turn) {
      AlWaiter waiter;
      AlWaiterList released;
      const auto first = static_cast<uint32_t>(Below(extents));
      const uint32_t last =
          std::min<uint32_t>(first + static_cast<uint32_t>(Below(4)), extents - 1);
      if (log.Acquire(first, last, &waiter) == ActivityLog::Outcome::kQueued) {
        const AlTransaction& tr = log.NextTransaction(&released)->transaction;
        EncodeAlTransaction(
            tr, block(AlBlockOfTransaction(tr.number, g.al_stripes, g.al_stripe_size_4k)));
        log.TransactionDurable(&released);
        released.clear();
      }
      log.Release(first, last);
    }
    for (uint64_t bad = Below(5) == 0 ? 1 + Below(2) : 0; bad > 0; --bad) {
      block(Below(g.al_blocks()))[Below(kBlockBytes)] ^= std::byte{0x10};
    }
  }

  std::mt19937_64 random_;
  Layout layout_;
  Image image_;
  std::unique_ptr<DiskFile> file_;
};

TEST_P(RandomState, DumpsAreEqual) {
  const CommandResult dump = file_->Drbdmeta(layout_.options.placement, "dump-md");
  ASSERT_EQ(dump.exit_code, 0) << dump.output;
  const auto theirs = ParseDump(dump.output);
  const auto ours = ParseDump(
      DumpMd(image_.superblock, image_.geometry, testing::BitmapOf(image_), {.members = false}));
  EXPECT_EQ(ours.head, theirs.head);
  EXPECT_EQ(ours.slots, theirs.slots);
}

TEST_P(RandomState, TheyRestoreOurDump) {
  // A dump of unclean metadata never restores, so this one is clean.
  Image clean = image_;
  clean.superblock.flags |= kMdAlClean;
  DiskFile target(layout_.device_bytes);
  ASSERT_EQ(target.Drbdmeta(layout_.options.placement, CreateMd(layout_.options)).exit_code, 0);
  DiskFile text(0);
  std::ofstream(text.path()) << DumpMd(clean.superblock, clean.geometry, testing::BitmapOf(clean),
                                       {.members = false});
  const CommandResult restored =
      target.Drbdmeta(layout_.options.placement, fmt::format("restore-md '{}'", text.path()));
  ASSERT_EQ(restored.exit_code, 0) << restored.output;
  const Image got = testing::ParseImage(target, layout_.options.placement);
  Superblock expected = clean.superblock;
  expected.al_nr_extents = got.superblock.al_nr_extents;  // a comment in the dump only
  EXPECT_EQ(got.superblock, expected);
  EXPECT_EQ(got.bitmap_area, clean.bitmap_area);
  const CommandResult unclean = [&] {
    std::ofstream(text.path()) << DumpMd(image_.superblock, image_.geometry,
                                         testing::BitmapOf(image_), {.members = false});
    return target.Drbdmeta(layout_.options.placement, fmt::format("verify-dump '{}'", text.path()));
  }();
  if (!image_.superblock.al_clean()) EXPECT_NE(unclean.exit_code, 0);
}

TEST_P(RandomState, ApplyAlEqualsOurRecovery) {
  image_.superblock.flags &= ~kMdAlClean;
  testing::WriteImage(*file_, image_);
  // Ours first, on a copy: open, and close cleanly.
  Machine machine(layout_.device_bytes, MetadataOf(*file_, image_.geometry));
  MetaOpenOptions options;
  options.placement = layout_.options.placement;
  MetaOpenReport report;
  auto opened = machine.Await(MetaStore::Open(machine.disk, options, &report));
  const CommandResult theirs = file_->Drbdmeta(layout_.options.placement, "apply-al");
  if (!opened) {
    EXPECT_TRUE(report.log_unusable) << opened.error().message();
    EXPECT_NE(theirs.exit_code, 0) << theirs.output;
    return;
  }
  ASSERT_EQ(theirs.exit_code, 0) << theirs.output;
  EXPECT_EQ(report.log_applied, image_.superblock.Has(kMdPrimaryInd));
  ASSERT_TRUE(machine.Await((*opened)->Close()));
  const Image after = testing::ParseImage(*file_, layout_.options.placement);
  DiskFile ours_file(layout_.device_bytes);
  machine.disk.Save(ours_file);
  const Image ours = testing::ParseImage(ours_file, layout_.options.placement);
  EXPECT_EQ(ours.superblock, after.superblock);
  EXPECT_EQ(ours.ring, after.ring);
  // Bits beyond the device do not count: drbdmeta may set them in the last extent.
  const Bitmap a = testing::BitmapOf(ours), b = testing::BitmapOf(after);
  for (uint64_t page = 0; page < a.page_count(); ++page) {
    ASSERT_TRUE(std::ranges::equal(a.Page(page), b.Page(page))) << "page " << page;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomState, ::testing::Range<uint64_t>(0, 72));

// --- single cases ------------------------------------------------------------------------------

TEST(Drbdmeta, KernelsAndToolsAcceptACleanClose) {
  // Used by us, closed by us: drbdmeta sees clean metadata and prints our UUIDs.
  constexpr uint64_t kBytes = 100 * kMiB;
  Machine machine(kBytes);
  ASSERT_TRUE(machine.Await(MetaStore::Create(machine.disk, {})));
  MetaOpenReport report;
  auto store = machine.Await(MetaStore::Open(machine.disk, {}, &report));
  ASSERT_TRUE(store);
  MetaStore& meta = **store;
  meta.superblock().effective_sectors = 204720;
  meta.superblock().current_uuid = 0xABCDEF0123456788;
  meta.superblock().node_id = 1;
  meta.superblock().peers[0] = {0x1122334455667788, 9, kPeerDeviceSeen, 0};
  meta.superblock().flags |= kMdConsistent | kMdWasUpToDate;
  ASSERT_TRUE(meta.bitmap().Resize(204720 * 512, false));
  meta.bitmap().SetRange(0, 5 * kMiB, kMiB);
  ASSERT_TRUE(machine.Await(meta.WriteSuperblock()));
  {
    DiskFile in_use(kBytes);
    machine.disk.Save(in_use);
    EXPECT_THAT(in_use.Drbdmeta(Placement::kInternal, "dump-md").output, HasSubstr("unclean"));
  }
  ASSERT_TRUE(machine.Await(meta.Close()));
  DiskFile closed(kBytes);
  machine.disk.Save(closed);
  const CommandResult gi = closed.Drbdmeta(Placement::kInternal, "get-gi --node-id 0");
  EXPECT_EQ(gi.exit_code, 0) << gi.output;
  EXPECT_THAT(gi.output, HasSubstr("ABCDEF0123456788:1122334455667788:"));
  const CommandResult dump = closed.Drbdmeta(Placement::kInternal, "dump-md");
  EXPECT_THAT(dump.output, HasSubstr("flags 0x00000091;"));
  EXPECT_EQ(ParseDump(dump.output).slots[0].size(), 24U);
}

TEST(Drbdmeta, RefusedByOurCreate) {
  DiskFile file(100 * kMiB);
  ASSERT_EQ(file.Drbdmeta(Placement::kInternal, "create-md 2").exit_code, 0);
  Machine machine(100 * kMiB, testing::TestDisk::Load(file, 99 * kMiB, 100 * kMiB));
  const auto refused = machine.Await(MetaStore::Create(machine.disk, {}));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("DRBD metadata already"));
}

}  // namespace
}  // namespace umblock::drbd::meta
