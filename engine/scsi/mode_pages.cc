#include "engine/scsi/mode_pages.h"

#include <algorithm>
#include <array>
#include <vector>

#include "engine/scsi/constants.h"

namespace umblock::scsi {
namespace {

constexpr uint8_t kErrorRecoveryPage = 0x01;
constexpr uint8_t kCachingPage = 0x08;
constexpr uint8_t kControlPage = 0x0a;
constexpr uint8_t kExceptionsPage = 0x1c;
constexpr uint8_t kAllPages = 0x3f;
constexpr uint8_t kPages[] = {kErrorRecoveryPage, kCachingPage, kControlPage, kExceptionsPage};

enum PageControl : uint8_t { kCurrent, kChangeable, kDefault, kSaved };

uint8_t At(Bytes bytes, size_t i) { return std::to_integer<uint8_t>(bytes[i]); }

// The page with its two byte header. `mask`: the changeable bits instead of the values.
std::vector<uint8_t> Page(uint8_t code, const ModeValues& values, bool mask) {
  bool wce = mask || values.write_cache;
  bool d_sense = mask || values.descriptor_sense;
  bool swp = mask || values.write_protect;
  switch (code) {
    case kErrorRecoveryPage:
      return {code, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    case kCachingPage: {
      std::vector<uint8_t> page(20);
      page[0] = code;
      page[1] = 18;
      page[2] = wce ? 0x04 : 0;
      return page;
    }
    case kControlPage: {
      std::vector<uint8_t> page(12);
      page[0] = code;
      page[1] = 10;
      page[2] = d_sense ? 0x04 : 0;
      page[3] = mask ? 0 : 0x10;  // QUEUE ALGORITHM MODIFIER 1: unrestricted reordering
      page[4] = swp ? 0x08 : 0;
      return page;
    }
    default: {  // informational exceptions: none are reported (DEXCPT)
      std::vector<uint8_t> page(12);
      page[0] = kExceptionsPage;
      page[1] = 10;
      page[2] = mask ? 0 : 0x08;
      return page;
    }
  }
}

bool KnownPage(uint8_t code) { return std::ranges::find(kPages, code) != std::end(kPages); }

// DEVICE-SPECIFIC PARAMETER of a direct access device (SBC-3 §6.4.1): WP and DPOFUA.
uint8_t DeviceParameter(const ModeContext& context) {
  return (context.current.write_protect || context.read_only ? 0x80 : 0) | 0x10;
}

void AppendBlockDescriptor(const ModeContext& context, bool long_form, ParameterData* data) {
  if (long_form) {
    data->U64(context.blocks).U32(0).U32(context.block_size);
    return;
  }
  uint32_t blocks = static_cast<uint32_t>(std::min<uint64_t>(context.blocks, UINT32_MAX));
  data->U32(blocks).U32(context.block_size & 0xffffff);
}

// One page of a parameter list, laid over the current values.
std::expected<ModeValues, Sense> ApplyPage(Bytes page, size_t at, const ModeContext& context,
                                           const ModeValues& so_far) {
  uint8_t code = At(page, 0) & 0x3f;
  bool subpage = (At(page, 0) & 0x40) != 0;
  if (subpage || !KnownPage(code)) {
    return std::unexpected(kInvalidFieldInParameterList.AtParameter(static_cast<uint16_t>(at)));
  }
  std::vector<uint8_t> current = Page(code, so_far, false);
  std::vector<uint8_t> mask = Page(code, context.current, true);
  if (page.size() != current.size() || At(page, 1) != current[1]) {
    return std::unexpected(kInvalidFieldInParameterList.AtParameter(static_cast<uint16_t>(at + 1)));
  }
  for (size_t i = 2; i < page.size(); ++i) {
    if (((At(page, i) ^ current[i]) & ~mask[i]) != 0) {
      return std::unexpected(
          kInvalidFieldInParameterList.AtParameter(static_cast<uint16_t>(at + i)));
    }
  }
  ModeValues values = so_far;
  if (code == kCachingPage) values.write_cache = (At(page, 2) & 0x04) != 0;
  if (code == kControlPage) {
    values.descriptor_sense = (At(page, 2) & 0x04) != 0;
    values.write_protect = (At(page, 4) & 0x08) != 0;
  }
  return values;
}

// Checks the block descriptor: it may only say what is so, or nothing (zeroes).
bool BlockDescriptorFits(Bytes descriptor, bool long_form, const ModeContext& context) {
  uint64_t blocks =
      long_form ? LoadBe<uint64_t>(descriptor.data()) : LoadBe<uint32_t>(descriptor.data());
  uint32_t size = LoadBe<uint32_t>(&descriptor[long_form ? 12 : 4]) & 0xffffff;
  uint64_t all = long_form ? UINT64_MAX : UINT32_MAX;
  bool blocks_fit = blocks == 0 || blocks == all || blocks == context.blocks;
  return blocks_fit && size == context.block_size;
}

}  // namespace

std::expected<ParameterData, Sense> ModeSenseData(Bytes cdb, const ModeContext& context) {
  bool six = At(cdb, 0) == kModeSense6;
  bool no_descriptor = (At(cdb, 1) & 0x08) != 0;
  bool long_form = !six && (At(cdb, 1) & 0x10) != 0;  // LLBAA
  auto control = static_cast<PageControl>(At(cdb, 2) >> 6);
  uint8_t code = At(cdb, 2) & 0x3f;
  uint8_t subpage = At(cdb, 3);
  if (control == kSaved) return std::unexpected(kSavingNotSupported);
  bool all = code == kAllPages && (subpage == 0 || subpage == 0xff);
  if (!all && (!KnownPage(code) || subpage != 0)) {
    return std::unexpected(kInvalidFieldInCdb.AtCdb(all || KnownPage(code) ? 3 : 2));
  }
  ParameterData data;
  uint8_t descriptor_length = no_descriptor ? 0 : long_form ? 16 : 8;
  if (six) {
    data.U8(0).U8(0).U8(DeviceParameter(context)).U8(descriptor_length);
  } else {
    data.U16(0).U8(0).U8(DeviceParameter(context)).U8(long_form ? 1 : 0).U8(0);
    data.U16(descriptor_length);
  }
  if (!no_descriptor) AppendBlockDescriptor(context, long_form, &data);
  const ModeValues& values = control == kDefault ? context.defaults : context.current;
  for (uint8_t page : kPages) {
    if (all || page == code) {
      std::vector<uint8_t> bytes = Page(page, values, control == kChangeable);
      data.Raw(std::as_bytes(std::span(bytes)));
    }
  }
  if (six) {
    data.Patch<uint8_t>(0, static_cast<uint8_t>(data.size() - 1));
  } else {
    data.Patch<uint16_t>(0, static_cast<uint16_t>(data.size() - 2));
  }
  return data;
}

std::expected<ModeValues, Sense> ParseModeSelect(Bytes cdb, Bytes list,
                                                 const ModeContext& context) {
  bool six = At(cdb, 0) == kModeSelect6;
  if ((At(cdb, 1) & 0x01) != 0) return std::unexpected(kInvalidFieldInCdb.AtCdb(1, 0));  // SP
  if ((At(cdb, 1) & 0x10) == 0) return std::unexpected(kInvalidFieldInCdb.AtCdb(1, 4));  // PF
  if (list.empty()) return context.current;
  size_t header = six ? 4 : 8;
  if (list.size() < header) return std::unexpected(kParameterListLengthError);
  bool long_form = !six && (At(list, 4) & 1) != 0;
  size_t descriptors = six ? At(list, 3) : LoadBe<uint16_t>(&list[6]);
  size_t descriptor_size = long_form ? 16 : 8;
  if (descriptors != 0 && descriptors != descriptor_size) {
    return std::unexpected(kInvalidFieldInParameterList.AtParameter(six ? 3 : 6));
  }
  if (list.size() < header + descriptors) return std::unexpected(kParameterListLengthError);
  if (descriptors != 0 &&
      !BlockDescriptorFits(list.subspan(header, descriptors), long_form, context)) {
    return std::unexpected(kInvalidFieldInParameterList.AtParameter(static_cast<uint16_t>(header)));
  }
  ModeValues values = context.current;
  size_t at = header + descriptors;
  while (at < list.size()) {
    if (list.size() - at < 2) return std::unexpected(kParameterListLengthError);
    size_t length = size_t{At(list, at + 1)} + 2;
    if (list.size() - at < length) return std::unexpected(kParameterListLengthError);
    auto applied = ApplyPage(list.subspan(at, length), at, context, values);
    if (!applied) return std::unexpected(applied.error());
    values = *applied;
    at += length;
  }
  return values;
}

}  // namespace umblock::scsi
