// The life of a link: sockets, features, authentication, connect, loss.
#include "engine/drbd/core/connection.h"

#include <cerrno>

#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/wire/auth.h"

namespace umblock::drbd {

Connection::HandshakeTimer::HandshakeTimer(Connection* c)
    : Timer([](Timer* self) noexcept {
        Connection* of = static_cast<HandshakeTimer*>(self)->connection;
        of->Fail(ConnectionState::kNetworkFailure, "the peer went silent during the handshake");
      }),
      connection(c) {}

Connection::UnexpectedSocket::UnexpectedSocket(Connection* c)
    : umblock::Completion([](umblock::Completion* self, int32_t) noexcept {
        // The peer dials again: it has probably restarted. A ping finds out whether the link lives.
        Connection* of = static_cast<UnexpectedSocket*>(self)->connection;
        if (of->up() && of->negotiated_) of->SendPing();
      }),
      connection(c) {}

Connection::Connection(ResourceImpl& resource, PeerConfig config)
    : resource_(resource),
      reactor_(resource.reactor()),
      config_(std::move(config)),
      name_(fmt::format("connection {}/{}", resource.name(), config_.node_id)),
      connector_(reactor_, resource.listeners()),
      data_queue_(reactor_, *this),
      control_queue_(reactor_, *this),
      buffers_(reactor_, size_t{config_.net.max_buffers} * 4096 + (size_t{4} << 20)),
      writes_(*this),
      reads_(*this),
      run_task_(reactor_),
      failure_event_(reactor_),
      unexpected_socket_(this),
      ping_event_(reactor_),
      handshake_timer_(this) {
  connector_.set_unexpected(&unexpected_socket_);
}

Connection::~Connection() { UMBLOCK_ASSERT(!running_, "a connection is stopped before it goes"); }

const PeerState& Connection::state() const { return resource_.state().peer(config_.node_id); }

void Connection::SetState(ConnectionState next, std::string_view reason) {
  if (state().connection == next) return;
  StateCheck check = resource_.Change(reason, {.hard = true}, [this, next](ResourceState& to) {
    to.peer(config_.node_id).connection = next;
  });
  if (!check) {
    resource_.logger().Error("{}: cannot become {}: {}", name_, ConnectionStateName(next),
                             check.error().text());
  }
}

Task<Status> Connection::Start(ConnectOptions options) {
  connect_options_ = options;
  if (wanted_) co_return Ok();
  co_await run_task_.Join();
  UMBLOCK_CO_TRY(co_await connector_.Open(config_.paths, config_.net));
  wanted_ = true;
  running_ = true;
  last_error_.clear();
  failures_.Clear();
  cancel_ = std::make_unique<CancelSource>();
  SetState(ConnectionState::kUnconnected, "connect was asked for");
  run_task_.Spawn(Run());
  co_return Ok();
}

Task<void> Connection::Stop() {
  wanted_ = false;
  if (cancel_ != nullptr) cancel_->Cancel();
  Fail(ConnectionState::kDisconnecting, "disconnect was asked for");
  co_await run_task_.Join();
}

Task<void> Connection::Run() {
  while (wanted_) {
    SetState(ConnectionState::kConnecting, "looking for the peer");
    Result<LinkSockets> sockets = co_await connector_.Run(*cancel_);
    if (!sockets || !wanted_) {
      if (sockets) {
        co_await sockets->data->Close();
        co_await sockets->control->Close();
      }
      break;
    }
    retry_soon_ = false;
    co_await Session(std::move(*sockets));
    if (failure_ == ConnectionState::kDisconnecting) {
      wanted_ = false;
      break;
    }
    SetState(ConnectionState::kUnconnected, "the old link is cleaned up");
    if (!retry_soon_) co_await Sleep(reactor_, 1s, *cancel_);
  }
  if (state().connection != ConnectionState::kStandAlone) {
    SetState(ConnectionState::kDisconnecting, "giving up");
    SetState(ConnectionState::kStandAlone, last_error_.empty() ? "disconnected" : last_error_);
  }
  co_await connector_.Close();
  connect_options_ = {};
  running_ = false;
  resource_.changed().NotifyAll();
}

void Connection::Fail(ConnectionState next, std::string reason) {
  if (!link_up_ || failed_) return;
  if (leaving_) {
    peer_gone_ = true;  // whoever said goodbye ends the link
    failure_event_.NotifyAll();
    return;
  }
  failed_ = true;
  failure_ = next;
  LogFailure(fmt::format("{}: {}", ConnectionStateName(next), reason));
  last_error_ = std::move(reason);
  data_->Abort();
  control_->Abort();
  session_tasks_->Cancel();
  failure_event_.NotifyAll();
  ping_event_.NotifyAll();
}

void Connection::LogFailure(std::string_view reason) {
  std::optional<uint64_t> times = failures_.Add(reason, reactor_.Now());
  if (!times) return;
  resource_.logger().Warn("{}: {}{}", name_, reason,
                          *times == 1 ? "" : fmt::format(" ({} times since it was said)", *times));
}

void Connection::NoteRefusal(std::string reason) {
  LogFailure(fmt::format("not connected: {}", reason));
  last_error_ = std::move(reason);
}

void Connection::OnConnectAborted() {
  if (handshake_.begun() && handshake_reason_.empty()) {
    last_error_ = "the peer does not connect for now; its status says why";
  }
  handshake_.End();
}

void Connection::FailWith(const Error& error) {
  switch (error.code()) {
    case ErrorCode::kFailedPrecondition:
      Fail(ConnectionState::kDisconnecting, error.message());
      break;
    case ErrorCode::kInvalidArgument:
      Fail(ConnectionState::kProtocolError, error.message());
      break;
    case ErrorCode::kDeadlineExceeded:
      Fail(ConnectionState::kTimeout, error.message());
      break;
    default:
      Fail(ConnectionState::kBrokenPipe, error.message());
  }
}

Task<void> Connection::Session(LinkSockets sockets) {
  data_ = std::move(sockets.data);
  control_ = std::move(sockets.control);
  resolve_conflicts_ = sockets.resolve_conflicts;
  data_reader_ = std::make_unique<PacketReader>(*data_);
  control_reader_ = std::make_unique<PacketReader>(*control_);
  session_tasks_ = std::make_unique<TaskGroup>(reactor_);
  agreed_ = {};
  agreed_.phase = wire::ConnectPhase::kFeatures;
  failed_ = false;
  link_up_ = true;
  negotiated_ = false;
  protocol_seen_ = false;
  failure_ = ConnectionState::kUnconnected;
  pings_sent_ = ping_acks_ = 0;
  owed_ping_acks_ = 0;
  last_control_ = reactor_.Now();
  sent_dagtag_known_ = false;
  first_dagtag_ = 0;
  epoch_writes_ = 0;
  ap_in_flight_ = 0;
  sent_barriers_.clear();
  ++session_;
  has_been_connected_ = has_been_connected_ || connected_now_;
  connected_now_ = false;
  handshake_.End();
  for (auto& [number, volume] : resource_.volumes()) volume->peer(node())->OnConnecting();
  data_queue_.Start(data_.get(), config_.net.timeout, config_.net.ko_count);
  control_queue_.Start(control_.get(), config_.net.timeout, 1);

  session_tasks_->Spawn(ControlLoop());
  reactor_.ArmIn(&handshake_timer_, 4 * config_.net.ping_timeout);
  Status status = co_await Negotiate();
  if (!status) {
    FailWith(status.error());
  } else if (!failed_) {
    negotiated_ = true;
    for (; owed_ping_acks_ > 0; --owed_ping_acks_) {
      SendEmpty(wire::SocketKind::kControl, wire::PacketType::kPingAck);
    }
    SendProtocol(wire::PacketType::kProtocol);
    ArmHandshakeTimer();
    session_tasks_->Spawn(DataLoop());
    session_tasks_->Spawn(KeepAlive());
    if (StartsConnect(resource_.own_node(), node())) {
      session_tasks_->Spawn(RunConnectTransaction());
    }
  }
  while (!failed_) co_await failure_event_.Wait();
  co_await CleanUp();
}

void Connection::ArmHandshakeTimer() {
  if (state().connected()) {
    handshake_timer_.Disarm();
  } else {
    reactor_.ArmIn(&handshake_timer_, 10 * config_.net.ping_timeout);
  }
}

// --- features and authentication
// -------------------------------------------------------------------

Task<Result<wire::Header>> Connection::ExpectHeader(wire::PacketType type) {
  Result<wire::Header> header = co_await data_reader_->Next();
  if (!header) co_return header;
  if (header->type != type) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "the peer sent {} where {} was due; is authentication configured on one "
                        "side only?",
                        wire::PacketName(header->type), wire::PacketName(type));
  }
  UMBLOCK_CO_TRY(wire::CheckHeader(*header, wire::SocketKind::kData, agreed_));
  co_return header;
}

