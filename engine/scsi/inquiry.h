// Parameter data that says who and what a logical unit is: INQUIRY with its VPD pages, READ
// CAPACITY, REPORT LUNS, REPORT SUPPORTED OPERATION CODES (SPC-4 §6.6, §6.33, §6.35, §7.8;
// SBC-3 §5.15, §5.16, §6.6). Pure.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <vector>

#include "engine/block/block_device.h"
#include "engine/scsi/parameter_data.h"
#include "engine/scsi/request.h"

namespace umblock::scsi {

struct UnitOptions {
  uint32_t lun = 0;
  uint32_t block_size = 512;             // 512 or 4096
  std::string serial;                    // printable ASCII, at most 36 characters
  std::string vendor = "UMBLOCK";        // 8
  std::string product = "VIRTUAL DISK";  // 16
  std::string revision = "0001";         // 4
  std::string target_name;               // "iqn.…", names the SCSI device and its port
  bool read_only = false;
};

// Copies what fits into request->buffer.
void GiveParameterData(Request* request, const ParameterData& data);

std::expected<ParameterData, Sense> InquiryData(Bytes cdb, const UnitOptions& options,
                                                const BlockGeometry& geometry);
// Standard INQUIRY data of a LUN that is not there (peripheral qualifier 011b).
ParameterData AbsentUnitInquiry();
ParameterData ReadCapacity10Data(uint64_t blocks, uint32_t block_size);
ParameterData ReadCapacity16Data(uint64_t blocks, uint32_t block_size,
                                 const BlockGeometry& geometry);
std::expected<ParameterData, Sense> ReportLunsData(Bytes cdb, const std::vector<uint32_t>& luns);
std::expected<ParameterData, Sense> ReportOpcodesData(Bytes cdb, bool can_discard);
ParameterData ReportTmfData(Bytes cdb);
ParameterData SenseAsData(const Sense& sense, bool descriptor_format);

}  // namespace umblock::scsi
