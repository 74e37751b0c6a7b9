#include "engine/runtime/uring/uring_stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "engine/base/assert.h"
#include "engine/runtime/uring/iov_cursor.h"
#include "engine/runtime/uring/uring_reactor.h"

namespace umblock {

UringStream::UringStream(UringReactor& reactor, int fd, SocketAddress local, SocketAddress remote)
    : reactor_(reactor),
      fd_(fd),
      local_(local),
      remote_(remote),
      receive_(&OnReceived, this),
      send_(&OnSent, this),
      idle_(reactor) {}

UringStream::~UringStream() {
  UMBLOCK_ASSERT(!receive_.busy() && !send_.busy(), "a stream is closed before it goes");
  if (fd_ >= 0) close(fd_);
}

size_t UringStream::Load(Direction* direction, std::span<const iovec> buffers,
                         Completion* completion) {
  UMBLOCK_ASSERT(!direction->busy(), "one operation per direction at a time");
  direction->iov.assign(buffers.begin(), buffers.end());
  direction->first = 0;
  direction->moved = 0;
  direction->total = 0;
  for (const iovec& part : buffers) direction->total += part.iov_len;
  UMBLOCK_ASSERT(direction->total > 0 && direction->total <= std::numeric_limits<int32_t>::max(),
                 "a transfer has 1 byte to 2 GiB");
  direction->completion = completion;
  return direction->total;
}

void UringStream::StartReceive(std::span<const iovec> buffers, Completion* completion) {
  if (aborted_) return reactor_.Post(completion, -ECANCELED);
  Load(&receive_, buffers, completion);
  SubmitReceive();
}

void UringStream::SubmitReceive() {
  io_uring_sqe* entry = reactor_.ring().Entry();
  if (receive_.iov.size() == 1) {
    io_uring_prep_recv(entry, fd_, receive_.iov[0].iov_base, receive_.iov[0].iov_len, 0);
  } else {
    receive_.message.msg_iov = receive_.iov.data();
    receive_.message.msg_iovlen = std::min(receive_.iov.size(), kMaxIovecs);
    io_uring_prep_recvmsg(entry, fd_, &receive_.message, 0);
  }
  // Unless more is known to be there, wait for it instead of trying in vain first.
  if (!more_to_receive_) entry->ioprio |= IORING_RECVSEND_POLL_FIRST;
  Ring::Attach(entry, &receive_);
}

void UringStream::OnReceived(UringOp* op, int32_t result, uint32_t flags) noexcept {
  UringStream* stream = static_cast<Direction*>(op)->stream;
  stream->more_to_receive_ = (flags & IORING_CQE_F_SOCK_NONEMPTY) != 0;
  if (!stream->aborted_ && (result == -EINTR || result == -EAGAIN)) {
    return stream->SubmitReceive();
  }
  stream->Finish(&stream->receive_, result);
}

void UringStream::StartSend(std::span<const iovec> buffers, Completion* completion) {
  if (aborted_) return reactor_.Post(completion, -ECANCELED);
  Load(&send_, buffers, completion);
  SubmitSend();
}

void UringStream::SubmitSend() {
  constexpr int kFlags = MSG_NOSIGNAL | MSG_WAITALL;  // the kernel goes on after a partial send
  io_uring_sqe* entry = reactor_.ring().Entry();
  size_t parts = send_.iov.size() - send_.first;
  iovec* first = send_.iov.data() + send_.first;
  if (parts == 1) {
    io_uring_prep_send(entry, fd_, first->iov_base, first->iov_len, kFlags);
  } else {
    send_.message.msg_iov = first;
    send_.message.msg_iovlen = std::min(parts, kMaxIovecs);
    io_uring_prep_sendmsg(entry, fd_, &send_.message, kFlags);
  }
  Ring::Attach(entry, &send_);
}

void UringStream::OnSent(UringOp* op, int32_t result, uint32_t) noexcept {
  UringStream* stream = static_cast<Direction*>(op)->stream;
  Direction* send = &stream->send_;
  bool again = result == -EINTR || result == -EAGAIN;
  if (result > 0) {
    send->moved += static_cast<size_t>(result);
    AdvanceIovecs(&send->iov, &send->first, static_cast<size_t>(result));
    if (send->moved == send->total) {
      return stream->Finish(send, static_cast<int32_t>(send->total));
    }
    again = true;
  }
  if (again && !stream->aborted_) return stream->SubmitSend();
  stream->Finish(send, result < 0 ? result : -EPIPE);
}

void UringStream::Finish(Direction* direction, int32_t result) noexcept {
  // What a shutdown makes of an operation (end of stream, EPIPE) is our own doing after an abort.
  if (aborted_ && (result >= 0 || result == -EPIPE || result == -EINTR || result == -EAGAIN)) {
    result = -ECANCELED;
  }
  Completion* completion = direction->completion;
  direction->completion = nullptr;
  idle_.NotifyAll();
  completion->fn(completion, result);  // may destroy this
}

void UringStream::Abort() noexcept {
  if (aborted_) return;
  aborted_ = true;
  if (receive_.busy()) reactor_.ring().Cancel(&receive_);
  if (send_.busy()) reactor_.ring().Cancel(&send_);
  reactor_.CountSyscall();
  shutdown(fd_, SHUT_RDWR);
}

void UringStream::ShutdownSend() noexcept {
  UMBLOCK_ASSERT(!send_.busy(), "the end of the stream comes after what was sent");
  if (aborted_) return;
  reactor_.CountSyscall();
  shutdown(fd_, SHUT_WR);
}

Task<void> UringStream::Close() {
  Abort();
  while (receive_.busy() || send_.busy()) co_await idle_.Wait();
  if (fd_ < 0) co_return;
  reactor_.CountSyscall();
  close(fd_);
  fd_ = -1;
}

bool UringStream::IsEstablished() const {
  if (aborted_) return false;
  tcp_info info{};
  socklen_t length = sizeof info;
  reactor_.CountSyscall();
  return getsockopt(fd_, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
         info.tcpi_state == TCP_ESTABLISHED;
}

}  // namespace umblock
