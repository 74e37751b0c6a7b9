#include "engine/scsi/inquiry.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/scsi/constants.h"
#include "engine/scsi/nexus.h"

namespace umblock::scsi {
namespace {

constexpr uint8_t kSupportedPages = 0x00;
constexpr uint8_t kUnitSerial = 0x80;
constexpr uint8_t kDeviceIdentification = 0x83;
constexpr uint8_t kBlockLimits = 0xb0;
constexpr uint8_t kBlockCharacteristics = 0xb1;
constexpr uint8_t kProvisioning = 0xb2;
constexpr uint8_t kPages[] = {kSupportedPages, kUnitSerial,           kDeviceIdentification,
                              kBlockLimits,    kBlockCharacteristics, kProvisioning};

uint8_t At(Bytes cdb, size_t i) { return std::to_integer<uint8_t>(cdb[i]); }

ParameterData StandardInquiry(const UnitOptions& options) {
  ParameterData data;
  data.U8(0);        // connected, direct access block device
  data.U8(0);        // not removable
  data.U8(0x06);     // SPC-4
  data.U8(0x12);     // HISUP, response data format 2
  data.U8(96 - 5);   // additional length
  data.U8(0).U8(0);  // no ALUA, no protection, no third-party copy, single port
  data.U8(0x02);     // CMDQUE
  data.Ascii(options.vendor, 8).Ascii(options.product, 16).Ascii(options.revision, 4);
  data.Zero(22);
  // Version descriptors (SPC-4 §6.6.2.2): SAM-5, iSCSI, SPC-4, SBC-3, none claimed by revision.
  data.U16(0x00a0).U16(0x0960).U16(0x0460).U16(0x04c0);
  data.Zero(96 - data.size());
  return data;
}

// A 60 bit FNV-1a hash: the vendor-specific identifier of a locally assigned NAA name. The serial
// number is unique per volume, and it is what people see beside it.
uint64_t LocalName(std::string_view serial) {
  uint64_t hash = 0xcbf29ce484222325;
  for (char c : serial) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return hash & 0x0fffffffffffffff;
}

void ScsiNameString(uint8_t association, const std::string& name, ParameterData* data) {
  size_t length = AlignUp<size_t>(name.size() + 1, 4);
  data->U8(0x53).U8(static_cast<uint8_t>(0x80 | association << 4 | 0x08)).U8(0);
  data->U8(static_cast<uint8_t>(length)).Text(name).Zero(length - name.size());
}

void DeviceIdentificationPage(const UnitOptions& options, ParameterData* data) {
  // Logical unit: NAA 3 (locally assigned), then T10 vendor ID with the serial number.
  data->U8(0x01).U8(0x03).U8(0).U8(8).U64(uint64_t{3} << 60 | LocalName(options.serial));
  data->U8(0x02).U8(0x01).U8(0).U8(static_cast<uint8_t>(8 + options.serial.size()));
  data->Ascii(options.vendor, 8).Text(options.serial);
  // Target port: relative identifier 1, and its name (RFC 7143 §4.4.5: name,t,0xTPGT).
  data->U8(0x51).U8(0x94).U8(0).U8(4).U16(0).U16(1);
  if (options.target_name.empty()) return;
  ScsiNameString(1, options.target_name + ",t,0x0001", data);
  ScsiNameString(2, options.target_name, data);
}

// `bytes` in blocks, at most `limit`.
uint32_t Blocks(uint64_t bytes, uint32_t block_size) {
  return static_cast<uint32_t>(std::min<uint64_t>(bytes / block_size, UINT32_MAX));
}

void BlockLimitsPage(const UnitOptions& options, const BlockGeometry& geometry,
                     ParameterData* data) {
  uint32_t size = options.block_size;
  uint32_t granularity = std::max(1u, geometry.physical_block_size / size);
  data->U8(0x01);  // WSNZ: WRITE SAME of zero blocks is refused
  data->U8(static_cast<uint8_t>(kMaxCompareAndWriteBlocks));
  data->U16(static_cast<uint16_t>(std::min(granularity, 0xffffu)));
  data->U32(kMaxTransferLength / size);
  uint32_t optimal = geometry.optimal_io_size == 0 ? kMaxTransferLength : geometry.optimal_io_size;
  data->U32(std::min(optimal, kMaxTransferLength) / size);
  data->U32(0);  // maximum prefetch
  if (geometry.can_discard) {
    data->U32(Blocks(kMaxUnmapLength, size)).U32(kMaxUnmapDescriptors);
    data->U32(std::max(1u, geometry.discard_granularity / size));
  } else {
    data->U32(0).U32(0).U32(0);
  }
  data->U32(geometry.can_discard ? 0x80000000 : 0);  // UGAVALID, aligned to LBA 0
  data->U64(Blocks(kMaxWriteSameLength, size));
  data->Zero(64 - data->size());  // no atomic writes
}

void ProvisioningPage(const BlockGeometry& geometry, ParameterData* data) {
  bool thin = geometry.can_discard;
  uint8_t flags = thin ? 0xe0 : 0;  // LBPU, LBPWS, LBPWS10
  if (thin && geometry.discard_reads_zeroes) flags |= 0x04;
  data->U8(0).U8(flags).U8(thin ? 2 : 0).U8(0);
}

}  // namespace

void GiveParameterData(Request* request, const ParameterData& data) {
  size_t length = std::min<size_t>(data.size(), request->buffer_bytes);
  if (length != 0) {
    UMBLOCK_ASSERT(request->buffer.capacity() >= length, "the transport provided the buffer");
    std::memcpy(request->buffer.data(), data.bytes().data(), length);
  }
  request->data_in_bytes = static_cast<uint32_t>(length);
}

std::expected<ParameterData, Sense> InquiryData(Bytes cdb, const UnitOptions& options,
                                                const BlockGeometry& geometry) {
  bool vital = (At(cdb, 1) & 1) != 0;
  uint8_t page = At(cdb, 2);
  if (!vital) {
    if (page != 0) return std::unexpected(kInvalidFieldInCdb.AtCdb(2));
    return StandardInquiry(options);
  }
  ParameterData data;
  data.U8(0).U8(page).U16(0);
  switch (page) {
    case kSupportedPages:
      for (uint8_t supported : kPages) data.U8(supported);
      break;
    case kUnitSerial:
      data.Text(options.serial);
      break;
    case kDeviceIdentification:
      DeviceIdentificationPage(options, &data);
      break;
    case kBlockLimits:
      BlockLimitsPage(options, geometry, &data);
      break;
    case kBlockCharacteristics:
      data.U16(1);  // non-rotating
      data.Zero(64 - data.size());
      break;
    case kProvisioning:
      ProvisioningPage(geometry, &data);
      break;
    default:
      return std::unexpected(kInvalidFieldInCdb.AtCdb(2));
  }
  data.Patch<uint16_t>(2, static_cast<uint16_t>(data.size() - 4));
  return data;
}

ParameterData AbsentUnitInquiry() {
  ParameterData data = StandardInquiry(UnitOptions{});
  data.Patch<uint8_t>(0, 0x7f);
  return data;
}

ParameterData ReadCapacity10Data(uint64_t blocks, uint32_t block_size) {
  ParameterData data;
  uint64_t last = blocks == 0 ? 0 : blocks - 1;
  data.U32(static_cast<uint32_t>(std::min<uint64_t>(last, UINT32_MAX))).U32(block_size);
  return data;
}

ParameterData ReadCapacity16Data(uint64_t blocks, uint32_t block_size,
                                 const BlockGeometry& geometry) {
  ParameterData data;
  uint32_t ratio = std::max(1u, geometry.physical_block_size / block_size);
  data.U64(blocks == 0 ? 0 : blocks - 1).U32(block_size).U8(0);
  data.U8(static_cast<uint8_t>(std::countr_zero(std::bit_floor(ratio)) & 0x0f));
  uint16_t provisioning = geometry.can_discard ? 0x8000 : 0;                          // LBPME
  if (geometry.can_discard && geometry.discard_reads_zeroes) provisioning |= 0x4000;  // LBPRZ
  data.U16(provisioning).Zero(16);
  return data;
}

std::expected<ParameterData, Sense> ReportLunsData(Bytes cdb, const std::vector<uint32_t>& luns) {
  uint8_t select = At(cdb, 2);
  if (select > 2) return std::unexpected(kInvalidFieldInCdb.AtCdb(2));
  if (LoadBe<uint32_t>(&cdb[6]) < 16) return std::unexpected(kInvalidFieldInCdb.AtCdb(6));
  ParameterData data;
  bool well_known_only = select == 1;  // there are none
  data.U32(well_known_only ? 0 : static_cast<uint32_t>(luns.size() * 8)).U32(0);
  if (!well_known_only) {
    for (uint32_t lun : luns) data.U64(EncodeLun(lun));
  }
  return data;
}

namespace {

// Command timeouts descriptor (SPC-4 §6.35.4): nothing is promised.
void AppendTimeouts(ParameterData* data) { data->U16(0x0a).Zero(10); }

ParameterData AllOpcodes(bool timeouts, bool can_discard) {
  ParameterData data;
  data.U32(0);
  for (const CommandInfo& info : SupportedCommands()) {
    if (info.kind == CommandKind::kUnmap && !can_discard) continue;
    bool has_action = info.service_action >= 0;
    data.U8(info.opcode).U8(0).U16(has_action ? static_cast<uint16_t>(info.service_action) : 0);
    data.U8(0).U8(static_cast<uint8_t>((timeouts ? 2 : 0) | (has_action ? 1 : 0)));
    data.U16(info.cdb_length);
    if (timeouts) AppendTimeouts(&data);
  }
  data.Patch<uint32_t>(0, static_cast<uint32_t>(data.size() - 4));
  return data;
}

}  // namespace

std::expected<ParameterData, Sense> ReportOpcodesData(Bytes cdb, bool can_discard) {
  bool timeouts = (At(cdb, 2) & 0x80) != 0;
  uint8_t option = At(cdb, 2) & 0x07;
  uint8_t opcode = At(cdb, 3);
  uint16_t action = LoadBe<uint16_t>(&cdb[4]);
  if (option == 0) return AllOpcodes(timeouts, can_discard);
  if (option > 3) return std::unexpected(kInvalidFieldInCdb.AtCdb(2, 2));
  const CommandInfo* info = FindCommand(opcode);
  if (info != nullptr && info->kind == CommandKind::kUnmap && !can_discard) info = nullptr;
  bool has_action = info != nullptr && info->service_action >= 0;
  // Option 1 is for opcodes without service actions, 2 for those with, 3 for both.
  if (info != nullptr && ((option == 1 && has_action) || (option == 2 && !has_action))) {
    return std::unexpected(kInvalidFieldInCdb.AtCdb(4));
  }
  if (has_action) {
    info = action <= 0x1f ? FindCommand(opcode, static_cast<uint8_t>(action)) : nullptr;
  }
  if (option == 3 && !has_action && action != 0) info = nullptr;
  ParameterData data;
  data.U8(0);
  if (info == nullptr) {
    data.U8(0x01).U16(0);  // not supported
    return data;
  }
  data.U8(static_cast<uint8_t>((timeouts ? 0x80 : 0) | 0x03)).U16(info->cdb_length);
  data.Raw(std::as_bytes(std::span(info->usage)).first(info->cdb_length));
  if (timeouts) AppendTimeouts(&data);
  return data;
}

ParameterData ReportTmfData(Bytes cdb) {
  ParameterData data;
  // ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET.
  data.U8(0x80 | 0x40 | 0x10 | 0x08 | 0x02).U8(0).U8(0);
  bool extended = (At(cdb, 2) & 0x80) != 0;  // REPD
  data.U8(extended ? 12 : 0);
  if (extended) data.Zero(12);
  return data;
}

ParameterData SenseAsData(const Sense& sense, bool descriptor_format) {
  std::byte bytes[kMaxSenseLength];
  size_t length = EncodeSense(sense, descriptor_format, bytes);
  ParameterData data;
  data.Raw(Bytes(bytes, length));
  return data;
}

}  // namespace umblock::scsi
