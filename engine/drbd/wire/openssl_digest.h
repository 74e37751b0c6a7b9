// Internal to this directory: a digest of OpenSSL by the name the Linux crypto API gives it.
#pragma once

#include <openssl/evp.h>

#include <memory>
#include <string_view>

namespace umblock::drbd::wire::internal {

struct EvpMdDeleter {
  void operator()(EVP_MD* md) const { EVP_MD_free(md); }
};
using EvpMd = std::unique_ptr<EVP_MD, EvpMdDeleter>;

// Null for a name that is not in digest.h's list, and if OpenSSL was built or configured without
// it.
EvpMd FetchDigest(std::string_view kernel_name);

}  // namespace umblock::drbd::wire::internal
