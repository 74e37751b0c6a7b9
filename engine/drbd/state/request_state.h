// The state of one write towards each of its destinations ("legs"), as a pure function
// (state, event) -> (state, effects): drbd-io-path.md A.9; and when the write may be answered
// upwards: A.10. No allocation, no I/O; everything is constexpr.
//
// A request stays in the transfer log until every peer leg is done (D) and every earlier write of
// the resource is done too (A.11); upper completion happens earlier.
#pragma once

#include <cstdint>
#include <span>

namespace umblock::drbd {

enum class LegBit : uint16_t {
  kQueued = 1 << 0,      // Q: the sender references the payload, or owes an out-of-sync packet
  kReady = 1 << 1,       // R: in the transfer log, may be sent
  kPending = 1 << 2,     // P: an ack is expected; blocks upper completion
  kSent = 1 << 3,        // S: handed to the socket
  kOk = 1 << 4,          // O: counts as stored on that peer
  kDone = 1 << 5,        // D: no further packet of this peer is expected for this write
  kInSync = 1 << 6,      // I: the peer said "and in sync"
  kOutOfSync = 1 << 7,   // U: an out-of-sync leg whose packet is not settled yet
  kNegAck = 1 << 8,      // the peer failed to write
  kHeld = 1 << 9,        // connection lost while suspended; may be sent again
  kPostponed = 1 << 10,  // P_RETRY_WRITE (8.4, 9.0)
  kData = 1 << 11,       // the leg carries data and expects a barrier ack
  kProtoA = 1 << 12,
  kProtoB = 1 << 13,
  kProtoC = 1 << 14,
};

class LegState {
 public:
  constexpr LegState() = default;
  constexpr explicit LegState(uint16_t bits) : bits_(bits) {}

  constexpr bool Has(LegBit bit) const { return (bits_ & static_cast<uint16_t>(bit)) != 0; }
  constexpr LegState With(LegBit bit) const {
    return LegState(static_cast<uint16_t>(bits_ | static_cast<uint16_t>(bit)));
  }
  constexpr LegState Without(LegBit bit) const {
    return LegState(static_cast<uint16_t>(bits_ & ~static_cast<uint16_t>(bit)));
  }
  constexpr uint16_t bits() const { return bits_; }

  // A.10: this leg does not (no longer) stand in the way of upper completion.
  constexpr bool satisfied() const {
    if (Has(LegBit::kPending) || Has(LegBit::kHeld)) return false;
    return !(Has(LegBit::kQueued) && Has(LegBit::kData));
  }
  constexpr bool ok() const { return Has(LegBit::kOk); }
  constexpr bool done() const { return Has(LegBit::kDone); }
  // The socket or the send queue may still read the payload (INV-21).
  constexpr bool references_payload() const { return Has(LegBit::kQueued) && Has(LegBit::kData); }

  constexpr bool operator==(const LegState&) const = default;

