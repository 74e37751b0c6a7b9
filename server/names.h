// How objects are called in messages, events and logs, and which names are allowed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/error.h"

namespace umblock::v1 {
class Backing;
}

namespace umblock::server {

// "volume r0/0", "connection r0/1", "peer-volume r0/1/0", "lun iqn…/0".
std::string ResourceName(std::string_view resource);
std::string VolumeName(std::string_view resource, uint32_t number);
std::string ConnectionName(std::string_view resource, uint32_t peer_node_id);
std::string PeerVolumeName(std::string_view resource, uint32_t peer_node_id, uint32_t number);
std::string LunName(std::string_view target, uint32_t number);
// "volume r0/0" or "backend disk0".
std::string DescribeBacking(const v1::Backing& backing);

// 1 to 64 of A-Z a-z 0-9 . _ + -, beginning with a letter or digit. `noun` for the message.
Status CheckName(std::string_view noun, std::string_view name);
// RFC 7143 §4.2.7: iqn., eui. or naa. form, lower case, at most 223 bytes.
Status CheckIscsiName(std::string_view name);

}  // namespace umblock::server
