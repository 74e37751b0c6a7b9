// A write's legs: the event table of drbd-io-path.md A.9 by hand, then every reachable state with
// every event against the invariants.
#include "engine/drbd/state/request_state.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <set>
#include <vector>

namespace umblock::drbd {
namespace {

using Bit = LegBit;
using Event = LegEvent;

LegState After(LegState state, std::initializer_list<Event> events) {
  for (const Event event : events) {
    const LegStep step = Next(state, event);
    EXPECT_FALSE(step.Has(LegEffect::kProtocolError)) << static_cast<int>(event);
    state = step.state;
  }
  return state;
}

bool Refused(LegState state, Event event) {
  const LegStep step = Next(state, event);
  return step.Has(LegEffect::kProtocolError) && step.state == state;
}

// It is a table, so it can be checked while compiling.
static_assert(Next(Next(DataLeg(AckProtocol::kA), Event::kReady).state, Event::kSent).state.ok());
static_assert(NotChosenLeg().satisfied() && NotChosenLeg().done() && !NotChosenLeg().ok());

TEST(LegTable, RegisteredDataIsQueuedAndPending) {
  const LegState leg = DataLeg(AckProtocol::kC);
  EXPECT_TRUE(leg.Has(Bit::kQueued));
  EXPECT_TRUE(leg.Has(Bit::kPending));
  EXPECT_FALSE(leg.Has(Bit::kReady));
  EXPECT_FALSE(leg.satisfied());
  EXPECT_FALSE(leg.done());
  EXPECT_TRUE(Next(leg, Event::kReady).Has(LegEffect::kQueue));
}

TEST(LegTable, ProtocolAIsOkWhenHandedToTheSocket) {
  const LegState ready = After(DataLeg(AckProtocol::kA), {Event::kReady});
  const LegStep sent = Next(ready, Event::kSent);
  EXPECT_TRUE(sent.Has(LegEffect::kCheckCompletion));
  EXPECT_TRUE(sent.state.ok());
  EXPECT_TRUE(sent.state.satisfied());
  EXPECT_FALSE(sent.state.done());
  const LegStep barrier = Next(sent.state, Event::kBarrierAck);
  EXPECT_TRUE(barrier.Has(LegEffect::kDone));
  EXPECT_FALSE(barrier.Has(LegEffect::kForcedOk));
  EXPECT_EQ(BitsAtDone(barrier.state), DoneBits::kLeave);
}

TEST(LegTable, ProtocolBIsOkWithRecvAck) {
  const LegState sent = After(DataLeg(AckProtocol::kB), {Event::kReady, Event::kSent});
  EXPECT_FALSE(sent.satisfied());
  const LegStep ack = Next(sent, Event::kRecvAck);
  EXPECT_TRUE(ack.Has(LegEffect::kCheckCompletion));
  EXPECT_TRUE(ack.state.ok());
}

TEST(LegTable, ProtocolCIsOkWithWriteAckOnly) {
  const LegState sent = After(DataLeg(AckProtocol::kC), {Event::kReady, Event::kSent});
  EXPECT_TRUE(Refused(sent, Event::kRecvAck)) << "P_RECV_ACK is legal for B only";
  EXPECT_TRUE(Next(sent, Event::kWriteAck).state.ok());
  EXPECT_FALSE(Next(sent, Event::kWriteAck).state.done());
}

TEST(LegTable, WriteAckIsToleratedWithAAndB) {
  const LegState a = After(DataLeg(AckProtocol::kA), {Event::kReady, Event::kSent});
  EXPECT_TRUE(After(a, {Event::kWriteAckInSync}).Has(Bit::kInSync));
  const LegState b =
      After(DataLeg(AckProtocol::kB), {Event::kReady, Event::kSent, Event::kRecvAck});
  EXPECT_TRUE(After(b, {Event::kWriteAck}).ok());
}

TEST(LegTable, InSyncAckClearsTheBitAtDone) {
  const LegState leg =
      After(DataLeg(AckProtocol::kC),
            {Event::kReady, Event::kSent, Event::kWriteAckInSync, Event::kBarrierAck});
  EXPECT_EQ(BitsAtDone(leg), DoneBits::kSetInSync);
}

TEST(LegTable, AckMayOvertakeTheSendCompletion) {
  const LegState ready = After(DataLeg(AckProtocol::kC), {Event::kReady});
  const LegStep ack = Next(ready, Event::kWriteAck);
  EXPECT_TRUE(ack.state.ok());
  EXPECT_FALSE(ack.state.satisfied()) << "the socket still reads the payload (INV-21)";
  EXPECT_TRUE(ack.state.references_payload());
  const LegStep sent = Next(ack.state, Event::kSent);
  EXPECT_TRUE(sent.Has(LegEffect::kCheckCompletion));
  EXPECT_TRUE(sent.state.satisfied());
}

TEST(LegTable, BarrierAckMayOvertakeTheSendCompletionOfA) {
  const LegStep barrier =
      Next(After(DataLeg(AckProtocol::kA), {Event::kReady}), Event::kBarrierAck);
  EXPECT_TRUE(barrier.state.done());
  EXPECT_TRUE(barrier.state.ok());
  EXPECT_FALSE(barrier.Has(LegEffect::kForcedOk));
  EXPECT_FALSE(barrier.state.satisfied());
  EXPECT_TRUE(After(barrier.state, {Event::kSent}).satisfied());
}

TEST(LegTable, AckBeforeAnythingWasSentIsAProtocolError) {
  const LegState queued = DataLeg(AckProtocol::kC);  // not ready: not handed to the sender
  for (const Event event : {Event::kWriteAck, Event::kNegAck, Event::kBarrierAck,
                            Event::kSuperseded, Event::kRetryWrite}) {
    EXPECT_TRUE(Refused(queued, event)) << static_cast<int>(event);
    EXPECT_TRUE(Refused(OutOfSyncLeg(), event)) << static_cast<int>(event);
    EXPECT_TRUE(Refused(NotChosenLeg(), event)) << static_cast<int>(event);
  }
}

TEST(LegTable, NoAckAfterTheBarrierAck) {
  const LegState done = After(DataLeg(AckProtocol::kC),
                              {Event::kReady, Event::kSent, Event::kWriteAck, Event::kBarrierAck});
  for (const Event event :
       {Event::kWriteAck, Event::kWriteAckInSync, Event::kNegAck, Event::kBarrierAck}) {
    EXPECT_TRUE(Refused(done, event)) << static_cast<int>(event);
  }
}

TEST(LegTable, NegAckIsSatisfiedButNotOk) {
  const LegState sent = After(DataLeg(AckProtocol::kC), {Event::kReady, Event::kSent});
  const LegStep neg = Next(sent, Event::kNegAck);
  EXPECT_TRUE(neg.Has(LegEffect::kPeerWriteFailed));
  EXPECT_TRUE(neg.Has(LegEffect::kCheckCompletion));
  EXPECT_FALSE(neg.state.ok());
  EXPECT_TRUE(Refused(neg.state, Event::kWriteAck));
  const LegState done = After(neg.state, {Event::kBarrierAck});
  EXPECT_EQ(BitsAtDone(done), DoneBits::kSetOutOfSync);
}

TEST(LegTable, LateNegAckTakesTheOkBack) {
  const LegState a = After(DataLeg(AckProtocol::kA), {Event::kReady, Event::kSent});
  EXPECT_EQ(BitsAtDone(After(a, {Event::kNegAck, Event::kBarrierAck})), DoneBits::kSetOutOfSync);
}

TEST(LegTable, BarrierAckWithoutTheAckForcesOk) {
  const LegState sent = After(DataLeg(AckProtocol::kC), {Event::kReady, Event::kSent});
  const LegStep barrier = Next(sent, Event::kBarrierAck);
  EXPECT_TRUE(barrier.Has(LegEffect::kForcedOk));
  EXPECT_TRUE(barrier.state.ok());
  EXPECT_TRUE(barrier.state.done());
}

TEST(LegTable, SupersededIsOkAndDone) {
  const LegState sent = After(DataLeg(AckProtocol::kC), {Event::kReady, Event::kSent});
  const LegStep step = Next(sent, Event::kSuperseded);
  EXPECT_TRUE(step.state.ok());
  EXPECT_TRUE(step.Has(LegEffect::kDone));
}

TEST(LegTable, RetryWriteStaysPending) {
  const LegState sent = After(DataLeg(AckProtocol::kC), {Event::kReady, Event::kSent});
  const LegState postponed = After(sent, {Event::kRetryWrite});
  EXPECT_TRUE(postponed.Has(Bit::kPostponed));
  EXPECT_FALSE(postponed.satisfied());
}

// INV-6: sent and not barrier-acked is out of sync, acked or not.
TEST(LegTable, ConnectionLossLosesTheOk) {
  const LegState acked =
      After(DataLeg(AckProtocol::kC), {Event::kReady, Event::kSent, Event::kWriteAck});
  const LegState sent = After(DataLeg(AckProtocol::kC), {Event::kReady, Event::kSent});
  for (const LegState& leg : {acked, sent}) {
    const LegStep lost = Next(leg, Event::kConnectionLost);
    EXPECT_TRUE(lost.Has(LegEffect::kDone));
    EXPECT_TRUE(lost.state.satisfied());
    EXPECT_EQ(BitsAtDone(lost.state), DoneBits::kSetOutOfSync);
  }
  const LegState done = After(acked, {Event::kBarrierAck});
  EXPECT_EQ(Next(done, Event::kConnectionLost).state, done);
}

TEST(LegTable, ConnectionLossWhileQueuedWaitsForTheSender) {
  const LegState lost = After(DataLeg(AckProtocol::kC), {Event::kReady, Event::kConnectionLost});
  EXPECT_FALSE(lost.satisfied());
  const LegStep dropped = Next(lost, Event::kSendDropped);
  EXPECT_TRUE(dropped.state.satisfied());
  EXPECT_TRUE(dropped.Has(LegEffect::kCheckCompletion));
}

// INV-19, A.12: what was pending at a lost B/C peer is held and sent again.
TEST(LegTable, LossWhileSuspendedHoldsAndResends) {
  const LegState held = After(DataLeg(AckProtocol::kC),
                              {Event::kReady, Event::kSent, Event::kConnectionLostSuspended});
  EXPECT_TRUE(held.Has(Bit::kHeld));
  EXPECT_TRUE(held.Has(Bit::kPending));
  EXPECT_FALSE(held.satisfied());
  const LegStep resend = Next(held, Event::kResend);
  EXPECT_TRUE(resend.Has(LegEffect::kQueue));
  EXPECT_TRUE(resend.state.Has(Bit::kQueued));
  EXPECT_FALSE(resend.state.Has(Bit::kSent));
  const LegState acked = After(resend.state, {Event::kSent, Event::kWriteAck});
  EXPECT_FALSE(acked.satisfied()) << "still suspended";
  const LegStep resumed = Next(acked, Event::kCompletionResumed);
  EXPECT_TRUE(resumed.state.satisfied());
  EXPECT_TRUE(resumed.Has(LegEffect::kCheckCompletion));
}

TEST(LegTable, LossWhileSuspendedKeepsWhatWasAcked) {
  const LegState acked =
      After(DataLeg(AckProtocol::kB), {Event::kReady, Event::kSent, Event::kRecvAck});
  EXPECT_EQ(Next(acked, Event::kConnectionLostSuspended).state, acked);
  const LegStep resend = Next(acked, Event::kResend);
  EXPECT_TRUE(resend.state.done());
  EXPECT_TRUE(resend.state.ok());
}

TEST(LegTable, LossWhileSuspendedWithProtocolAIsFinal) {
  const LegState a = After(DataLeg(AckProtocol::kA), {Event::kReady, Event::kSent});
  const LegState lost = After(a, {Event::kConnectionLostSuspended});
  EXPECT_TRUE(lost.done());
  EXPECT_FALSE(lost.ok());
}

TEST(LegTable, ResumeWithoutThePeerCancels) {
  const LegState held = After(DataLeg(AckProtocol::kC),
                              {Event::kReady, Event::kSent, Event::kConnectionLostSuspended});
  const LegState cancelled = After(held, {Event::kCancelSuspended});
  EXPECT_TRUE(cancelled.done());
  EXPECT_FALSE(cancelled.satisfied()) << "the hold goes last";
  const LegState resumed = After(cancelled, {Event::kCompletionResumed});
  EXPECT_TRUE(resumed.satisfied());
  EXPECT_EQ(BitsAtDone(resumed), DoneBits::kSetOutOfSync);
}

TEST(LegTable, OutOfSyncLegNeverHoldsTheWriteUp) {
  const LegState leg = OutOfSyncLeg();
  EXPECT_TRUE(leg.satisfied());
  EXPECT_TRUE(leg.done());
  EXPECT_FALSE(leg.ok());
  EXPECT_FALSE(leg.references_payload());
  const LegStep changed = Next(leg, Event::kBitChanged);
  EXPECT_TRUE(changed.Has(LegEffect::kSendOutOfSync));
  const LegState sent = After(changed.state, {Event::kSent});
  EXPECT_FALSE(sent.Has(Bit::kQueued));
  EXPECT_FALSE(sent.Has(Bit::kOutOfSync));
  const LegState skipped = After(leg, {Event::kBitUnchanged});
  EXPECT_FALSE(skipped.Has(Bit::kQueued));
}

// --- Exhaustive ---

std::set<uint16_t> Reachable() {
  std::set<uint16_t> seen;
  std::vector<LegState> open{DataLeg(AckProtocol::kA), DataLeg(AckProtocol::kB),
                             DataLeg(AckProtocol::kC), OutOfSyncLeg(), NotChosenLeg()};
  while (!open.empty()) {
    const LegState state = open.back();
    open.pop_back();
    if (!seen.insert(state.bits()).second) continue;
    for (int e = 0; e < kLegEventCount; ++e) open.push_back(Next(state, Event(e)).state);
  }
  return seen;
}

TEST(LegTable, EveryReachableStateKeepsTheInvariants) {
  const std::set<uint16_t> states = Reachable();
  EXPECT_GT(states.size(), 30u);
  EXPECT_LT(states.size(), 400u);
  for (const uint16_t bits : states) {
    const LegState state(bits);
    EXPECT_FALSE(state.ok() && state.Has(Bit::kPending)) << bits;
    EXPECT_FALSE(state.ok() && state.Has(Bit::kNegAck)) << bits;
    EXPECT_FALSE(state.Has(Bit::kPending) && state.done()) << bits;
    EXPECT_FALSE(state.Has(Bit::kInSync) && !state.ok()) << bits;
    EXPECT_FALSE(state.ok() && !state.Has(Bit::kData)) << bits;
    EXPECT_FALSE(state.Has(Bit::kOutOfSync) && state.Has(Bit::kData)) << bits;
    for (int e = 0; e < kLegEventCount; ++e) {
      const LegStep step = Next(state, Event(e));
      // Done is for ever, an error changes nothing, effects tell the truth.
      EXPECT_TRUE(!state.done() || step.state.done()) << bits << " " << e;
      if (step.Has(LegEffect::kProtocolError)) {
        EXPECT_EQ(step.state, state);
        EXPECT_EQ(step.effects, static_cast<uint8_t>(LegEffect::kProtocolError));
      }
      EXPECT_EQ(step.Has(LegEffect::kDone), !state.done() && step.state.done()) << bits << " " << e;
      EXPECT_EQ(step.Has(LegEffect::kCheckCompletion), !state.satisfied() && step.state.satisfied())
          << bits << " " << e;
      // What was stored is never taken back after done: the bits were decided.
      if (state.done()) EXPECT_EQ(state.ok(), step.state.ok()) << bits << " " << e;
      // Only sending again makes a satisfied leg unsatisfied.
      if (state.satisfied() && !step.state.satisfied()) {
        ADD_FAILURE() << bits << " became unsatisfied by " << e;
      }
    }
  }
}

// From every reachable state there is a way to done and satisfied: loss of the connection, the
// sender giving up, and the end of a suspension.
TEST(LegTable, LossAlwaysEndsTheLeg) {
  for (const uint16_t bits : Reachable()) {
    LegState state(bits);
    for (const Event event :
         {Event::kConnectionLost, Event::kSendDropped, Event::kCompletionResumed}) {
      state = Next(state, event).state;
    }
    EXPECT_TRUE(state.done()) << bits;
    EXPECT_TRUE(state.satisfied()) << bits;
    EXPECT_FALSE(state.references_payload()) << bits;
  }
}

// --- Local leg and upper completion ---

TEST(LocalLegTable, Transitions) {
  EXPECT_EQ(Next(LocalLeg::kPending, LocalEvent::kCompleted),
            (LocalStep{LocalLeg::kOk, true, false}));
  EXPECT_EQ(Next(LocalLeg::kPending, LocalEvent::kError),
            (LocalStep{LocalLeg::kFailed, true, true}));
  // Forced detach: satisfied, but the buffer stays pinned until the disk answers.
  const LocalStep aborted = Next(LocalLeg::kPending, LocalEvent::kAbort);
  EXPECT_EQ(aborted, (LocalStep{LocalLeg::kAborted, true, false}));
  EXPECT_TRUE(ReferencesPayload(aborted.state));
  for (const auto late : {LocalEvent::kCompleted, LocalEvent::kError}) {
    EXPECT_EQ(Next(aborted.state, late), (LocalStep{LocalLeg::kAbortedDone, false, false}));
  }
  for (const auto end :
       {LocalLeg::kNone, LocalLeg::kOk, LocalLeg::kFailed, LocalLeg::kAbortedDone}) {
    EXPECT_TRUE(Satisfied(end));
    EXPECT_FALSE(ReferencesPayload(end));
    for (const auto event : {LocalEvent::kCompleted, LocalEvent::kError, LocalEvent::kAbort}) {
      EXPECT_EQ(Next(end, event), (LocalStep{end, false, false}));
    }
  }
}

TEST(UpperCompletion, SlowestRequiredLegDecides) {
  const LegState pending = After(DataLeg(AckProtocol::kC), {Event::kReady, Event::kSent});
  const LegState ok = After(pending, {Event::kWriteAck});
  std::array legs{ok, pending, OutOfSyncLeg(), NotChosenLeg()};
  EXPECT_EQ(UpperCompletion(LocalLeg::kOk, legs, {}), Completion::kWait);
  legs[1] = After(legs[1], {Event::kWriteAck});
  EXPECT_EQ(UpperCompletion(LocalLeg::kOk, legs, {}), Completion::kSuccess);
  EXPECT_EQ(UpperCompletion(LocalLeg::kPending, legs, {}), Completion::kWait);
}

TEST(UpperCompletion, OneGoodCopyIsSuccess) {
  const LegState ok =
      After(DataLeg(AckProtocol::kC), {Event::kReady, Event::kSent, Event::kWriteAck});
  const LegState failed =
      After(DataLeg(AckProtocol::kC), {Event::kReady, Event::kSent, Event::kNegAck});
  EXPECT_EQ(UpperCompletion(LocalLeg::kFailed, std::array{ok}, {}), Completion::kSuccess);
  EXPECT_EQ(UpperCompletion(LocalLeg::kNone, std::array{ok, failed}, {}), Completion::kSuccess);
  EXPECT_EQ(UpperCompletion(LocalLeg::kOk, std::array{failed}, {}), Completion::kSuccess);
  EXPECT_EQ(UpperCompletion(LocalLeg::kFailed, std::array{failed}, {}), Completion::kError);
  EXPECT_EQ(UpperCompletion(LocalLeg::kNone, {}, {}), Completion::kError);
  EXPECT_EQ(UpperCompletion(LocalLeg::kNone, std::array{OutOfSyncLeg()}, {}), Completion::kError);
  EXPECT_EQ(UpperCompletion(LocalLeg::kAborted, std::array{failed}, {}), Completion::kError);
}

TEST(UpperCompletion, HoldsAndQuorum) {
  EXPECT_EQ(UpperCompletion(LocalLeg::kOk, {}, {.generation = true}), Completion::kWait);
  EXPECT_EQ(UpperCompletion(LocalLeg::kOk, {}, {.quorum_io_error = true}), Completion::kError);
}

TEST(UpperCompletion, DoneComesLater) {
  const LegState acked =
      After(DataLeg(AckProtocol::kC), {Event::kReady, Event::kSent, Event::kWriteAck});
  EXPECT_FALSE(AllDone(LocalLeg::kOk, std::array{acked, NotChosenLeg()}));
  EXPECT_TRUE(
      AllDone(LocalLeg::kOk, std::array{After(acked, {Event::kBarrierAck}), NotChosenLeg()}));
  EXPECT_FALSE(AllDone(LocalLeg::kPending, {}));
}

}  // namespace
}  // namespace umblock::drbd