Task<Status> Connection::Negotiate() {
  const LinkOffer& offer = resource_.offer();
  uint32_t features = offer.features;
  // A kernel reads a digest behind P_ZEROES that kernels do not send (drbd-wire.md 6.2).
  if (!config_.net.data_integrity_alg.empty()) features &= ~wire::kFeatureWzeroes;
  wire::ConnectionFeatures own;
  own.protocol_min = static_cast<uint32_t>(offer.protocol_min);
  own.protocol_max = static_cast<uint32_t>(offer.protocol_max);
  own.feature_flags = features;
  own.sender_node_id = static_cast<uint32_t>(resource_.own_node());
  own.receiver_node_id = static_cast<uint32_t>(node());
  MutableBytes out = data_queue_.Append(wire::kMinHeaderSize + wire::ConnectionFeatures::kSize);
  wire::EncodeHeader({.type = wire::PacketType::kConnectionFeatures,
                      .volume = 0,
                      .length = wire::ConnectionFeatures::kSize,
                      .kind = wire::HeaderKind::kH80},
                     out);
  wire::Encode(own, out.subspan(wire::kMinHeaderSize));

  Result<wire::Header> header = co_await ExpectHeader(wire::PacketType::kConnectionFeatures);
  if (!header) co_return std::unexpected(header.error());
  Result<Bytes> payload = co_await data_reader_->Small(header->length);
  if (!payload) co_return std::unexpected(payload.error());
  std::optional<wire::ConnectionFeatures> theirs = wire::ConnectionFeatures::Decode(*payload);
  if (!theirs) {
    co_return MakeError(ErrorCode::kFailedPrecondition, "the peer's feature packet is malformed");
  }
  UMBLOCK_CO_TRY(EvaluateFeatures(*theirs, features));
  if (!config_.net.cram_hmac_alg.empty()) UMBLOCK_CO_TRY(co_await Authenticate());
  agreed_.phase = wire::ConnectPhase::kConnected;
  own_digest_.reset();
  if (!config_.net.data_integrity_alg.empty()) {
    Result<wire::Digest> digest = wire::Digest::Create(config_.net.data_integrity_alg);
    if (!digest) {
      co_return MakeError(ErrorCode::kFailedPrecondition, "data-integrity-alg: {}",
                          digest.error().message());
    }
    own_digest_.emplace(std::move(*digest));
  }
  co_return Ok();
}

