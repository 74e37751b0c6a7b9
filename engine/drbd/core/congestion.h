// Congestion: what a connection does when more is under way to its peer than the operator allows
// (drbd-io-path.md F.5, F.6): nothing, since a full socket holds writes back by itself; let go of
// the peer; or pull ahead of it.
//
// Pulling ahead: from the state Ahead on writes are not sent, only what is out of sync, and a new
// data generation begins; the peer is Behind. One second after the last write that was sent is
// stable there, all volumes of the connection become the source of a resync of what was left out,
// without an exchange of bitmaps: both sides have the same bits.
//
// The decision is made at the end of the turn, not inside the registration of a write. Threading:
// one reactor.
#pragma once

#include <cstdint>

#include "engine/runtime/reactor.h"

namespace umblock::drbd {

class Connection;
class Volume;

class Congestion {
 public:
  explicit Congestion(Connection& connection);

  // A write of this volume was queued for the peer.
  void OnWriteQueued(Volume& volume);
  // Less is in flight than before, or a volume has pulled ahead.
  void OnProgress();
  // The connection has ended.
  void OnLost();

 private:
  struct Decide : umblock::Completion {
    explicit Decide(Congestion* c);
    Congestion* congestion;
  };
  struct CatchUp : Timer {
    explicit CatchUp(Congestion* c);
    Congestion* congestion;
  };

  bool IsCongested(Volume& volume) const;
  bool AnyAhead() const;
  void React();
  void PullAhead();
  void OnTimer();

  Connection& connection_;
  Decide decide_{this};
  CatchUp catch_up_{this};
  bool deciding_ = false;
  bool waiting_ = false;  // catch_up_ is armed
};

}  // namespace umblock::drbd
