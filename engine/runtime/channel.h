// Channel: completions sent from one reactor to another, in order, a turn's worth at a time.
//
// What a turn sends is handed over together at the turn's end, with at most one wake-up of the
// other side; nothing is allocated, since messages link themselves. A message may be sent again as
// soon as its function has been called. The channel outlives every message in it; it may be
// destroyed from a completion that the receiving reactor posted to itself after the last one.
// Threading: Send on `from`, functions on `to`. The two may be the same reactor.
#pragma once

#include <atomic>
#include <cstdint>

#include "engine/runtime/completion.h"

namespace umblock {

class Reactor;

class Channel {
 public:
  Channel(Reactor& from, Reactor& to);
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  ~Channel();

  // Calls message->fn(message, result) on `to`, soon.
  void Send(Completion* message, int32_t result = 0);

  // co_await channel.Cross(): continues the calling coroutine on `to`, after what was sent before.
  auto Cross() {
    struct Awaiter : CompletionAwaiter<Awaiter> {
      Channel* channel;
      explicit Awaiter(Channel* c) : channel(c) {}
      void Start(Completion* c) { channel->Send(c); }
    };
    return Awaiter(this);
  }

 private:
  struct Bell : Completion {
    Bell(Fn function, Channel* c) : Completion(function), channel(c) {}
    Channel* channel;
  };

  void Flush();
  void Deliver();

  Reactor& from_;
  Reactor& to_;
  // The turn's messages, the newest first. Of `from`.
  Completion* newest_ = nullptr;
  Completion* oldest_ = nullptr;
  Bell flush_;
  // What has been handed over, the newest first.
  alignas(64) std::atomic<Completion*> arrived_{nullptr};
  Bell deliver_;  // posted by whoever makes arrived_ non-empty
};

}  // namespace umblock
