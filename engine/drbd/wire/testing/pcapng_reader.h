// Frames of a pcapng file, plain or gzipped. Tests only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/error.h"

namespace umblock::drbd::wire::testing {

struct CapturedFrame {
  int64_t time_ns = 0;  // since 1970, UTC
  Bytes data;           // Ethernet; points into the PcapngFile
};

// Section header, interface description and enhanced packet blocks of little-endian files, link
// type Ethernet: what dumpcap writes. Other blocks are skipped, anything else is an error.
class PcapngFile {
 public:
  static Result<PcapngFile> Read(const std::string& path);
  static Result<PcapngFile> Parse(std::vector<std::byte> contents);

  const std::vector<CapturedFrame>& frames() const { return frames_; }

 private:
  Status ParseBlocks();

  std::vector<std::byte> contents_;
  std::vector<CapturedFrame> frames_;
};

// The whole file, unpacked if it is gzipped.
Result<std::vector<std::byte>> ReadMaybeGzipped(const std::string& path);

}  // namespace umblock::drbd::wire::testing