 private:
  uint16_t bits_ = 0;
};

enum class AckProtocol : uint8_t { kA, kB, kC };

constexpr LegState DataLeg(AckProtocol protocol) {
  const LegState leg = LegState().With(LegBit::kData).With(LegBit::kPending).With(LegBit::kQueued);
  switch (protocol) {
    case AckProtocol::kA:
      return leg.With(LegBit::kProtoA);
    case AckProtocol::kB:
      return leg.With(LegBit::kProtoB);
    case AckProtocol::kC:
      return leg.With(LegBit::kProtoC);
  }
  return leg;
}
constexpr LegState OutOfSyncLeg() {
  return LegState().With(LegBit::kOutOfSync).With(LegBit::kQueued).With(LegBit::kDone);
}
// A peer that gets nothing for this write.
constexpr LegState NotChosenLeg() { return LegState().With(LegBit::kDone); }

enum class LegEvent : uint8_t {
  kReady,                    // the request is in the transfer log
  kSent,                     // the last byte was handed to the socket
  kSendDropped,              // the sender gave up its reference without sending
  kRecvAck,                  // P_RECV_ACK
  kWriteAck,                 // P_WRITE_ACK
  kWriteAckInSync,           // P_WRITE_ACK_IN_SYNC; P_RS_WRITE_ACK before 122
  kNegAck,                   // P_NEG_ACK
  kBarrierAck,               // P_BARRIER_ACK of its epoch, or P_CONFIRM_STABLE
  kSuperseded,               // P_SUPERSEDED (8.4, 9.0)
  kRetryWrite,               // P_RETRY_WRITE (8.4, 9.0)
  kConnectionLost,           // I/O not suspended
  kConnectionLostSuspended,  // A.12
  kResend,                   // reconnected while suspended, no resync starts
  kCancelSuspended,          // resumed without that peer, or a resync starts
  kCompletionResumed,        // the hold ends
  kBitChanged,               // out-of-sync leg at done: the write changed a bit of the slot
  kBitUnchanged,             // it did not
};
inline constexpr int kLegEventCount = static_cast<int>(LegEvent::kBitUnchanged) + 1;

enum class LegEffect : uint8_t {
  kCheckCompletion = 1 << 0,  // the leg became satisfied
  kDone = 1 << 1,             // the leg became done
  kQueue = 1 << 2,            // hand it to the sender (again)
  kSendOutOfSync = 1 << 3,    // hand the out-of-sync packet to the sender
  kPeerWriteFailed = 1 << 4,  // the peer's disk is failing; its state change will follow
  kProtocolError = 1 << 5,    // the peer must not do this: drop the connection; state unchanged
  kForcedOk = 1 << 6,         // barrier ack without the ack before it: log it
};

struct LegStep {
  LegState state;
  uint8_t effects = 0;
  constexpr bool Has(LegEffect effect) const {
    return (effects & static_cast<uint8_t>(effect)) != 0;
  }
  constexpr bool operator==(const LegStep&) const = default;
};

namespace leg_internal {

constexpr LegStep Refuse(LegState state) {
  return {state, static_cast<uint8_t>(LegEffect::kProtocolError)};
}

// Adds the effects that follow from the difference.
constexpr LegStep Finish(LegState before, LegState after, uint8_t effects = 0) {
  if (!before.satisfied() && after.satisfied()) {
    effects |= static_cast<uint8_t>(LegEffect::kCheckCompletion);
  }
  if (!before.done() && after.done()) effects |= static_cast<uint8_t>(LegEffect::kDone);
  return {after, effects};
}

constexpr LegStep PositiveAck(LegState s, bool in_sync) {
  // A done, failed or never queued leg cannot be acked: the peer invented it.
  if (s.done() || s.Has(LegBit::kNegAck)) return Refuse(s);
  LegState next = s.Without(LegBit::kPending).Without(LegBit::kPostponed).With(LegBit::kOk);
  if (in_sync) next = next.With(LegBit::kInSync);
  return Finish(s, next);
}

constexpr LegStep OnSent(LegState s) {
  if (s.Has(LegBit::kOutOfSync)) {
    return Finish(s,
                  s.Without(LegBit::kQueued).Without(LegBit::kReady).Without(LegBit::kOutOfSync));
  }
  LegState next = s.Without(LegBit::kQueued).With(LegBit::kSent);
  // Protocol A: in the socket buffer is good enough.
  if (s.Has(LegBit::kProtoA) && s.Has(LegBit::kPending)) {
    next = next.Without(LegBit::kPending).With(LegBit::kOk);
  }
  return Finish(s, next);
}

constexpr LegStep OnBarrierAck(LegState s) {
  if (s.done()) return Refuse(s);
  LegState next = s.With(LegBit::kDone);
  uint8_t effects = 0;
  if (s.Has(LegBit::kPending)) {
    next = next.Without(LegBit::kPending).Without(LegBit::kPostponed).With(LegBit::kOk);
    // With A the barrier ack may overtake our own note that the payload was handed over.
    if (!s.Has(LegBit::kProtoA)) effects = static_cast<uint8_t>(LegEffect::kForcedOk);
  }
  return Finish(s, next, effects);
}

constexpr LegState GiveUp(LegState s) {
  return s.Without(LegBit::kPending)
      .Without(LegBit::kPostponed)
      .Without(LegBit::kOk)
      .Without(LegBit::kInSync)
      .With(LegBit::kDone);
}

constexpr LegStep OnResend(LegState s) {
  if (s.done() || !s.Has(LegBit::kData)) return {s, 0};
  if (s.Has(LegBit::kPending)) {
    return Finish(s, s.Without(LegBit::kSent).With(LegBit::kQueued).With(LegBit::kReady),
                  static_cast<uint8_t>(LegEffect::kQueue));
  }
  return Finish(s, s.With(LegBit::kDone));  // acked before: as if barrier-acked
}

// Packets of a peer make sense only for data that was handed to it, or is just being handed.
constexpr bool PeerMayAnswer(LegState s) {
  return s.Has(LegBit::kData) &&
         (s.Has(LegBit::kSent) || (s.Has(LegBit::kQueued) && s.Has(LegBit::kReady)));
}

}  // namespace leg_internal

constexpr LegStep Next(LegState s, LegEvent event) {
  using namespace leg_internal;  // NOLINT: the helpers of this function
  switch (event) {
    case LegEvent::kReady:
      if (!s.Has(LegBit::kData) || s.done()) return {s, 0};
      return Finish(s, s.With(LegBit::kReady), static_cast<uint8_t>(LegEffect::kQueue));
    case LegEvent::kSent:
      return s.Has(LegBit::kQueued) ? OnSent(s) : LegStep{s, 0};
    case LegEvent::kSendDropped:
      return Finish(s, s.Without(LegBit::kQueued).Without(LegBit::kOutOfSync));
    case LegEvent::kRecvAck:
      if (!PeerMayAnswer(s) || !s.Has(LegBit::kProtoB)) return Refuse(s);
      return PositiveAck(s, false);
    case LegEvent::kWriteAck:
    case LegEvent::kWriteAckInSync:
      if (!PeerMayAnswer(s)) return Refuse(s);
      return PositiveAck(s, event == LegEvent::kWriteAckInSync);
    case LegEvent::kNegAck:
      if (!PeerMayAnswer(s) || s.done()) return Refuse(s);
      return Finish(s,
                    s.Without(LegBit::kPending)
                        .Without(LegBit::kPostponed)
                        .Without(LegBit::kOk)
                        .Without(LegBit::kInSync)
                        .With(LegBit::kNegAck),
                    static_cast<uint8_t>(LegEffect::kPeerWriteFailed));
    case LegEvent::kBarrierAck:
      return PeerMayAnswer(s) ? OnBarrierAck(s) : Refuse(s);
    case LegEvent::kSuperseded:
      if (!PeerMayAnswer(s) || s.done() || !s.Has(LegBit::kPending)) return Refuse(s);
      return Finish(s, s.Without(LegBit::kPending)
                           .Without(LegBit::kPostponed)
                           .With(LegBit::kOk)
                           .With(LegBit::kDone));
    case LegEvent::kRetryWrite:
      if (!PeerMayAnswer(s) || !s.Has(LegBit::kPending)) return Refuse(s);
      return {s.With(LegBit::kPostponed), 0};
    case LegEvent::kConnectionLost:
      return s.done() ? LegStep{s, 0} : Finish(s, GiveUp(s).Without(LegBit::kHeld));
    case LegEvent::kConnectionLostSuspended:
      if (s.done()) return {s, 0};
      if (s.Has(LegBit::kProtoA)) return Finish(s, GiveUp(s));
      if (s.Has(LegBit::kPending)) return {s.With(LegBit::kHeld), 0};
      return {s, 0};
    case LegEvent::kResend:
      return OnResend(s);
    case LegEvent::kCancelSuspended:
      return s.done() ? LegStep{s, 0} : Finish(s, GiveUp(s));
    case LegEvent::kCompletionResumed:
      return Finish(s, s.Without(LegBit::kHeld));
    case LegEvent::kBitChanged:
      if (!s.Has(LegBit::kOutOfSync)) return {s, 0};
      return {s.With(LegBit::kReady), static_cast<uint8_t>(LegEffect::kSendOutOfSync)};
    case LegEvent::kBitUnchanged:
      if (!s.Has(LegBit::kOutOfSync)) return {s, 0};
      return Finish(s, s.Without(LegBit::kQueued).Without(LegBit::kOutOfSync));
  }
  return {s, 0};
}

// What happens to the slot of a peer when the write is done (A.11). Rounding: setting goes outward
// to bitmap blocks, clearing inward.
enum class DoneBits : uint8_t { kLeave, kSetOutOfSync, kSetInSync };
constexpr DoneBits BitsAtDone(LegState s) {
  if (!s.ok()) return DoneBits::kSetOutOfSync;
  return s.Has(LegBit::kInSync) ? DoneBits::kSetInSync : DoneBits::kLeave;
}

// --- The local leg -------------------------------------------------------------------------------

enum class LocalLeg : uint8_t {
  kNone,         // no local disk
  kPending,      // submitted, or about to be
  kOk,           // stored
  kFailed,       // the disk returned an error
  kAborted,      // given up by a forced detach; the disk has not answered: the buffer stays pinned
  kAbortedDone,  // given up, and the disk answered later
};
enum class LocalEvent : uint8_t { kCompleted, kError, kAbort };

struct LocalStep {
  LocalLeg state = LocalLeg::kNone;
  bool check_completion = false;
  bool io_error = false;  // apply the on-io-error policy
  constexpr bool operator==(const LocalStep&) const = default;
};

constexpr LocalStep Next(LocalLeg s, LocalEvent event) {
  switch (event) {
    case LocalEvent::kCompleted:
      if (s == LocalLeg::kPending) return {LocalLeg::kOk, true, false};
      if (s == LocalLeg::kAborted) return {LocalLeg::kAbortedDone, false, false};
      return {s, false, false};
    case LocalEvent::kError:
      if (s == LocalLeg::kPending) return {LocalLeg::kFailed, true, true};
      if (s == LocalLeg::kAborted) return {LocalLeg::kAbortedDone, false, false};
      return {s, false, false};
    case LocalEvent::kAbort:
      if (s == LocalLeg::kPending) return {LocalLeg::kAborted, true, false};
      return {s, false, false};
  }
  return {s, false, false};
}
constexpr bool Satisfied(LocalLeg s) { return s != LocalLeg::kPending; }
constexpr bool ReferencesPayload(LocalLeg s) {
  return s == LocalLeg::kPending || s == LocalLeg::kAborted;
}

// --- Upper completion (A.10) ---------------------------------------------------------------------

struct CompletionHolds {
  bool generation = false;  // A.15: the generation of a diskless Primary is not confirmed yet
  // on-no-quorum = io-error, and some volume of the resource lacks quorum
  bool quorum_io_error = false;
};
enum class Completion : uint8_t { kWait, kSuccess, kError };

constexpr Completion UpperCompletion(LocalLeg local, std::span<const LegState> legs,
                                     CompletionHolds holds) {
  if (!Satisfied(local) || holds.generation) return Completion::kWait;
  bool ok = local == LocalLeg::kOk;
  for (const LegState& leg : legs) {
    if (!leg.satisfied()) return Completion::kWait;
    ok = ok || leg.ok();
  }
  return ok && !holds.quorum_io_error ? Completion::kSuccess : Completion::kError;
}

// Every leg done: the out-of-sync decision may be taken (once all earlier writes are done too).
constexpr bool AllDone(LocalLeg local, std::span<const LegState> legs) {
  if (!Satisfied(local)) return false;
  for (const LegState& leg : legs) {
    if (!leg.done()) return false;
  }
  return true;
}

}  // namespace umblock::drbd
