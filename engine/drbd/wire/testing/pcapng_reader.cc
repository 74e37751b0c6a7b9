#include "engine/drbd/wire/testing/pcapng_reader.h"

#include <zlib.h>

#include <array>
#include <memory>
#include <utility>

namespace umblock::drbd::wire::testing {
namespace {

constexpr uint32_t kSectionHeader = 0x0a0d0d0a;
constexpr uint32_t kInterfaceDescription = 1;
constexpr uint32_t kEnhancedPacket = 6;
constexpr uint32_t kByteOrderMagic = 0x1a2b3c4d;
constexpr uint16_t kEthernet = 1;
constexpr uint16_t kOptionEnd = 0;
constexpr uint16_t kOptionTimeResolution = 9;
constexpr int64_t kNsPerSecond = 1'000'000'000;

struct CloseGzip {
  void operator()(gzFile_s* file) const { gzclose(file); }
};

// Time stamp units per second, from the options of an interface description block.
Result<int64_t> UnitsPerSecond(ByteReader options) {
  while (options.left() >= 4) {
    const auto code = options.Le<uint16_t>();
    const auto length = options.Le<uint16_t>();
    const Bytes value = options.Raw(length);
    options.Skip((4 - length % 4) % 4);
    if (code == kOptionEnd) break;
    if (code != kOptionTimeResolution || value.empty()) continue;
    const auto exponent = static_cast<unsigned>(value[0]);
    if (exponent > 9) {
      return MakeError(ErrorCode::kUnimplemented, "time resolution {:#x} of a pcapng file",
                       exponent);
    }
    int64_t units = 1;
    for (unsigned i = 0; i < exponent; ++i) units *= 10;
    return units;
  }
  return 1'000'000;
}

}  // namespace

Result<std::vector<std::byte>> ReadMaybeGzipped(const std::string& path) {
  const std::unique_ptr<gzFile_s, CloseGzip> file(gzopen(path.c_str(), "rb"));
  if (!file) return std::unexpected(Error::FromErrno(errno, path));
  std::vector<std::byte> contents;
  std::array<std::byte, 65536> chunk;
  for (;;) {
    const int got = gzread(file.get(), chunk.data(), chunk.size());
    if (got < 0) return MakeError(ErrorCode::kDataLoss, "{}: not readable as gzip", path);
    if (got == 0) return contents;
    contents.insert(contents.end(), chunk.begin(), chunk.begin() + got);
  }
}

Result<PcapngFile> PcapngFile::Read(const std::string& path) {
  auto contents = ReadMaybeGzipped(path);
  if (!contents) return std::unexpected(contents.error());
  auto file = Parse(std::move(*contents));
  if (!file) return std::unexpected(file.error().Within(path));
  return file;
}

Result<PcapngFile> PcapngFile::Parse(std::vector<std::byte> contents) {
  PcapngFile file;
  file.contents_ = std::move(contents);
  UMBLOCK_TRY(file.ParseBlocks());
  return file;
}

Status PcapngFile::ParseBlocks() {
  ByteReader file(contents_);
  std::vector<int64_t> units_per_second;  // by interface
  while (file.left() > 0) {
    const size_t start = file.position();
    const auto type = file.Le<uint32_t>();
    const auto length = file.Le<uint32_t>();
    if (!file.ok() || length < 12 || length % 4 != 0 || length - 8 > file.left()) {
      return MakeError(ErrorCode::kDataLoss, "pcapng block at byte {} is malformed", start);
    }
    ByteReader block(file.Raw(length - 8).first(length - 12));
    if (type == kSectionHeader) {
      if (block.Le<uint32_t>() != kByteOrderMagic) {
        return MakeError(ErrorCode::kUnimplemented, "pcapng file is not little endian");
      }
      units_per_second.clear();
    } else if (type == kInterfaceDescription) {
      if (block.Le<uint16_t>() != kEthernet) {
        return MakeError(ErrorCode::kUnimplemented, "pcapng link type is not Ethernet");
      }
      block.Skip(6);
      auto units = UnitsPerSecond(block);
      if (!units) return std::unexpected(units.error());
      units_per_second.push_back(*units);
    } else if (type == kEnhancedPacket) {
      const auto interface = block.Le<uint32_t>();
      const uint64_t high = block.Le<uint32_t>();
      const uint64_t low = block.Le<uint32_t>();
      const auto captured = block.Le<uint32_t>();
      const auto original = block.Le<uint32_t>();
      const Bytes data = block.Raw(captured);
      if (!block.ok() || interface >= units_per_second.size() || captured != original) {
        return MakeError(ErrorCode::kDataLoss, "pcapng packet at byte {} is malformed or cut off",
                         start);
      }
      const auto time = static_cast<int64_t>(high << 32 | low);
      frames_.push_back({time * (kNsPerSecond / units_per_second[interface]), data});
    }
  }
  return Ok();
}

}  // namespace umblock::drbd::wire::testing
