// Digests of data: data-integrity-alg, verify-alg, csums-alg (drbd-wire.md 6).
//
// Names are those of the Linux crypto API and are compared literally. Known: crc32c, crc32, md5,
// sha1, sha224, sha256, sha384, sha512, sha3-224, sha3-256, sha3-384, sha3-512, blake2b-512,
// xxhash64. Byte order as the kernel stores them: crc32c, crc32 and xxhash64 little endian.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "engine/base/bytes.h"
#include "engine/base/error.h"

namespace umblock::drbd::wire {

// One digest computation after another. Create allocates; Update and Finish do not.
// Not to be shared between threads.
class Digest {
 public:
  // kUnimplemented for a name that is not known here, kInvalidArgument for an empty one.
  static Result<Digest> Create(std::string_view name);

  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;
  ~Digest();

  size_t size() const;  // bytes, 4..64
  void Update(Bytes data);
  void Update(std::span<const iovec> data);
  // Writes size() bytes to the front of `to` and starts over.
  void Finish(MutableBytes to);

  // All in one: whether `expected`, of size() bytes, is the digest of `data`.
  bool Matches(std::span<const iovec> data, Bytes expected);

  class Algorithm;

 private:
  explicit Digest(std::unique_ptr<Algorithm> algorithm);
  std::unique_ptr<Algorithm> algorithm_;
};

}  // namespace umblock::drbd::wire