// drbd-wire.md 3.2, in its order.
Status Connection::EvaluateFeatures(const wire::ConnectionFeatures& theirs, uint32_t own_features) {
  const LinkOffer& offer = resource_.offer();
  int theirs_min = static_cast<int>(theirs.protocol_min);
  int theirs_max = static_cast<int>(theirs.protocol_max);
  if (offer.protocol_max < theirs_min || offer.protocol_min > theirs_max) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "no common protocol: the peer speaks {} to {}, this node {} to {}", theirs_min,
                     theirs_max, offer.protocol_min, offer.protocol_max);
  }
  if (theirs_max > wire::kProtocolMax84 && theirs_max < wire::kProtocolMin9) {
    return MakeError(
        ErrorCode::kFailedPrecondition,
        "the peer speaks the early DRBD 9 protocol {}, which nobody supports any more; "
        "upgrade it",
        theirs_max);
  }
  agreed_.protocol = std::min(offer.protocol_max, theirs_max);
  agreed_.features = own_features & theirs.feature_flags;
  if (agreed_.protocol == 121 && (agreed_.features & wire::kFeatureResyncDagtag) != 0) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "protocol 121 with the resync-dagtag feature is the faulty 9.2.0 to 9.2.2; "
                     "upgrade the peer");
  }
  if (static_cast<int>(theirs.sender_node_id) != node() ||
      static_cast<int>(theirs.receiver_node_id) != resource_.own_node()) {
    return MakeError(ErrorCode::kUnavailable,
                     "node ids do not fit: the peer is {} and expects {}, configured are {} and {}",
                     theirs.sender_node_id, theirs.receiver_node_id, node(), resource_.own_node());
  }
  resource_.logger().Info("{}: agreed on protocol {} and features 0x{:x}", name_, agreed_.protocol,
                          agreed_.features);
  return Ok();
}

