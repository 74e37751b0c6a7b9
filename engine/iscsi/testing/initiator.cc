#include "engine/iscsi/testing/initiator.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "engine/iscsi/digest.h"
#include "engine/iscsi/text.h"

namespace umblock::iscsi {

Initiator::Initiator(const SocketAddress& address) {
  sockaddr_storage storage{};
  socklen_t length = address.ToSockaddr(&storage);
  fd_ = socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  timeval limit{.tv_sec = 10};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  UMBLOCK_ASSERT(connect(fd_, reinterpret_cast<sockaddr*>(&storage), length) == 0,
                 "the test's target listens");
}

Initiator::~Initiator() { close(fd_); }

void Initiator::SendBytes(std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return;  // the target closed: the test looks at that
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

void Initiator::Send(Bhs header, std::string_view data) {
  header.PutDataLength(static_cast<uint32_t>(data.size()));
  header.Put<uint32_t>(28, exp_stat_sn);
  std::string bytes(reinterpret_cast<const char*>(header.bytes().data()), kBhsLength);
  auto digest = [&bytes](std::string_view of) {
    std::byte raw[4];
    StoreLe<uint32_t>(raw, Digest(std::as_bytes(std::span(of))));
    bytes.append(reinterpret_cast<char*>(raw), 4);
  };
  if (header_digest) digest(std::string(bytes));
  if (!data.empty()) {
    std::string padded(data);
    padded.resize(AlignUp<size_t>(padded.size(), 4));
    bytes += padded;
    if (data_digest) digest(padded);
  }
  SendBytes(bytes);
}

bool Initiator::ReceiveAll(void* to, size_t length) {
  auto* at = static_cast<char*>(to);
  while (length != 0) {
    ssize_t n = recv(fd_, at, length, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    length -= static_cast<size_t>(n);
  }
  return true;
}

std::optional<Pdu> Initiator::Receive() {
  std::byte raw[kBhsLength];
  if (!ReceiveAll(raw, sizeof raw)) return std::nullopt;
  Pdu pdu{.header = Bhs(raw), .data = {}};
  std::byte digest[4];
  if (header_digest) {
    if (!ReceiveAll(digest, 4)) return std::nullopt;
    UMBLOCK_ASSERT(LoadLe<uint32_t>(digest) == Digest(raw), "the target's header digest is right");
  }
  pdu.data.resize(pdu.header.padded_data_length());
  if (!pdu.data.empty()) {
    if (!ReceiveAll(pdu.data.data(), pdu.data.size())) return std::nullopt;
    if (data_digest) {
      if (!ReceiveAll(digest, 4)) return std::nullopt;
      UMBLOCK_ASSERT(LoadLe<uint32_t>(digest) == Digest(std::as_bytes(std::span(pdu.data))),
                     "the target's data digest is right");
    }
  }
  pdu.data.resize(pdu.header.data_length());
  bool has_stat_sn = pdu.header.op() != Op::kDataIn || (pdu.header.flags() & kStatusPresent) != 0;
  bool takes_it = pdu.header.op() != Op::kR2t &&
                  (pdu.header.op() != Op::kNopIn || pdu.header.task_tag() != kReservedTag);
  if (has_stat_sn && takes_it) exp_stat_sn = pdu.header.Be<uint32_t>(24) + 1;
  exp_cmd_sn = pdu.header.Be<uint32_t>(28);
  max_cmd_sn = pdu.header.Be<uint32_t>(32);
  return pdu;
}

bool Initiator::WaitClosed() {
  char drop[4096];
  while (true) {
    ssize_t n = recv(fd_, drop, sizeof drop, 0);
    if (n == 0) return true;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno != EAGAIN && errno != EWOULDBLOCK;
  }
}

Initiator::LoginResult Initiator::LoginStep(uint8_t flags, const Keys& keys, uint16_t tsih) {
  Bhs header(Op::kLogin, flags);
  header.Put8(0, 0x43);
  header.Put<uint64_t>(8, isid << 16 | tsih);
  header.Put<uint32_t>(16, 7).Put<uint32_t>(24, cmd_sn);
  std::string text;
  for (const auto& [key, value] : keys) AppendText(key, value, &text);
  Send(header, text);
  std::optional<Pdu> reply = Receive();
  LoginResult result;
  if (!reply) {
    result.connected = false;
    return result;
  }
  result.status = reply->header.Be<uint16_t>(36);
  result.tsih = reply->header.Be<uint16_t>(14);
  auto pairs = ParseText(reply->data);
  if (!pairs) return result;
  for (const TextPair& pair : *pairs) result.keys[std::string(pair.key)] = pair.value;
  return result;
}

Initiator::LoginResult Initiator::Login(const std::string& target, const Keys& more) {
  Keys keys = {{"InitiatorName", name}, {"SessionType", "Normal"}, {"TargetName", target}};
  keys.insert(keys.end(), more.begin(), more.end());
  LoginResult result = LoginStep(0x87, keys);  // T, operational -> full feature
  if (auto at = result.keys.find("MaxRecvDataSegmentLength"); at != result.keys.end()) {
    max_data = static_cast<uint32_t>(std::stoul(at->second));
  }
  if (auto at = result.keys.find("FirstBurstLength"); at != result.keys.end()) {
    first_burst = static_cast<uint32_t>(std::stoul(at->second));
  }
  header_digest = result.keys["HeaderDigest"] == "CRC32C";
  data_digest = result.keys["DataDigest"] == "CRC32C";
  immediate_data = result.keys["ImmediateData"] != "No";
  return result;
}

Initiator::LoginResult Initiator::Discover(const Keys& more) {
  Keys keys = {{"InitiatorName", name}, {"SessionType", "Discovery"}};
  keys.insert(keys.end(), more.begin(), more.end());
  return LoginStep(0x87, keys);
}

Bhs Initiator::Command(std::vector<uint8_t> cdb, uint8_t flags, uint32_t edtl, uint32_t lun) {
  Bhs header(Op::kScsiCommand, flags | 1);  // SIMPLE
  header.Put<uint64_t>(8, uint64_t{lun} << 48).Put<uint32_t>(20, edtl);
  cdb.resize(16);
  for (size_t i = 0; i < cdb.size(); ++i) header.Put8(32 + i, cdb[i]);
  return header;
}

uint32_t Initiator::SendCommand(Bhs header, std::string_view immediate) {
  uint32_t tag = next_tag++;
  header.Put<uint32_t>(16, tag).Put<uint32_t>(24, cmd_sn++);
  Send(header, immediate);
  return tag;
}

Initiator::Answer Initiator::Finish(uint32_t task_tag, std::string_view out) {
  Answer answer;
  while (true) {
    std::optional<Pdu> pdu = Receive();
    if (!pdu) return answer;
    const Bhs& header = pdu->header;
    if (header.task_tag() != task_tag) continue;
    if (header.op() == Op::kR2t) {
      auto offset = header.Be<uint32_t>(40);
      uint32_t left = header.Be<uint32_t>(44);
      for (uint32_t number = 0; left != 0; ++number) {
        uint32_t piece = std::min(left, max_data);
        Bhs data(Op::kDataOut, piece == left ? kFinal : 0);
        data.Put<uint64_t>(8, header.lun()).Put<uint32_t>(16, task_tag);
        data.Put<uint32_t>(20, header.transfer_tag());
        data.Put<uint32_t>(36, number).Put<uint32_t>(40, offset);
        Send(data, out.substr(offset, piece));
        offset += piece;
        left -= piece;
      }
      continue;
    }
    if (header.op() == Op::kDataIn) {
      ++answer.data_pdus;
      if (header.Be<uint32_t>(40) != answer.data.size()) return answer;  // not in order
      answer.data += pdu->data;
      if ((header.flags() & kStatusPresent) == 0) continue;
    } else {
      if (pdu->data.size() > 2) answer.sense = pdu->data.substr(2);
    }
    answer.answered = true;
    answer.status = header.U8(3);
    answer.residual_flags = header.flags() & (kOverflow | kUnderflow);
    answer.residual = header.Be<uint32_t>(44);
    return answer;
  }
}

Initiator::Answer Initiator::Read(uint32_t lba, uint16_t blocks, uint32_t block_size,
                                  uint32_t lun) {
  std::vector<uint8_t> cdb(10);
  cdb[0] = 0x28;
  StoreBe<uint32_t>(&cdb[2], lba);
  StoreBe<uint16_t>(&cdb[7], blocks);
  return Finish(SendCommand(Command(cdb, kFinal | kRead, blocks * block_size, lun)));
}

Initiator::Answer Initiator::Write(uint32_t lba, std::string_view data, uint32_t block_size,
                                   uint32_t lun) {
  std::vector<uint8_t> cdb(10);
  cdb[0] = 0x2a;
  StoreBe<uint32_t>(&cdb[2], lba);
  StoreBe<uint16_t>(&cdb[7], static_cast<uint16_t>(data.size() / block_size));
  size_t now = immediate_data ? std::min<size_t>({data.size(), first_burst, max_data}) : 0;
  auto edtl = static_cast<uint32_t>(data.size());
  uint32_t tag = SendCommand(Command(cdb, kFinal | kWrite, edtl, lun), data.substr(0, now));
  return Finish(tag, data);
}

void Initiator::MakeReady(uint32_t lun) {
  while (Finish(SendCommand(Command({0x00}, kFinal, 0, lun))).status == 2) continue;
}

}  // namespace umblock::iscsi
