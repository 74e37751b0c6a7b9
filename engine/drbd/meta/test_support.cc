#include "engine/drbd/meta/test_support.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

#include "engine/base/assert.h"

namespace umblock::drbd::meta::testing {

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string TestdataPath(std::string_view name) {
  return fmt::format("{}/engine/drbd/meta/testdata/{}", UMBLOCK_SOURCE_DIR, name);
}

const std::vector<Capture>& Captures() {
  static const auto* const kCaptures = [] {
    auto* all = new std::vector<Capture>;
    constexpr uint64_t kMiB = 1 << 20;
    for (const std::string version : {"84", "93"}) {
      for (const char* name :
           {"fresh-internal", "in-sync-n1", "in-sync-n2", "peer-away-n1", "peer-away-n2",
            "crashed-primary-n1", "crashed-primary-peer-n2", "crashed-primary-n1-al-applied",
            "crashed-lone-primary-n1", "split-brain-n1", "split-brain-n2", "sync-target-killed-n2",
            "sync-source-n1"}) {
        all->push_back({version + "-" + name, Placement::kInternal, 64 * kMiB, 63 * kMiB});
      }
      all->push_back({version + "-fresh-flex-external", Placement::kFlexExternal, kMiB, 0});
      all->push_back({version + "-fresh-al-stripes", Placement::kInternal, 8 * kMiB, 7 * kMiB});
    }
    all->push_back({"93-fresh-7-peers", Placement::kInternal, 8 * kMiB, 7 * kMiB});
    return all;
  }();
  return *kCaptures;
}

Buffer LoadCapture(const Capture& capture) {
  const CommandResult result =
      Run(fmt::format("gzip -dc '{}'", TestdataPath(capture.name + ".bin.gz")));
  EXPECT_EQ(result.exit_code, 0) << capture.name;
  const auto* begin = reinterpret_cast<const std::byte*>(result.output.data());
  return {begin, begin + result.output.size()};
}

CommandResult Run(const std::string& command) {
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  UMBLOCK_ASSERT(pipe != nullptr, "popen works");
  CommandResult result{};
  char buffer[65536];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) result.output.append(buffer, n);
  const int status = pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

DiskFile::DiskFile(uint64_t bytes)
    : path_(::testing::TempDir() + "umblock_meta_XXXXXX"), bytes_(bytes) {
  fd_ = mkstemp(path_.data());
  UMBLOCK_ASSERT(fd_ >= 0 && ftruncate(fd_, static_cast<off_t>(bytes)) == 0, "a temporary file");
}

DiskFile::~DiskFile() {
  close(fd_);
  unlink(path_.c_str());
}

Buffer DiskFile::Read(uint64_t offset, uint64_t length) const {
  Buffer buffer(length);
  const ssize_t n = pread(fd_, buffer.data(), length, static_cast<off_t>(offset));
  EXPECT_EQ(n, static_cast<ssize_t>(length));
  return buffer;
}

void DiskFile::Write(uint64_t offset, Bytes bytes) {
  const ssize_t n = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
  EXPECT_EQ(n, static_cast<ssize_t>(bytes.size()));
}

CommandResult DiskFile::Drbdmeta(Placement placement, const std::string& arguments) const {
  // Minor "-": no lock file and no question to a kernel module.
  const CommandResult result =
      Run(fmt::format("PATH=$PATH:/sbin:/usr/sbin drbdmeta --force - v09 '{}' {} {}", path_,
                      placement == Placement::kInternal ? "internal" : "flex-external", arguments));
  EXPECT_NE(result.exit_code, 127) << "drbdmeta is missing: install the package drbd-utils";
  return result;
}

std::span<const std::byte, kSuperblockBytes> SuperblockBytes(const Buffer& buffer, uint64_t at) {
  UMBLOCK_ASSERT(buffer.size() >= at + kSuperblockBytes, "a whole superblock");
  return std::span<const std::byte, kSuperblockBytes>(buffer.data() + at, kSuperblockBytes);
}

Image ParseImage(const DiskFile& disk, Placement placement) {
  Image image;
  const Buffer sb = disk.Read(SuperblockOffset(placement, disk.bytes()), kSuperblockBytes);
  const auto decoded = DecodeSuperblock(SuperblockBytes(sb));
  UMBLOCK_ASSERT(decoded.has_value(), decoded.error().message().c_str());
  image.superblock = *decoded;
  const auto geometry = GeometryOf(*decoded, placement, disk.bytes());
  UMBLOCK_ASSERT(geometry.has_value(), geometry.error().message().c_str());
  image.geometry = *geometry;
  image.ring = disk.Read(geometry->al_offset, geometry->al_bytes());
  image.bitmap_area = disk.Read(geometry->bm_offset, geometry->bm_bytes);
  return image;
}

Bitmap BitmapOf(const Image& image) {
  const Superblock& sb = image.superblock;
  auto bitmap =
      Bitmap::Create({sb.max_peers, sb.effective_sectors * kSectorBytes, sb.bytes_per_bit});
  UMBLOCK_ASSERT(bitmap.has_value(), "shape of a checked superblock");
  for (uint64_t page = 0; page < bitmap->page_count(); ++page) {
    bitmap->LoadPage(page, Bytes(image.bitmap_area).subspan(page * kBlockBytes, kBlockBytes));
  }
  return std::move(*bitmap);
}

void WriteImage(DiskFile& disk, const Image& image) {
  Buffer sb(kSuperblockBytes);
  EncodeSuperblock(image.superblock, std::span<std::byte, kSuperblockBytes>(sb));
  disk.Write(image.geometry.bm_offset, image.bitmap_area);
  disk.Write(image.geometry.al_offset, image.ring);
  disk.Write(image.geometry.superblock_offset, sb);
}

ParsedDump ParseDump(std::string_view dump) {
  ParsedDump parsed;
  std::vector<std::string> words;
  std::istringstream lines{std::string(dump)};
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("Found meta data") || line.starts_with("ioctl(")) continue;
    line.resize(std::min(line.size(), line.find('#')));
    std::istringstream split(line);
    for (std::string word; split >> word;) words.push_back(word);
  }
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "bm" || word.starts_with("bitmap[")) {
      parsed.slots.emplace_back();
      ++i;  // {
    } else if (parsed.slots.empty()) {
      parsed.head += word + (word.ends_with(';') ? "\n" : " ");
    } else if (word.starts_with("0x")) {
      parsed.slots.back().push_back(std::stoull(word, nullptr, 16));
    } else if (word != "}") {
      EXPECT_EQ(words[i + 1], "times") << word;
      parsed.slots.back().insert(parsed.slots.back().end(), std::stoull(word),
                                 std::stoull(words[i + 2], nullptr, 16));
      i += 2;
    }
  }
  for (auto& slot : parsed.slots) {
    while (!slot.empty() && slot.back() == 0) slot.pop_back();
  }
  return parsed;
}

}  // namespace umblock::drbd::meta::testing
