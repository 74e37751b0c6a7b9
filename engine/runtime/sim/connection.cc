#include "engine/runtime/sim/connection.h"

#include <algorithm>
#include <cerrno>

#include "engine/runtime/sim/network.h"
#include "engine/runtime/sim/node.h"
#include "engine/runtime/sim/stream.h"

namespace umblock {
namespace {

constexpr Duration kLongestRetransmit = 2s;
constexpr Duration kLongestNotice = 20ms;

}  // namespace

void SimByteQueue::Push(Bytes bytes) {
  Compact();
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

void SimByteQueue::PushFront(Bytes bytes) {
  std::vector<std::byte> joined(bytes.begin(), bytes.end());
  joined.insert(joined.end(), bytes_.begin() + static_cast<ptrdiff_t>(head_), bytes_.end());
  bytes_ = std::move(joined);
  head_ = 0;
}

std::vector<std::byte> SimByteQueue::Pop(size_t n) {
  auto first = bytes_.begin() + static_cast<ptrdiff_t>(head_);
  std::vector<std::byte> out(first, first + static_cast<ptrdiff_t>(n));
  head_ += n;
  return out;
}

size_t SimByteQueue::PopInto(std::span<const iovec> buffers, size_t limit) {
  size_t done = 0;
  for (const iovec& part : buffers) {
    const size_t n = std::min({part.iov_len, size(), limit - done});
    if (n != 0) std::memcpy(part.iov_base, bytes_.data() + head_, n);
    head_ += n;
    done += n;
  }
  return done;
}

void SimByteQueue::Clear() {
  bytes_.clear();
  head_ = 0;
}

void SimByteQueue::Compact() {
  if (head_ < bytes_.size() / 2) return;
  bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<ptrdiff_t>(head_));
  head_ = 0;
}

SimConnection::SimConnection(SimNetwork& network, uint64_t id, const EndSetup& client,
                             const EndSetup& server)
    : network_(network), world_(network.world()), id_(id) {
  const EndSetup* setups[2] = {&client, &server};
  const SimLinkOptions& link = network.link;
  for (int end = 0; end < 2; ++end) {
    const EndSetup& own = *setups[end];
    const EndSetup& other = *setups[1 - end];
    ends_[end].node = own.node;
    ends_[end].incarnation = own.incarnation;
    ends_[end].address = own.address;
    Pipe& pipe = pipes_[end];
    pipe.send_buffer = own.options.send_buffer_bytes != 0
                           ? own.options.send_buffer_bytes
                           : network.random().Between(link.min_buffer, link.max_buffer);
    pipe.receive_buffer = other.options.receive_buffer_bytes != 0
                              ? other.options.receive_buffer_bytes
                              : network.random().Between(link.min_buffer, link.max_buffer);
  }
}

bool SimConnection::dead() const {
  for (int end = 0; end < 2; ++end) {
    if (!ends_[end].closed && ends_[end].error == 0) return false;
    if (!pipes_[end].dead && !pipes_[end].waiting.empty()) return false;
    if (!pipes_[end].wire.empty()) return false;
  }
  return true;
}

bool SimConnection::established(int end) const {
  const End& own = ends_[end];
  return own.error == 0 && !own.closed && !own.fin_received && !own.shutdown_sent;
}

void SimConnection::Attach(int end, SimStream* stream) { ends_[end].stream = stream; }

size_t SimConnection::InFlight(const Pipe& pipe) const {
  return pipe.accepted - pipe.waiting.size() - pipe.delivered;
}

size_t SimConnection::Send(int end, std::span<const iovec> buffers, size_t skip) {
  Pipe& pipe = pipes_[end];
  const uint64_t unacked = pipe.accepted - pipe.acked;
  size_t room = unacked < pipe.send_buffer ? pipe.send_buffer - unacked : 0;
  size_t taken = 0;
  for (const iovec& part : buffers) {
    if (skip >= part.iov_len) {
      skip -= part.iov_len;
      continue;
    }
    const size_t n = std::min(part.iov_len - skip, room);
    if (n == 0) break;
    const Bytes bytes(static_cast<const std::byte*>(part.iov_base) + skip, n);
    pipe.waiting.Push(bytes);
    pipe.accepted += n;
    if (network_.tap() != nullptr) network_.tap()(*this, end, bytes);
    room -= n;
    taken += n;
    skip = 0;
  }
  if (taken != 0) {
    world_.Note(SimMix(id_, static_cast<uint64_t>(end)), taken);
    Pump(end);
  }
  return taken;
}

void SimConnection::Pump(int from) {
  Pipe& pipe = pipes_[from];
  if (pipe.dead || pipe.blocked) {
    StartGiveUp(from);
    return;
  }
  SimRandom& random = network_.random();
  while (!pipe.waiting.empty()) {
    const size_t used = pipe.delivered - pipe.consumed + InFlight(pipe);
    if (used >= pipe.receive_buffer) return;
    size_t n = std::min(
        {pipe.waiting.size(), pipe.receive_buffer - used, size_t{network_.link.max_segment}});
    if (random.OneIn(4)) n = 1 + random.Below(n);
    const auto transfer =
        Duration(static_cast<int64_t>(n * 1'000'000'000 / network_.link.bytes_per_second));
    pipe.link_free = std::max(pipe.link_free, world_.now()) + transfer;
    pipe.last_arrival = std::max(pipe.last_arrival, pipe.link_free + network_.Latency());
    pipe.wire.push_back({pipe.last_arrival, pipe.waiting.Pop(n)});
    world_.At(pipe.last_arrival, SimEventKind::kNetwork,
              [self = shared_from_this(), from] { self->Arrive(from); });
  }
  if (pipe.fin_queued && !pipe.fin_sent) {
    pipe.fin_sent = true;
    pipe.last_arrival = std::max(pipe.last_arrival, world_.now() + network_.Latency());
    pipe.wire.push_back({pipe.last_arrival, {}, true});
    world_.At(pipe.last_arrival, SimEventKind::kNetwork,
              [self = shared_from_this(), from] { self->Arrive(from); });
  }
}

void SimConnection::PumpLater(int from, Duration delay) {
  if (pipes_[from].pump_scheduled) return;
  pipes_[from].pump_scheduled = true;
  world_.After(delay, SimEventKind::kNetwork, [self = shared_from_this(), from] {
    self->pipes_[from].pump_scheduled = false;
    self->Pump(from);
  });
}

void SimConnection::Arrive(int from) {
  Pipe& pipe = pipes_[from];
  while (!pipe.wire.empty() && pipe.wire.front().arrival <= world_.now()) {
    Segment segment = std::move(pipe.wire.front());
    pipe.wire.pop_front();
    Deliver(from, std::move(segment));
  }
}

void SimConnection::Deliver(int from, Segment segment) {
  Pipe& pipe = pipes_[from];
  End& to = ends_[1 - from];
  if (to.closed || to.error != 0) {
    if (!segment.bytes.empty()) SendReset(1 - from);
    return;
  }
  bool cut = false;
  if (pipe.cut_at && pipe.delivered + segment.bytes.size() >= *pipe.cut_at) {
    segment.bytes.resize(*pipe.cut_at - pipe.delivered);
    segment.fin = false;
    cut = true;
  }
  pipe.received.Push(segment.bytes);
  pipe.delivered += segment.bytes.size();
  world_.Note(SimMix(id_, pipe.delivered), static_cast<uint64_t>(from));
  if (segment.fin) to.fin_received = true;
  if (!segment.bytes.empty()) ScheduleAck(from);
  if (to.stream != nullptr) to.stream->TryReceive();
  if (cut) ReachedCut(from);
}

void SimConnection::ScheduleAck(int from) {
  Pipe& pipe = pipes_[from];
  if (pipe.ack_scheduled) return;
  pipe.ack_scheduled = true;
  world_.After(network_.Latency(), SimEventKind::kNetwork, [self = shared_from_this(), from] {
    self->pipes_[from].ack_scheduled = false;
    self->Acknowledge(from);
  });
}

void SimConnection::Acknowledge(int from) {
  Pipe& pipe = pipes_[from];
  if (network_.Blocked(*ends_[1 - from].node, *ends_[from].node)) {
    pipe.ack_owed = true;
    StartGiveUp(from);
    return;
  }
  pipe.ack_owed = false;
  pipe.acked = pipe.delivered;
  if (ends_[from].stream != nullptr) ends_[from].stream->TrySend();
  if (!pipe.waiting.empty()) Pump(from);
}

std::optional<int32_t> SimConnection::Receive(int end, std::span<const iovec> buffers) {
  Pipe& pipe = pipes_[1 - end];
  if (!pipe.received.empty()) {
    size_t limit = pipe.received.size();
    if (network_.random().OneIn(4)) limit = 1 + network_.random().Below(limit);
    const size_t n = pipe.received.PopInto(buffers, limit);
    pipe.consumed += n;
    if (!pipe.waiting.empty()) PumpLater(1 - end, network_.Latency());
    return static_cast<int32_t>(n);
  }
  if (ends_[end].error != 0) return -ends_[end].error;
  if (ends_[end].fin_received) return 0;
  return std::nullopt;
}

void SimConnection::StartGiveUp(int from) {
  Pipe& pipe = pipes_[from];
  if (pipe.giving_up || pipe.accepted == pipe.acked || ends_[from].error != 0) return;
  pipe.giving_up = true;
  world_.After(network_.link.give_up, SimEventKind::kNetwork,
               [self = shared_from_this(), from, mark = pipe.acked] {
                 Pipe& later = self->pipes_[from];
                 later.giving_up = false;
                 if (!later.blocked && !later.dead && !later.ack_owed) return;
                 if (later.acked != mark) {
                   self->StartGiveUp(from);
                 } else if (later.accepted != later.acked) {
                   self->Break(from, ETIMEDOUT);
                 }
               });
}

void SimConnection::Break(int end, int error) {
  End& own = ends_[end];
  if (own.error != 0 || own.closed) return;
  own.error = error;
  world_.Note(id_, static_cast<uint64_t>(error));
  pipes_[end].waiting.Clear();
  pipes_[end].dead = true;
  // What was received and not read yet may still be read, or is lost with the socket.
  if (network_.random().OneIn(2)) pipes_[1 - end].received.Clear();
  if (own.stream == nullptr) return;
  own.stream->TryReceive();
  own.stream->TrySend();
}

void SimConnection::BreakLater(int end, int error, Duration delay) {
  world_.After(delay, SimEventKind::kNetwork,
               [self = shared_from_this(), end, error] { self->Break(end, error); });
}

void SimConnection::SendReset(int from_end) {
  if (network_.Blocked(*ends_[from_end].node, *ends_[1 - from_end].node)) return;
  BreakLater(1 - from_end, ECONNRESET, network_.Latency());
}

// Of what is on the wire some still arrives; nothing else ever does.
void SimConnection::Truncate(Pipe& pipe) {
  pipe.dead = true;
  uint64_t keep = network_.random().Below(InFlight(pipe) + 1);
  std::deque<Segment> kept;
  for (Segment& segment : pipe.wire) {
    if (segment.bytes.size() > keep) segment.bytes.resize(keep);
    keep -= segment.bytes.size();
    segment.fin = false;
    if (segment.bytes.empty()) break;
    kept.push_back(std::move(segment));
  }
  pipe.wire = std::move(kept);
}

void SimConnection::Cut(bool silent, bool at_once) {
  world_.Note(id_, 31);
  for (int end = 0; end < 2; ++end) {
    Truncate(pipes_[end]);
    if (silent) {
      StartGiveUp(end);
    } else {
      BreakLater(end, ECONNRESET,
                 at_once ? Duration(0) : network_.random().Between(Duration(0), kLongestNotice));
    }
  }
}

void SimConnection::CutAfter(int from_end, uint64_t bytes, bool silent) {
  Pipe& pipe = pipes_[from_end];
  pipe.cut_at = pipe.delivered + bytes;
  pipe.cut_silent = silent;
  pipe.cut_mutes = false;
  if (bytes == 0) ReachedCut(from_end);
}

void SimConnection::MuteAfter(int from_end, uint64_t bytes) {
  Pipe& pipe = pipes_[from_end];
  pipe.cut_at = pipe.delivered + bytes;
  pipe.cut_mutes = true;
  if (bytes == 0) ReachedCut(from_end);
}

void SimConnection::Hold(Duration duration) {
  for (Pipe& pipe : pipes_) {
    pipe.last_arrival = std::max(pipe.last_arrival, world_.now() + duration);
  }
}

void SimConnection::ReachedCut(int from) {
  Pipe& pipe = pipes_[from];
  pipe.cut_at.reset();
  pipe.struck = true;
  pipe.wire.clear();
  pipe.dead = true;
  if (pipe.cut_mutes) {
    StartGiveUp(from);
  } else {
    Cut(pipe.cut_silent);
  }
}

void SimConnection::ShutdownSend(int end) {
  End& own = ends_[end];
  if (own.shutdown_sent || own.closed || own.error != 0) return;
  own.shutdown_sent = true;
  pipes_[end].fin_queued = true;
  Pump(end);
}

void SimConnection::Close(int end) {
  End& own = ends_[end];
  if (own.closed) return;
  own.closed = true;
  own.stream = nullptr;
  if (own.error != 0) return;
  if (!pipes_[1 - end].received.empty()) {
    pipes_[end].waiting.Clear();
    pipes_[end].dead = true;
    SendReset(end);
    return;
  }
  pipes_[end].fin_queued = true;
  Pump(end);
}

void SimConnection::OnOwnerDied(int end, bool power_cut) {
  End& own = ends_[end];
  own.incarnation = nullptr;
  if (own.closed) return;
  if (!power_cut) {
    Close(end);
    return;
  }
  own.stream = nullptr;
  own.closed = true;
  own.gone = true;
  pipes_[end].waiting.Clear();
  pipes_[end].dead = true;
  pipes_[1 - end].received.Clear();
}

void SimConnection::OnPathChanged(int from, bool blocked) {
  Pipe& pipe = pipes_[from];
  if (pipe.blocked == blocked) return;
  pipe.blocked = blocked;
  if (!blocked) {
    const Duration silence = world_.now() - pipe.blocked_since;
    PumpLater(from, network_.random().Between(Duration(0), std::min(silence, kLongestRetransmit)));
    if (pipes_[1 - from].ack_owed) ScheduleAck(1 - from);
    return;
  }
  pipe.blocked_since = world_.now();
  const size_t kept = network_.random().Below(pipe.wire.size() + 1);
  while (pipe.wire.size() > kept) {
    Segment lost = std::move(pipe.wire.back());
    pipe.wire.pop_back();
    if (lost.fin) pipe.fin_sent = false;
    if (!pipe.dead) pipe.waiting.PushFront(lost.bytes);
  }
  StartGiveUp(from);
}

}  // namespace umblock
