// Stream: one connected TCP socket. Listener: one listening socket.
//
// Life cycle: a Stream comes from Reactor::Connect or Listener::Accept. At most one receive and one
// send are in flight at a time; both may be at once. Abort() ends both soon with -ECANCELED (or an
// error that came first) and makes later ones fail; Close() aborts, awaits what is in flight and
// releases the socket. The destructor asserts that nothing is in flight.
// The bytes an operation names stay valid until its completion, also after Abort(); the array of
// iovecs itself need not outlive the call.
// Threading: one reactor.
#pragma once

#include <sys/uio.h>

#include <memory>
#include <span>

#include "engine/base/error.h"
#include "engine/base/socket_address.h"
#include "engine/runtime/cancel.h"
#include "engine/runtime/completion.h"
#include "engine/runtime/task.h"
#include "engine/runtime/time.h"

namespace umblock {

class Stream {
 public:
  virtual ~Stream() = default;

  // Completes with 1 or more bytes as soon as some are there, 0 at the end of the stream, or a
  // negative errno. Fills the buffers in order.
  virtual void StartReceive(std::span<const iovec> buffers, Completion* completion) = 0;
  // Completes with the total length when every byte has been handed to the socket, or a negative
  // errno (how much of it left is then unknown). A completed send is not a delivery.
  virtual void StartSend(std::span<const iovec> buffers, Completion* completion) = 0;

  virtual void Abort() noexcept = 0;
  // Sends the end of the stream after what was sent.
  virtual void ShutdownSend() noexcept = 0;
  virtual Task<void> Close() = 0;

  // True while the connection is up as far as the kernel knows (drbd-wire.md 1.5).
  virtual bool IsEstablished() const = 0;
  virtual const SocketAddress& local_address() const = 0;
  virtual const SocketAddress& remote_address() const = 0;

  // co_await stream->Receive(iov): as StartReceive.
  auto Receive(std::span<const iovec> buffers) {
    struct Awaiter : CompletionAwaiter<Awaiter> {
      Stream* stream;
      std::span<const iovec> iov;
      Awaiter(Stream* s, std::span<const iovec> b) : stream(s), iov(b) {}
      void Start(Completion* c) { stream->StartReceive(iov, c); }
    };
    return Awaiter(this, buffers);
  }
  auto Send(std::span<const iovec> buffers) {
    struct Awaiter : CompletionAwaiter<Awaiter> {
      Stream* stream;
      std::span<const iovec> iov;
      Awaiter(Stream* s, std::span<const iovec> b) : stream(s), iov(b) {}
      void Start(Completion* c) { stream->StartSend(iov, c); }
    };
    return Awaiter(this, buffers);
  }
};

struct StreamOptions {
  bool no_delay = true;
  bool keepalive = false;
  uint32_t send_buffer_bytes = 0;     // 0: the kernel's autotuning
  uint32_t receive_buffer_bytes = 0;  // 0: the kernel's autotuning
};

struct ConnectRequest {
  SocketAddress local;  // port 0: an ephemeral port of this address
  bool bind_local = false;
  SocketAddress remote;
  Duration timeout = 10s;
  StreamOptions options;
};

struct ListenRequest {
  SocketAddress local;  // port 0: one is chosen, see Listener::local_address
  int backlog = 64;
  StreamOptions options;  // for each accepted stream
};

class Listener {
 public:
  virtual ~Listener() = default;

  // Awaits one connection. kCancelled after the token was cancelled or the listener closed.
  // One accept at a time.
  virtual Task<Result<std::unique_ptr<Stream>>> Accept(CancelToken cancel) = 0;
  virtual const SocketAddress& local_address() const = 0;
  virtual Task<void> Close() = 0;
};

}  // namespace umblock
