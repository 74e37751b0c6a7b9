// Operational parameters of a session, and how they are negotiated (RFC 7143 §13).
//
// OperationalKeys::Offer answers one key of the initiator; the outcome is in params(). This target
// negotiates MaxConnections to 1 and ErrorRecoveryLevel to 0, and takes data in order only. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace umblock::iscsi {

// What this target is willing to do. Lengths in bytes.
struct ParameterLimits {
  uint32_t max_recv_data_segment = 256 * 1024;
  uint32_t max_burst = 1024 * 1024;
  uint32_t first_burst = 256 * 1024;
  bool initial_r2t = false;  // true: initiators are made to wait for an R2T
  bool immediate_data = true;
};

// What a session uses. The defaults are the RFC's.
struct SessionParameters {
  bool header_digest = false;  // CRC32C
  bool data_digest = false;
  bool initial_r2t = true;
  bool immediate_data = true;
  uint32_t max_burst = 262144;
  uint32_t first_burst = 65536;
  uint32_t initiator_max_data = 8192;  // its MaxRecvDataSegmentLength: of what this target sends
  uint32_t target_max_data = 8192;     // of what it receives

  friend bool operator==(const SessionParameters&, const SessionParameters&) = default;
};

class OperationalKeys {
 public:
  OperationalKeys(const ParameterLimits& limits, bool discovery)
      : limits_(limits), discovery_(discovery) {}

  // Appends the answer to `answer`. False: the offer breaks the protocol (a key offered twice, a
  // declared value out of range), the login fails.
  bool Offer(std::string_view key, std::string_view value, std::string* answer);
  // What this target declares by itself, once, in the operational stage.
  void Declare(std::string* text);
  // True after Declare: then the declared receive length is in force.
  const SessionParameters& params() const { return params_; }

 private:
  enum class Key : uint8_t;
  static std::optional<Key> Find(std::string_view name);
  std::string Answer(Key key, std::string_view value, bool* broken);
  std::string Minimum(std::string_view value, uint32_t low, uint32_t high, uint32_t mine,
                      uint32_t* result);
  static std::string Boolean(std::string_view value, bool is_or, bool mine, bool* result);
  static std::string DigestChoice(std::string_view value, bool* result);

  ParameterLimits limits_;
  bool discovery_;
  bool declared_ = false;
  uint32_t seen_ = 0;  // one bit per Key
  SessionParameters params_;
};

}  // namespace umblock::iscsi