Task<Status> Connection::Authenticate() {
  agreed_.phase = wire::ConnectPhase::kAuthentication;
  const NetOptions& net = config_.net;
  wire::AuthChallenge own;
  reactor_.FillRandom(own.bytes);
  SendPacket(wire::SocketKind::kData, wire::PacketType::kAuthChallenge, wire::kNoVolume, own);

  Result<wire::Header> header = co_await ExpectHeader(wire::PacketType::kAuthChallenge);
  if (!header) co_return std::unexpected(header.error());
  Result<Bytes> payload = co_await data_reader_->Small(header->length);
  if (!payload) co_return std::unexpected(payload.error());
  std::optional<wire::AuthChallenge> theirs = wire::AuthChallenge::Decode(*payload);
  if (!theirs) co_return MakeError(ErrorCode::kFailedPrecondition, "a malformed challenge");
  if (*theirs == own) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "the peer sent our own challenge back: somebody reflects packets");
  }
  Result<wire::AuthResponse> answer =
      wire::ComputeAuthResponse(net.cram_hmac_alg, net.shared_secret, theirs->bytes,
                                agreed_.protocol, static_cast<uint32_t>(resource_.own_node()));
  if (!answer) co_return MakeError(ErrorCode::kFailedPrecondition, "{}", answer.error().message());
  MutableBytes out = data_queue_.Append(wire::kMaxHeaderSize + answer->size);
  wire::EncodeHeader({.type = wire::PacketType::kAuthResponse,
                      .volume = wire::kNoVolume,
                      .length = static_cast<uint32_t>(answer->size)},
                     out);
  std::copy_n(answer->bytes.begin(), answer->size, out.begin() + wire::kMaxHeaderSize);

  header = co_await ExpectHeader(wire::PacketType::kAuthResponse);
  if (!header) co_return std::unexpected(header.error());
  payload = co_await data_reader_->Small(header->length);
  if (!payload) co_return std::unexpected(payload.error());
  Result<wire::AuthResponse> expected =
      wire::ComputeAuthResponse(net.cram_hmac_alg, net.shared_secret, own.bytes, agreed_.protocol,
                                static_cast<uint32_t>(node()));
  if (!expected || !wire::AuthResponseMatches(*expected, *payload)) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "authentication failed: the peer does not know the shared secret");
  }
  co_return Ok();
}

// --- connect
// ---------------------------------------------------------------------------------------

