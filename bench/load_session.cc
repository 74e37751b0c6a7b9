#include "bench/load_session.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "engine/iscsi/text.h"

namespace umblock::bench {

using iscsi::Bhs;
using iscsi::kBhsLength;
using iscsi::Op;

namespace {

constexpr uint32_t kMaxData = 262144;
constexpr size_t kReceiveBuffer = 1 << 20;

Error Broken(std::string_view what) {
  return Error(ErrorCode::kUnavailable, fmt::format("the target {}", what));
}

}  // namespace

Result<LunAddress> LunAddress::Parse(const std::string& url) {
  LunAddress address;
  std::string_view rest = url;
  if (!rest.starts_with("iscsi://")) {
    return MakeError(ErrorCode::kInvalidArgument, "'{}' is not iscsi://host:port/iqn/lun", url);
  }
  rest.remove_prefix(8);
  size_t first = rest.find('/'), last = rest.rfind('/');
  size_t colon = rest.substr(0, first).rfind(':');
  if (first == std::string_view::npos || first == last || colon == std::string_view::npos) {
    return MakeError(ErrorCode::kInvalidArgument, "'{}' is not iscsi://host:port/iqn/lun", url);
  }
  address.host = rest.substr(0, colon);
  address.port = rest.substr(colon + 1, first - colon - 1);
  address.target = rest.substr(first + 1, last - first - 1);
  std::optional<uint32_t> lun = iscsi::ParseNumber(rest.substr(last + 1));
  if (!lun || *lun > 255) return MakeError(ErrorCode::kInvalidArgument, "'{}': bad LUN", url);
  address.lun = *lun;
  return address;
}

LoadSession::LoadSession(const Workload& workload, bool busy_poll)
    : workload_(workload),
      busy_poll_(busy_poll),
      slots_(workload.depth),
      pattern_(workload.size),
      in_(kReceiveBuffer) {
  Chance chance(workload.seed);
  for (std::byte& b : pattern_) b = static_cast<std::byte>(chance.Next());
  headers_.reserve(kBhsLength * 64 * size_t{workload.depth});
  out_.reserve(size_t{workload.depth} * 8);
}

LoadSession::~LoadSession() {
  if (fd_ >= 0) close(fd_);
}

Status LoadSession::Connect(const LunAddress& address) {
  addrinfo hints{.ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  if (getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found) != 0) {
    return MakeError(ErrorCode::kNotFound, "no address for {}", address.host);
  }
  fd_ = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int connected = connect(fd_, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  if (connected != 0) return std::unexpected(Error::FromErrno(errno, "connect"));
  int one = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  lun_ = uint64_t{address.lun} << 48;
  UMBLOCK_TRY(Login(address));
  return ReadCapacity();
}

bool LoadSession::SendAll(const void* bytes, size_t length) {
  const auto* at = static_cast<const char*>(bytes);
  while (length != 0) {
    ssize_t n = send(fd_, at, length, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    length -= static_cast<size_t>(n);
  }
  return true;
}

bool LoadSession::ReceiveAll(void* bytes, size_t length) {
  auto* at = static_cast<char*>(bytes);
  while (length != 0) {
    ssize_t n = recv(fd_, at, length, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    length -= static_cast<size_t>(n);
  }
  return true;
}

Result<Bhs> LoadSession::Exchange(Bhs header, const std::string& data, std::string* answer) {
  header.PutDataLength(static_cast<uint32_t>(data.size())).Put<uint32_t>(28, exp_stat_sn_);
  std::string padded = data;
  padded.resize(AlignUp<size_t>(data.size(), 4));
  if (!SendAll(header.bytes().data(), kBhsLength) || !SendAll(padded.data(), padded.size())) {
    return std::unexpected(Broken("closed the connection"));
  }
  std::byte raw[kBhsLength];
  if (!ReceiveAll(raw, sizeof raw)) return std::unexpected(Broken("closed the connection"));
  Bhs reply(raw);
  answer->resize(reply.padded_data_length());
  if (!ReceiveAll(answer->data(), answer->size())) {
    return std::unexpected(Broken("closed the connection"));
  }
  answer->resize(reply.data_length());
  exp_stat_sn_ = reply.Be<uint32_t>(24) + 1;
  max_cmd_sn_ = reply.Be<uint32_t>(32);
  return reply;
}

Status LoadSession::Login(const LunAddress& address) {
  std::string text;
  iscsi::AppendText("InitiatorName", "iqn.2026-01.io.umblock:load", &text);
  iscsi::AppendText("SessionType", "Normal", &text);
  iscsi::AppendText("TargetName", address.target, &text);
  iscsi::AppendText("HeaderDigest", "None", &text);
  iscsi::AppendText("DataDigest", "None", &text);
  iscsi::AppendText("MaxRecvDataSegmentLength", std::to_string(kMaxData), &text);
  iscsi::AppendText("MaxBurstLength", "1048576", &text);
  iscsi::AppendText("FirstBurstLength", "262144", &text);
  iscsi::AppendText("InitialR2T", "Yes", &text);
  iscsi::AppendText("ImmediateData", "Yes", &text);
  for (int step = 0; step < 8; ++step) {
    Bhs request(Op::kLogin, 0x87);
    request.Put8(0, 0x43).Put<uint64_t>(8, uint64_t{0x00023d554d00} << 16 | (getpid() & 0xff)
                                                                                << 16);
    request.Put<uint32_t>(24, cmd_sn_);
    std::string answer;
    auto reply = Exchange(request, step == 0 ? text : std::string(), &answer);
    if (!reply) return std::unexpected(reply.error());
    if (reply->Be<uint16_t>(36) != 0) {
      return MakeError(ErrorCode::kPermissionDenied, "login refused, status {:#06x}",
                       reply->Be<uint16_t>(36));
    }
    auto pairs = iscsi::ParseText(answer);
    if (!pairs) return std::unexpected(Broken("answers no text"));
    auto number = [&](std::string_view key, uint32_t* value) {
      auto found = iscsi::FindKey(*pairs, key);
      if (auto parsed = found ? iscsi::ParseNumber(*found) : std::nullopt) *value = *parsed;
    };
    number("MaxRecvDataSegmentLength", &target_max_data_);
    number("FirstBurstLength", &first_burst_);
    if (auto found = iscsi::FindKey(*pairs, "ImmediateData")) immediate_ = *found == "Yes";
    if ((reply->flags() & iscsi::kTransit) != 0 && (reply->flags() & 3) == 3) return Ok();
  }
  return std::unexpected(Broken("does not finish the login"));
}

Status LoadSession::ReadCapacity() {
  for (int attempt = 0; attempt < 16; ++attempt) {
    Bhs request(Op::kScsiCommand, 0xc1);
    request.Put<uint64_t>(8, lun_).Put<uint32_t>(16, 0xfffffff0).Put<uint32_t>(20, 32);
    request.Put<uint32_t>(24, cmd_sn_++).Put8(32, 0x9e).Put8(33, 0x10).Put8(45, 32);
    std::string answer;
    auto reply = Exchange(request, {}, &answer);
    if (!reply) return std::unexpected(reply.error());
    if (reply->op() != Op::kDataIn) continue;             // a unit attention: again
    if ((reply->flags() & iscsi::kStatusPresent) == 0) {  // the status comes by itself
      std::byte raw[kBhsLength];
      if (!ReceiveAll(raw, sizeof raw)) return std::unexpected(Broken("closed the connection"));
      Bhs status(raw);
      std::string sense(status.padded_data_length(), '\0');
      if (!ReceiveAll(sense.data(), sense.size())) {
        return std::unexpected(Broken("closed the connection"));
      }
      exp_stat_sn_ = status.Be<uint32_t>(24) + 1;
      max_cmd_sn_ = status.Be<uint32_t>(32);
      if (status.U8(3) != 0) continue;  // a unit attention, with data of zeroes before it (tgt)
    }
    if (answer.size() < 12) return std::unexpected(Broken("does not tell its capacity"));
    blocks_ = LoadBe<uint64_t>(answer.data()) + 1;
    block_size_ = LoadBe<uint32_t>(&answer[8]);
    if (block_size_ == 0 || workload_.size % block_size_ != 0) {
      return MakeError(ErrorCode::kInvalidArgument, "requests of {} bytes on blocks of {}",
                       workload_.size, block_size_);
    }
    return Ok();
  }
  return std::unexpected(Broken("is not ready"));
}

// ---- the load

void LoadSession::QueueHeader(const Bhs& header, size_t data) {
  // The arena is sized for everything that can be in flight, so its bytes do not move.
  UMBLOCK_ASSERT(headers_.size() + kBhsLength <= headers_.capacity(),
                 "headers stay where they are");
  size_t at = headers_.size();
  headers_.insert(headers_.end(), header.bytes().begin(), header.bytes().end());
  std::byte* begin = headers_.data() + at;
  bool joins = out_.size() > out_first_ &&
               static_cast<std::byte*>(out_.back().iov_base) + out_.back().iov_len == begin;
  if (joins) {
    out_.back().iov_len += kBhsLength;
  } else {
    out_.push_back({begin, kBhsLength});
  }
  if (data != 0) out_.push_back({pattern_.data(), data});  // sizes are multiples of 512: no padding
}

void LoadSession::Begin(uint32_t index, uint64_t now) {
  Slot& slot = slots_[index];
  uint32_t blocks = workload_.size / block_size_;
  slot.offset = offsets_->Next() * blocks;
  slot.read = offsets_->NextIsRead(workload_.read_percent);
  slot.began = now;
  bool wide = slot.offset > UINT32_MAX || blocks > UINT16_MAX;
  Bhs header(Op::kScsiCommand, slot.read ? 0xc1 : 0xa1);
  header.Put<uint64_t>(8, lun_).Put<uint32_t>(16, index).Put<uint32_t>(20, workload_.size);
  header.Put<uint32_t>(24, cmd_sn_++).Put<uint32_t>(28, exp_stat_sn_);
  if (wide) {
    header.Put8(32, slot.read ? 0x88 : 0x8a).Put<uint64_t>(34, slot.offset);
    header.Put<uint32_t>(42, blocks);
  } else {
    header.Put8(32, slot.read ? 0x28 : 0x2a).Put<uint32_t>(34, static_cast<uint32_t>(slot.offset));
    header.Put<uint16_t>(39, static_cast<uint16_t>(blocks));
  }
  size_t now_sent = 0;
  if (!slot.read && immediate_) {
    now_sent = std::min({workload_.size, first_burst_, target_max_data_});
    header.PutDataLength(static_cast<uint32_t>(now_sent));
  }
  QueueHeader(header, now_sent);
}

void LoadSession::SendRequested(const Bhs& r2t) {
  auto offset = r2t.Be<uint32_t>(40);
  uint32_t left = std::min(r2t.Be<uint32_t>(44), workload_.size);
  for (uint32_t number = 0; left != 0; ++number) {
    uint32_t piece = std::min(left, target_max_data_);
    Bhs data(Op::kDataOut, piece == left ? iscsi::kFinal : 0);
    data.Put<uint64_t>(8, r2t.lun()).Put<uint32_t>(16, r2t.task_tag());
    data.Put<uint32_t>(20, r2t.transfer_tag()).Put<uint32_t>(28, exp_stat_sn_);
    data.Put<uint32_t>(36, number).Put<uint32_t>(40, offset).PutDataLength(piece);
    QueueHeader(data, piece);
    offset += piece;
    left -= piece;
  }
}

Status LoadSession::Flush() {
  while (out_first_ < out_.size()) {
    msghdr message{};
    message.msg_iov = &out_[out_first_];
    message.msg_iovlen = std::min<size_t>(out_.size() - out_first_, 1024);
    ssize_t n = sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return Ok();
    if (n <= 0) return std::unexpected(Broken("closed the connection"));
    auto left = static_cast<size_t>(n);
    while (left != 0) {
      iovec& part = out_[out_first_];
      size_t step = std::min(left, part.iov_len);
      part.iov_base = static_cast<char*>(part.iov_base) + step;
      part.iov_len -= step;
      left -= step;
      if (part.iov_len == 0) ++out_first_;
    }
  }
  out_.clear();
  headers_.clear();
  out_first_ = 0;
  return Ok();
}

Status LoadSession::Finish(const Bhs& header, bool failed) {
  uint32_t index = header.task_tag();
  if (index >= slots_.size()) return std::unexpected(Broken("answers a command that was not sent"));
  uint64_t now = NowNs();
  if (now >= measure_from_ && slots_[index].began >= measure_from_ && !ending_) {
    ++measurement_->requests;
    if (failed) ++measurement_->errors;
    measurement_->latency.Add(now - slots_[index].began);
  }
  ready_.push_back(index);
  return Ok();
}

Status LoadSession::HandlePdu(const Bhs& header) {
  skip_ = header.padded_data_length();
  bool numbers = true;
  Status status = Ok();
  switch (header.op()) {
    case Op::kScsiResponse:
      exp_stat_sn_ = header.Be<uint32_t>(24) + 1;
      status = Finish(header, header.U8(3) != 0);
      break;
    case Op::kDataIn:
      if ((header.flags() & iscsi::kStatusPresent) != 0) {
        exp_stat_sn_ = header.Be<uint32_t>(24) + 1;
        status = Finish(header, header.U8(3) != 0);
      }
      break;
    case Op::kR2t:
      SendRequested(header);
      break;
    case Op::kNopIn:
      if (header.transfer_tag() != iscsi::kReservedTag) {
        Bhs answer(Op::kNopOut, iscsi::kFinal);
        answer.Put8(0, 0x40).Put<uint32_t>(16, iscsi::kReservedTag);
        answer.Put<uint32_t>(20, header.transfer_tag()).Put<uint32_t>(24, cmd_sn_);
        answer.Put<uint32_t>(28, exp_stat_sn_);
        QueueHeader(answer, 0);
      }
      break;
    default:
      return std::unexpected(Broken(fmt::format("sent a PDU {:#x}", header.U8(0))));
  }
  if (numbers && iscsi::SerialLess(max_cmd_sn_, header.Be<uint32_t>(32))) {
    max_cmd_sn_ = header.Be<uint32_t>(32);
  }
  return status;
}

// Receives once and looks at every header in what came.
Status LoadSession::Take(uint64_t wait_until) {
  if (in_begin_ == in_end_) in_begin_ = in_end_ = 0;
  if (in_begin_ != 0) {
    std::memmove(in_.data(), &in_[in_begin_], in_end_ - in_begin_);
    in_end_ -= in_begin_;
    in_begin_ = 0;
  }
  ssize_t n = recv(fd_, &in_[in_end_], in_.size() - in_end_, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
    if (busy_poll_) return Ok();
    pollfd wait{fd_, static_cast<short>(POLLIN | (out_.empty() ? 0 : POLLOUT)), 0};
    uint64_t now = NowNs();
    int timeout = wait_until > now ? static_cast<int>((wait_until - now) / 1000000) + 1 : 1;
    poll(&wait, 1, timeout);
    return Ok();
  }
  if (n <= 0) return std::unexpected(Broken("closed the connection"));
  in_end_ += static_cast<size_t>(n);
  while (true) {
    uint64_t passed = std::min<uint64_t>(skip_, in_end_ - in_begin_);
    in_begin_ += passed;
    skip_ -= passed;
    if (in_end_ - in_begin_ < kBhsLength) return Ok();
    Bhs header(Bytes(&in_[in_begin_], kBhsLength));
    in_begin_ += kBhsLength;
    UMBLOCK_TRY(HandlePdu(header));
  }
}

Status LoadSession::Run(Measurement* measurement) {
  measurement_ = measurement;
  offsets_ = std::make_unique<Offsets>(workload_, device_bytes());
  if (offsets_->count() == 0) return MakeError(ErrorCode::kInvalidArgument, "the LUN is too small");
  for (uint32_t i = 0; i < workload_.depth; ++i) ready_.push_back(i);
  uint64_t begin = NowNs();
  measure_from_ = begin + static_cast<uint64_t>(workload_.warm_up * 1e9);
  uint64_t end = measure_from_ + static_cast<uint64_t>(workload_.seconds * 1e9);
  double cpu = 0;
  bool measuring = false;
  while (true) {
    uint64_t now = NowNs();
    if (!measuring && now >= measure_from_) {
      measuring = true;
      cpu = ProcessCpuSeconds();
    }
    if (now >= end && !ending_) {
      ending_ = true;
      measurement->seconds = static_cast<double>(now - measure_from_) / 1e9;
      measurement->load_cpu_seconds = ProcessCpuSeconds() - cpu;
    }
    if (ending_ && (ready_.size() == workload_.depth || now > end + 10000000000)) break;
    while (!ending_ && !ready_.empty() && !iscsi::SerialLess(max_cmd_sn_, cmd_sn_) &&
           headers_.size() < headers_.capacity() / 2) {
      uint32_t slot = ready_.back();
      ready_.pop_back();
      Begin(slot, now);
    }
    UMBLOCK_TRY(Flush());
    UMBLOCK_TRY(Take(ending_ ? end + 10000000000 : end));
  }
  if (ready_.size() != workload_.depth) {
    return MakeError(ErrorCode::kDeadlineExceeded, "{} requests were never answered",
                     workload_.depth - ready_.size());
  }
  return Ok();
}

}  // namespace umblock::bench
