// Login requests of any contents: keys, stages, CHAP. The input is cut at 0xff bytes; the first
// byte of each piece is byte 1 of the request (T, C, CSG, NSG), the rest its text.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/iscsi/login.h"

namespace umblock::iscsi {
namespace {

class Directory final : public LoginAuthority {
 public:
  explicit Directory(bool chap) : chap_(chap) {}
  Decision MayLogIn(std::string_view, std::string_view) override {
    if (!chap_) return {};
    return {.chap = ChapCredentials{"user", "secret-secret", "target", "other-secret"}};
  }

 private:
  bool chap_;
};

void Run(std::string_view input, bool chap) {
  Directory directory(chap);
  LoginExchange exchange(directory, {}, [](MutableBytes bytes) {
    for (std::byte& b : bytes) b = std::byte{0x55};
  });
  while (!input.empty()) {
    size_t end = input.find('\xff');
    std::string_view piece = input.substr(0, end);
    input.remove_prefix(end == std::string_view::npos ? input.size() : end + 1);
    if (piece.empty()) continue;
    Bhs request(Op::kLogin, static_cast<uint8_t>(piece[0]));
    auto reply = exchange.Handle(request, piece.substr(1));
    UMBLOCK_ASSERT(reply.text.size() <= LoginExchange::kMaxRequest * 2, "answers are bounded");
    UMBLOCK_ASSERT(ParseText(reply.text).has_value() || reply.text.size() > 4096,
                   "our own text can be read");
    if (reply.status != LoginStatus::kSuccess) return;
    if (!reply.finished) continue;
    const SessionParameters& params = exchange.params();
    UMBLOCK_ASSERT(params.first_burst <= params.max_burst && params.max_burst <= (1u << 20) &&
                       params.initiator_max_data >= 512,
                   "what was agreed on is within its limits");
    UMBLOCK_ASSERT(!chap, "the fixed challenge's answer is not guessed");
    return;
  }
}

}  // namespace
}  // namespace umblock::iscsi

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  umblock::iscsi::Run(input, false);
  umblock::iscsi::Run(input, true);
  return 0;
}