Task<void> Connection::RunConnectTransaction() {
  CancelToken cancel = session_tasks_->token();
  while (!failed_ && !state().connected()) {
    int peer = node();
    StateResult result = co_await resource_.transactions().Run(
        {.proposal = ProposeConnect(peer, resource_.state().role),
         .apply =
             [this](const TransactionCommit& commit) {
               Role role =
                   Contains(commit.primary_nodes, node()) ? Role::kPrimary : Role::kSecondary;
               resource_.ApplyConnect(node(), role);
             },
         .check = nullptr,
         .retry = false});
    if (failed_) co_return;
    auto policy = static_cast<AfterSplitBrain>(config_.net.rr_conflict);
    switch (AfterConnect(result, policy, false)) {
      case ConnectFollowUp::kConnected:
        co_return;
      case ConnectFollowUp::kRetryIn50Ms:
        handshake_.End();
        co_await Sleep(reactor_, 50ms, cancel);
        break;
      case ConnectFollowUp::kOutdateAndRetryIn1s:
        resource_.OutdateWouldBeTargets(*this);
        // Between two attempts nothing is being set up: other acts may come through.
        handshake_.End();
        if (handshake_reason_.empty()) {
          NoteRefusal(fmt::format("the peer does not connect for now: {}; its status says why",
                                  StateResultText(result)));
        } else {
          NoteRefusal(handshake_reason_);
        }
        ArmHandshakeTimer();
        co_await Sleep(reactor_, 1s, cancel);
        break;
      case ConnectFollowUp::kWaitForReaders:
        handshake_.End();
        co_await Sleep(reactor_, 500ms, cancel);
        break;
      case ConnectFollowUp::kDisconnect: {
        std::string why = handshake_reason_.empty()
                              ? fmt::format("the connect was refused: {}", StateResultText(result))
                              : handshake_reason_;
        SendEmpty(wire::SocketKind::kData, wire::PacketType::kDisconnect);
        co_await data_queue_.WaitBelow(1, config_.net.timeout);
        resource_.OutdateWouldBeTargets(*this);
        co_await AwaitPeerClose();
        Fail(ConnectionState::kDisconnecting, std::move(why));
        co_return;
      }
      case ConnectFollowUp::kNetworkFailure:
        Fail(ConnectionState::kNetworkFailure,
             fmt::format("the connect failed: {}", StateResultText(result)));
        co_return;
    }
  }
}

// --- loss
// ------------------------------------------------------------------------------------------

Task<void> Connection::CleanUp() {
  bool was_connected = state().connected();
  bool peer_was_primary = state().role == Role::kPrimary;
  handshake_timer_.Disarm();
  SetState(failure_, last_error_);
  retry_soon_ = was_connected;
  handshake_.End();
  resource_.transactions().OnConnectionLost(node());

  co_await session_tasks_->Join();
  co_await data_queue_.Stop();
  co_await control_queue_.Stop();
  co_await data_->Close();
  co_await control_->Close();
  for (auto& [number, volume] : resource_.volumes()) {
    PeerDevice* device = volume->peer(node());
    co_await device->target.Stop();
    co_await device->source.Stop();
    co_await device->verify_source.Stop();
    co_await device->verify_target.Stop();
  }
  co_await reads_.Stop();
  co_await RenewGenerations();
  LoseSentWrites();
  for (auto& [number, volume] : resource_.volumes()) volume->FailReadsOf(node());
  co_await writes_.Drain();
  resource_.peer_acks().OnConnectionLost(node());
  link_up_ = false;
  data_.reset();
  control_.reset();
  data_reader_.reset();
  control_reader_.reset();
  session_tasks_.reset();
  own_digest_.reset();
  peer_digest_.reset();
  agreed_ = {};
  for (auto& [number, volume] : resource_.volumes()) {
    volume->UpdateGeometry();
    volume->StoreMetaFlags();
  }
  resource_.OnConnectionLost(node(), was_connected && failure_ != ConnectionState::kTearDown,
                             peer_was_primary);
}

// What is about to become out of sync towards the peer must be told apart from what it has by a new
// data generation, durable before any of it is acknowledged: a peer that comes back without it, on
// the generation it knew, would else be taken for equal (drbd-io-path.md A.12).
Task<void> Connection::RenewGenerations() {
  // What is held back is not acknowledged: its generation is made when it is (S32).
  if (resource_.state().role != Role::kPrimary || state().susp_fen) co_return;
  std::vector<Volume*> affected;
  for (Request* request = unacked_head_; request != nullptr;
       request = request->legs[static_cast<size_t>(request->LegOf(node()))].next_on_connection) {
    if (std::find(affected.begin(), affected.end(), request->volume) == affected.end()) {
      affected.push_back(request->volume);
    }
  }
  for (Volume* volume : affected) {
    // What goes on without good data is no generation: nothing of it is acknowledged.
    if (!resource_.HasGoodData(*volume)) continue;
    const uint64_t reasons = volume->reasons_for_uuid;
    Status status = co_await resource_.MakeNewUuid(*volume, false);
    if (status) {
      if (volume->reasons_for_uuid == reasons) {
        volume->state().owes_new_uuid = volume->owes_for_writes = false;
      }
    } else {
      resource_.logger().Error("{}: no new data generation: {}", volume->name(),
                               status.error().message());
    }
  }
}

