// Mode pages of a logical unit (SPC-4 §7.5, SBC-3 §6.4): read-write error recovery, caching,
// control, informational exceptions. Values only; saving is not offered.
//
// Changeable: WCE (caching), D_SENSE and SWP (control).
#pragma once

#include <cstdint>
#include <expected>

#include "engine/base/bytes.h"
#include "engine/scsi/parameter_data.h"
#include "engine/scsi/sense.h"

namespace umblock::scsi {

struct ModeValues {
  bool write_cache = true;        // WCE: writes may complete before they are stable
  bool descriptor_sense = false;  // D_SENSE
  bool write_protect = false;     // SWP

  friend bool operator==(const ModeValues&, const ModeValues&) = default;
};

// What MODE SENSE and MODE SELECT need to know of the device.
struct ModeContext {
  ModeValues current;
  ModeValues defaults;
  bool read_only = false;  // WP although SWP is clear
  uint64_t blocks = 0;
  uint32_t block_size = 512;
};

// `cdb` is a MODE SENSE(6) or (10).
std::expected<ParameterData, Sense> ModeSenseData(Bytes cdb, const ModeContext& context);
// `list` is the parameter list of a MODE SELECT(6) or (10) with this `cdb`. All pages are checked
// before the new values are returned.
std::expected<ModeValues, Sense> ParseModeSelect(Bytes cdb, Bytes list, const ModeContext& context);

}  // namespace umblock::scsi
