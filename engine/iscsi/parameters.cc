#include "engine/iscsi/parameters.h"

#include <algorithm>

#include "engine/iscsi/text.h"

namespace umblock::iscsi {

enum class OperationalKeys::Key : uint8_t {
  kHeaderDigest,
  kDataDigest,
  kMaxConnections,
  kInitialR2t,
  kImmediateData,
  kMaxRecvDataSegmentLength,
  kMaxBurstLength,
  kFirstBurstLength,
  kDefaultTime2Wait,
  kDefaultTime2Retain,
  kMaxOutstandingR2t,
  kDataPduInOrder,
  kDataSequenceInOrder,
  kErrorRecoveryLevel,
  kIfMarker,
  kOfMarker,
  kIfMarkInt,
  kOfMarkInt,
  kTaskReporting,
  kProtocolLevel,
};

namespace {

constexpr std::string_view kNames[] = {
    "HeaderDigest",
    "DataDigest",
    "MaxConnections",
    "InitialR2T",
    "ImmediateData",
    "MaxRecvDataSegmentLength",
    "MaxBurstLength",
    "FirstBurstLength",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "MaxOutstandingR2T",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "ErrorRecoveryLevel",
    "IFMarker",
    "OFMarker",
    "IFMarkInt",
    "OFMarkInt",
    "TaskReporting",
    "iSCSIProtocolLevel",
};

constexpr uint32_t kMaxLength = (1u << 24) - 1;
constexpr std::string_view kReject = "Reject";

}  // namespace

std::optional<OperationalKeys::Key> OperationalKeys::Find(std::string_view name) {
  auto at = std::ranges::find(kNames, name);
  if (at == std::end(kNames)) return std::nullopt;
  return static_cast<Key>(at - std::begin(kNames));
}

std::string OperationalKeys::Minimum(std::string_view value, uint32_t low, uint32_t high,
                                     uint32_t mine, uint32_t* result) {
  std::optional<uint32_t> number = ParseNumber(value);
  if (!number || *number < low || *number > high) return std::string(kReject);
  *result = std::min(*number, mine);
  return std::to_string(*result);
}

std::string OperationalKeys::Boolean(std::string_view value, bool is_or, bool mine, bool* result) {
  if (value != "Yes" && value != "No") return std::string(kReject);
  bool theirs = value == "Yes";
  *result = is_or ? theirs || mine : theirs && mine;
  return *result ? "Yes" : "No";
}

// The initiator's first choice among those that exist (§6.2.1).
std::string OperationalKeys::DigestChoice(std::string_view value, bool* result) {
  for (std::string_view list = value;;) {
    size_t comma = list.find(',');
    std::string_view choice = list.substr(0, comma);
    if (choice == "None" || choice == "CRC32C") {
      *result = choice == "CRC32C";
      return std::string(choice);
    }
    if (comma == std::string_view::npos) return std::string(kReject);
    list.remove_prefix(comma + 1);
  }
}

std::string OperationalKeys::Answer(Key key, std::string_view value, bool* broken) {
  uint32_t ignored = 0;
  bool flag = false;
  switch (key) {
    case Key::kHeaderDigest:
      return DigestChoice(value, &params_.header_digest);
    case Key::kDataDigest:
      return DigestChoice(value, &params_.data_digest);
    case Key::kMaxConnections:
      return Minimum(value, 1, 65535, 1, &ignored);
    case Key::kInitialR2t:
      return Boolean(value, true, limits_.initial_r2t, &params_.initial_r2t);
    case Key::kImmediateData:
      return Boolean(value, false, limits_.immediate_data, &params_.immediate_data);
    case Key::kMaxRecvDataSegmentLength: {  // declared, not negotiated: no answer
      std::optional<uint32_t> number = ParseNumber(value);
      *broken = !number || *number < 512 || *number > kMaxLength;
      if (!*broken) params_.initiator_max_data = *number;
      return {};
    }
    case Key::kMaxBurstLength:
      return Minimum(value, 512, kMaxLength, limits_.max_burst, &params_.max_burst);
    case Key::kFirstBurstLength:
      return Minimum(value, 512, kMaxLength, limits_.first_burst, &params_.first_burst);
    case Key::kDefaultTime2Wait: {
      std::optional<uint32_t> number = ParseNumber(value);  // the larger of the two, mine is 0
      return number && *number <= 3600 ? std::to_string(*number) : std::string(kReject);
    }
    case Key::kDefaultTime2Retain:
      return Minimum(value, 0, 3600, 0, &ignored);
    case Key::kMaxOutstandingR2t:
      return Minimum(value, 1, 65535, 1, &ignored);
    case Key::kDataPduInOrder:
    case Key::kDataSequenceInOrder:
      return Boolean(value, true, true, &flag);
    case Key::kErrorRecoveryLevel:
      return Minimum(value, 0, 2, 0, &ignored);
    case Key::kIfMarker:
    case Key::kOfMarker:
      return Boolean(value, false, false, &flag);  // markers are gone since RFC 7143
    case Key::kIfMarkInt:
    case Key::kOfMarkInt:
      return "Irrelevant";
    case Key::kTaskReporting:
      return ListNames(value, "RFC3720") ? "RFC3720" : std::string(kReject);
    case Key::kProtocolLevel:
      return Minimum(value, 0, 31, 1, &ignored);
  }
  return std::string(kReject);
}

bool OperationalKeys::Offer(std::string_view key, std::string_view value, std::string* answer) {
  std::optional<Key> known = Find(key);
  if (!known) {
    AppendText(key, "NotUnderstood", answer);
    return true;
  }
  uint32_t bit = 1u << static_cast<uint8_t>(*known);
  if ((seen_ & bit) != 0) return false;
  seen_ |= bit;
  bool discovery_irrelevant =
      discovery_ && (*known == Key::kInitialR2t || *known == Key::kImmediateData ||
                     *known == Key::kMaxBurstLength || *known == Key::kFirstBurstLength ||
                     *known == Key::kMaxOutstandingR2t || *known == Key::kDataPduInOrder ||
                     *known == Key::kDataSequenceInOrder || *known == Key::kMaxConnections);
  if (discovery_irrelevant) {
    AppendText(key, "Irrelevant", answer);
    return true;
  }
  bool broken = false;
  std::string reply = Answer(*known, value, &broken);
  if (broken) return false;
  if (!reply.empty()) AppendText(key, reply, answer);
  // FirstBurstLength must not exceed MaxBurstLength (§13.14).
  params_.first_burst = std::min(params_.first_burst, params_.max_burst);
  return true;
}

void OperationalKeys::Declare(std::string* text) {
  if (declared_) return;
  declared_ = true;
  params_.target_max_data = limits_.max_recv_data_segment;
  AppendText("MaxRecvDataSegmentLength", std::to_string(limits_.max_recv_data_segment), text);
}

}  // namespace umblock::iscsi