// drbd-io-path.md A.12: what was sent and not barrier-acked is out of sync towards the peer,
// whether it was acknowledged or not (INV-6); the bits are set when the request leaves the transfer
// log. While the peer is not fenced (susp_fen) it is held back instead: neither acknowledged nor
// given up.
void Connection::LoseSentWrites() {
  while (unacked_head_ != nullptr) {
    Request* request = PopUnacked();
    auto index = static_cast<size_t>(request->LegOf(node()));
    const bool relied_on =
        request->completed && request->error == 0 && request->leg_states[index].ok();
    LegStep step =
        Next(request->leg_states[index],
             state().susp_fen ? LegEvent::kConnectionLostSuspended : LegEvent::kConnectionLost);
    request->leg_states[index] = step.state;
    if (relied_on) request->volume->NoteLostCopy(*request);
    if (!step.state.done()) held_.push_back(request);
    NoLongerPending(request, static_cast<int>(index));
    request->volume->CheckCompletion(request);
  }
  congestion_.OnLost();
  ap_in_flight_ = 0;
  epoch_writes_ = 0;
  resource_.ScheduleProgress();
}

Request* Connection::PopUnacked() {
  Request* request = unacked_head_;
  RequestLeg& leg = request->legs[static_cast<size_t>(request->LegOf(node()))];
  unacked_head_ = leg.next_on_connection;
  if (unacked_head_ == nullptr) unacked_tail_ = nullptr;
  leg.next_on_connection = nullptr;
  uint64_t bytes = request->sectors() * 512;
  ap_in_flight_ -= std::min(ap_in_flight_, bytes);
  return request;
}

uint64_t Connection::rs_in_flight() {
  uint64_t bytes = 0;
  for (auto& [number, volume] : resource_.volumes()) {
    bytes += volume->peer(node())->source.outstanding_bytes();
  }
  return bytes;
}

void Connection::OnSendFailed(SendQueue& queue, int error) {
  bool data = &queue == &data_queue_;
  Fail(error == ETIMEDOUT ? ConnectionState::kTimeout : ConnectionState::kBrokenPipe,
       fmt::format("send on the {} socket: {}", data ? "data" : "control",
                   Error::FromErrno(error, "send").message()));
}

void Connection::OnSendStalled(SendQueue& queue, uint32_t left) {
  resource_.logger().Warn("{}: the peer takes no data ({} more tries)", name_, left);
  if (&queue == &data_queue_ && negotiated_) SendPing();
}

Task<void> Connection::FlushSends() {
  co_await data_queue_.WaitBelow(1, config_.net.timeout);
  co_await control_queue_.WaitBelow(1, config_.net.timeout);
}

Task<void> Connection::AwaitPeerClose() {
  if (!up()) co_return;
  leaving_ = true;
  peer_gone_ = false;
  Time until = reactor_.Now() + config_.net.ping_timeout;
  while (!peer_gone_ && reactor_.Now() < until) {
    co_await failure_event_.WaitFor(until - reactor_.Now());
  }
  leaving_ = false;
}

Status Connection::UpdateNet(const NetOptions& options) {
  PeerConfig next = config_;
  next.net = options;
  UMBLOCK_TRY(Validate(next));
  config_.net = options;
  for (auto& [number, volume] : resource_.volumes()) volume->StoreMetaFlags();
  return Ok();
}

void Connection::UpdateResync(const ResyncOptions& options) {
  config_.resync = options;
  for (auto& [number, volume] : resource_.volumes()) {
    volume->peer(node())->target.Configure(options);
    volume->peer(node())->verify_source.Configure(options);
  }
}

}  // namespace umblock::drbd
