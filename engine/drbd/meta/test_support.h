// For the tests of this directory: captured metadata, regular files as disks, Debian's drbdmeta.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/drbd/meta/bitmap.h"
#include "engine/drbd/meta/geometry.h"
#include "engine/drbd/meta/superblock.h"

namespace umblock::drbd::meta::testing {

using Buffer = std::vector<std::byte>;

std::string ReadText(const std::string& path);
std::string TestdataPath(std::string_view name);

// The end of a backing device, as recorded on a real kernel.
struct Capture {
  std::string name;
  Placement placement;
  uint64_t device_bytes;
  uint64_t slice_offset;

  friend void PrintTo(const Capture& capture, std::ostream* out) { *out << capture.name; }
};
const std::vector<Capture>& Captures();
Buffer LoadCapture(const Capture& capture);  // gunzipped slice

// Runs a command; output is stdout and stderr together.
struct CommandResult {
  int exit_code;
  std::string output;
};
CommandResult Run(const std::string& command);

// A sparse file in the test's temporary directory, removed at the end.
class DiskFile {
 public:
  explicit DiskFile(uint64_t bytes);
  ~DiskFile();
  DiskFile(const DiskFile&) = delete;
  DiskFile& operator=(const DiskFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }
  Buffer Read(uint64_t offset, uint64_t length) const;
  void Write(uint64_t offset, Bytes bytes);

  // drbdmeta on this file, format v09: "internal" or "flex-external". Adds a failure if the tool
  // is not installed.
  CommandResult Drbdmeta(Placement placement, const std::string& arguments) const;

 private:
  std::string path_;
  int fd_;
  uint64_t bytes_;
};

// Metadata as read from a disk by the pure functions.
struct Image {
  Superblock superblock;
  Geometry geometry;
  Buffer ring;
  Buffer bitmap_area;
};
Image ParseImage(const DiskFile& disk, Placement placement);
Bitmap BitmapOf(const Image& image);
// Writes superblock, ring and bitmap to their places.
void WriteImage(DiskFile& disk, const Image& image);

std::span<const std::byte, kSuperblockBytes> SuperblockBytes(const Buffer& buffer, uint64_t at = 0);

// A dump, taken apart so that two of them can be compared: everything before the bitmaps without
// comments and with single blanks, and the words of each slot (trailing zero words removed).
struct ParsedDump {
  std::string head;
  std::vector<std::vector<uint64_t>> slots;

  friend bool operator==(const ParsedDump&, const ParsedDump&) = default;
};
ParsedDump ParseDump(std::string_view dump);

}  // namespace umblock::drbd::meta::testing
