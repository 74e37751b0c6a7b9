#include "engine/drbd/wire/digest.h"

#include <isa-l/crc.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "engine/base/assert.h"
#include "engine/drbd/wire/constants.h"
#include "engine/drbd/wire/openssl_digest.h"

namespace umblock::drbd::wire {

class Digest::Algorithm {
 public:
  virtual ~Algorithm() = default;
  virtual size_t size() const = 0;
  virtual void Update(Bytes data) = 0;
  virtual void Finish(std::byte* to) = 0;  // and start over
};

namespace {

// ISA-L takes an int as length.
constexpr size_t kCrcChunk = 1u << 30;

// CRC-32C with the usual inversion before and after.
class Crc32c final : public Digest::Algorithm {
 public:
  size_t size() const override { return 4; }
  void Update(Bytes data) override {
    while (!data.empty()) {
      const Bytes chunk = data.first(std::min(data.size(), kCrcChunk));
      // The function's parameter is not const, but it only reads.
      auto* bytes = reinterpret_cast<unsigned char*>(const_cast<std::byte*>(chunk.data()));
      state_ = crc32_iscsi(bytes, static_cast<int>(chunk.size()), state_);
      data = data.subspan(chunk.size());
    }
  }
  void Finish(std::byte* to) override { StoreLe(to, ~std::exchange(state_, ~0u)); }

 private:
  uint32_t state_ = ~0u;
};

// The kernel's "crc32": starts at 0 and inverts nothing, where ISA-L inverts before and after.
class Crc32 final : public Digest::Algorithm {
 public:
  size_t size() const override { return 4; }
  void Update(Bytes data) override {
    const auto* bytes = reinterpret_cast<const unsigned char*>(data.data());
    if (!data.empty()) state_ = ~crc32_gzip_refl(~state_, bytes, data.size());
  }
  void Finish(std::byte* to) override { StoreLe(to, std::exchange(state_, 0u)); }

 private:
  uint32_t state_ = 0;
};

class Xxhash64 final : public Digest::Algorithm {
 public:
  Xxhash64() { Reset(); }
  size_t size() const override { return 8; }
  void Update(Bytes data) override {
    if (!data.empty()) XXH64_update(state_.get(), data.data(), data.size());
  }
  void Finish(std::byte* to) override {
    StoreLe<uint64_t>(to, XXH64_digest(state_.get()));
    Reset();
  }

 private:
  struct Deleter {
    void operator()(XXH64_state_t* state) const { XXH64_freeState(state); }
  };
  void Reset() { XXH64_reset(state_.get(), 0); }

  std::unique_ptr<XXH64_state_t, Deleter> state_{XXH64_createState()};
};

class OpenSslDigest final : public Digest::Algorithm {
 public:
  static std::unique_ptr<Digest::Algorithm> Create(std::string_view name) {
    auto self = std::make_unique<OpenSslDigest>();
    self->md_ = internal::FetchDigest(name);
    self->context_.reset(EVP_MD_CTX_new());
    if (!self->md_ || !self->context_ || !self->Reset()) return nullptr;
    return self;
  }
  size_t size() const override { return static_cast<size_t>(EVP_MD_get_size(md_.get())); }
  void Update(Bytes data) override {
    const int done = EVP_DigestUpdate(context_.get(), data.data(), data.size());
    UMBLOCK_ASSERT(done == 1, "OpenSSL updates a digest in memory");
  }
  void Finish(std::byte* to) override {
    const bool done =
        EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(to), nullptr) == 1 &&
        Reset();
    UMBLOCK_ASSERT(done, "OpenSSL finishes a digest in memory");
  }

 private:
  struct Deleter {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  bool Reset() { return EVP_DigestInit_ex2(context_.get(), md_.get(), nullptr) == 1; }

  internal::EvpMd md_;
  std::unique_ptr<EVP_MD_CTX, Deleter> context_;
};

std::unique_ptr<Digest::Algorithm> MakeAlgorithm(std::string_view name) {
  if (name == "crc32c") return std::make_unique<Crc32c>();
  if (name == "crc32") return std::make_unique<Crc32>();
  if (name == "xxhash64") return std::make_unique<Xxhash64>();
  return OpenSslDigest::Create(name);
}

}  // namespace

namespace internal {

EvpMd FetchDigest(std::string_view kernel_name) {
  static constexpr auto kNames = std::to_array<std::pair<std::string_view, const char*>>({
      {"md5", "MD5"},
      {"sha1", "SHA1"},
      {"sha224", "SHA2-224"},
      {"sha256", "SHA2-256"},
      {"sha384", "SHA2-384"},
      {"sha512", "SHA2-512"},
      {"sha3-224", "SHA3-224"},
      {"sha3-256", "SHA3-256"},
      {"sha3-384", "SHA3-384"},
      {"sha3-512", "SHA3-512"},
      {"blake2b-512", "BLAKE2B-512"},
  });
  for (const auto& [kernel, openssl] : kNames) {
    if (kernel == kernel_name) return EvpMd(EVP_MD_fetch(nullptr, openssl, nullptr));
  }
  return nullptr;
}

}  // namespace internal

Digest::Digest(std::unique_ptr<Algorithm> algorithm) : algorithm_(std::move(algorithm)) {}
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;
Digest::~Digest() = default;

Result<Digest> Digest::Create(std::string_view name) {
  if (name.empty()) {
    return MakeError(ErrorCode::kInvalidArgument, "a digest algorithm has a name");
  }
  std::unique_ptr<Algorithm> algorithm = MakeAlgorithm(name);
  if (algorithm == nullptr) {
    return MakeError(ErrorCode::kUnimplemented,
                     "digest algorithm '{}' is not known here; crc32c, md5, sha1, sha256, sha512, "
                     "sha3-256, blake2b-512 and xxhash64 are",
                     name);
  }
  return Digest(std::move(algorithm));
}

size_t Digest::size() const { return algorithm_->size(); }

void Digest::Update(Bytes data) { algorithm_->Update(data); }

void Digest::Update(std::span<const iovec> data) {
  for (const iovec& part : data) {
    algorithm_->Update(Bytes(static_cast<const std::byte*>(part.iov_base), part.iov_len));
  }
}

void Digest::Finish(MutableBytes to) {
  UMBLOCK_ASSERT(to.size() >= size(), "a digest is written into a buffer that holds it");
  algorithm_->Finish(to.data());
}

bool Digest::Matches(std::span<const iovec> data, Bytes expected) {
  std::array<std::byte, kMaxDigestBytes> computed;
  Update(data);
  Finish(computed);
  return expected.size() == size() &&
         CRYPTO_memcmp(computed.data(), expected.data(), expected.size()) == 0;
}

}  // namespace umblock::drbd::wire
