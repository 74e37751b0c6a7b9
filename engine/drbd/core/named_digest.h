// NamedDigest: the digest of an algorithm that an administrator may change while it is in use
// (verify-alg, csums-alg). Threading: one reactor.
#pragma once

#include <optional>
#include <string>

#include "engine/drbd/wire/digest.h"

namespace umblock::drbd {

class NamedDigest {
 public:
  // nullptr for an empty name, or one that is not known here. Allocates when the name changes.
  wire::Digest* For(const std::string& name) {
    if (name != name_) {
      name_ = name;
      digest_.reset();
      if (Result<wire::Digest> made = wire::Digest::Create(name)) digest_ = std::move(*made);
    }
    return digest_ ? &*digest_ : nullptr;
  }

 private:
  std::string name_;
  std::optional<wire::Digest> digest_;
};

}  // namespace umblock::drbd
