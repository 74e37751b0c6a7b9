// IscsiTargetServer: from an accepted connection to a session.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "engine/iscsi/server.h"

namespace umblock::iscsi {
namespace {

// Aborts a login that takes too long, or that a stopping server no longer wants.
class LoginGuard final : private Timer, private CancelCallback {
 public:
  LoginGuard(Reactor& reactor, Stream& stream, Time deadline, CancelToken cancel)
      : Timer(&OnTime), CancelCallback(&OnCancel), stream_(stream) {
    reactor.Arm(this, deadline);
    cancel.requested() ? stream.Abort() : Register(cancel);
  }

 private:
  static void OnTime(Timer* self) noexcept { static_cast<LoginGuard*>(self)->stream_.Abort(); }
  static void OnCancel(CancelCallback* self) noexcept {
    static_cast<LoginGuard*>(self)->stream_.Abort();
  }
  Stream& stream_;
};

Task<bool> ReceiveAll(Stream& stream, MutableBytes to) {
  while (!to.empty()) {
    iovec piece{to.data(), to.size()};
    int32_t n = co_await stream.Receive(std::span(&piece, 1));
    if (n <= 0) co_return false;
    to = to.subspan(static_cast<size_t>(n));
  }
  co_return true;
}

std::string IsidText(const Bhs& request) {
  return fmt::format("0x{:012x}", request.Be<uint64_t>(8) >> 16);
}

}  // namespace

Task<bool> IscsiTargetServer::ReadLogin(Stream& stream, Bhs* header, std::string* data) {
  std::byte raw[kBhsLength];
  if (!co_await ReceiveAll(stream, raw)) co_return false;
  *header = Bhs(raw);
  if (header->op() != Op::kLogin || header->ahs_length() != 0 ||
      header->data_length() > LoginExchange::kMaxRequest) {
    co_return false;
  }
  data->resize(header->padded_data_length());
  if (!co_await ReceiveAll(stream, std::as_writable_bytes(std::span(*data)))) co_return false;
  data->resize(header->data_length());
  co_return true;
}

Task<bool> IscsiTargetServer::SendLogin(Stream& stream, const Bhs& request,
                                        const LoginExchange::Reply& reply, uint16_t tsih,
                                        uint32_t stat_sn) {
  Bhs header(Op::kLoginResponse, reply.flags);
  header.Put<uint64_t>(8, request.Be<uint64_t>(8)).Put<uint16_t>(14, tsih);  // ISID, TSIH
  header.Put<uint32_t>(16, request.task_tag()).Put<uint32_t>(24, stat_sn);
  header.Put<uint32_t>(28, request.cmd_sn());
  header.Put<uint32_t>(32, request.cmd_sn() + options_.sessions.command_window - 1);
  header.Put<uint16_t>(36, std::to_underlying(reply.status));
  auto batch = std::make_unique<SendBatch>();
  batch->Add(header, std::as_bytes(std::span(reply.text)), false, false);
  co_return co_await stream.Send(batch->iov()) >= 0;
}

Session* IscsiTargetServer::FindNexus(std::string_view initiator, std::string_view isid,
                                      std::string_view target) {
  auto at = std::ranges::find_if(sessions_, [&](const Session* session) {
    const SessionSetup& setup = session->setup();
    return !setup.target.empty() && setup.initiator == initiator && setup.isid == isid &&
           setup.target == target;
  });
  return at == sessions_.end() ? nullptr : *at;
}

uint16_t IscsiTargetServer::NewTsih() {
  while (true) {
    uint16_t tsih = next_tsih_++;
    bool taken = std::ranges::any_of(
        sessions_, [tsih](const Session* session) { return session->setup().tsih == tsih; });
    if (tsih != 0 && !taken) return tsih;
  }
}

// Makes room for the session: an older one of the same I_T nexus is ended first, with everything
// that it still has in flight (§6.3.5 session reinstatement). Only then may the new one write.
Task<LoginStatus> IscsiTargetServer::Admit(const Bhs& request, const LoginExchange& exchange,
                                           Time deadline, uint16_t* tsih) {
  std::string isid = IsidText(request);
  auto asked = request.Be<uint16_t>(14);  // TSIH
  Session* old = FindNexus(exchange.initiator_name(), isid, exchange.target_name());
  // One connection per session: a login into a session is the reinstatement of its connection.
  if (asked != 0 && (old == nullptr || old->setup().tsih != asked)) {
    co_return LoginStatus::kSessionDoesNotExist;
  }
  while (old != nullptr) {
    old->Drop("the initiator logged in again");
    if (reactor_.Now() >= deadline) co_return LoginStatus::kServiceUnavailable;
    co_await old->ended().WaitFor(deadline - reactor_.Now());
    co_await reactor_.Yield();
    old = FindNexus(exchange.initiator_name(), isid, exchange.target_name());
  }
  if (sessions_.size() >= options_.max_sessions) co_return LoginStatus::kOutOfResources;
  *tsih = asked != 0 ? asked : NewTsih();
  co_return LoginStatus::kSuccess;
}

// The login phase. Ends with a session whose login response has not been sent, or with nothing; the
// stream is then still the caller's.
Task<std::unique_ptr<Session>> IscsiTargetServer::LogIn(std::unique_ptr<Stream>& stream) {
  Time deadline = reactor_.Now() + options_.login_timeout;
  LoginGuard guard(reactor_, *stream, deadline, tasks_.token());
  LoginExchange exchange(*this, options_.parameters,
                         [this](MutableBytes bytes) { reactor_.FillRandom(bytes); });
  Bhs request;
  std::string data;
  uint32_t stat_sn = 1;
  while (co_await ReadLogin(*stream, &request, &data)) {
    LoginExchange::Reply reply = exchange.Handle(request, data);
    uint16_t tsih = 0;
    if (reply.finished) {
      reply.status = co_await Admit(request, exchange, deadline, &tsih);
      // Since it began the target may have gone or its rules may have changed. From here to the
      // list of sessions, which UpdateTarget looks at, nothing else runs.
      if (reply.status == LoginStatus::kSuccess) reply.status = exchange.Recheck();
      if (reply.status == LoginStatus::kSuccess && stopping_) {
        reply.status = LoginStatus::kServiceUnavailable;
      }
    }
    if (reply.status != LoginStatus::kSuccess) {
      ++failed_logins_;
      reactor_.logger().Info("iscsi login from {} {} to '{}': refused, status {:#06x}",
                             stream->remote_address().ToString(), exchange.initiator_name(),
                             exchange.target_name(), std::to_underlying(reply.status));
      reply = {.status = reply.status};
      co_await SendLogin(*stream, request, reply, 0, stat_sn);
      stream->ShutdownSend();
      co_return nullptr;
    }
    if (!reply.finished) {
      if (!co_await SendLogin(*stream, request, reply, 0, stat_sn++)) co_return nullptr;
      continue;
    }
    Target* target = FindTarget(exchange.target_name());
    SessionSetup setup{.initiator = exchange.initiator_name(),
                       .initiator_alias = exchange.initiator_alias(),
                       .isid = IsidText(request),
                       .tsih = tsih,
                       .cid = request.Be<uint16_t>(20),
                       .id = next_session_++,
                       .params = exchange.params(),
                       .exp_cmd_sn = request.cmd_sn(),
                       .stat_sn = stat_sn + 1,
                       .target = exchange.target_name(),
                       .device = target == nullptr ? nullptr : &target->device};
    SessionHost& host = *this;
    auto session = std::make_unique<Session>(reactor_, host, std::move(stream), std::move(setup),
                                             options_.sessions);
    sessions_.push_back(session.get());
    ++logins_;
    if (!co_await SendLogin(session->stream(), request, reply, tsih, stat_sn)) {
      session->Drop("the login response cannot be sent");
    }
    co_return session;
  }
  ++failed_logins_;
  co_return nullptr;
}

Task<void> IscsiTargetServer::Serve(std::unique_ptr<Stream> stream) {
  ++logins_in_progress_;
  std::unique_ptr<Session> session = co_await LogIn(stream);
  --logins_in_progress_;
  if (session == nullptr) {
    co_await stream->Close();
    co_return;
  }
  const SessionSetup& setup = session->setup();
  reactor_.logger().Info("iscsi session {} {}: logged in from {}",
                         setup.target.empty() ? "discovery" : setup.target, setup.initiator,
                         session->stream().remote_address().ToString());
  co_await session->Run();
  std::erase(sessions_, session.get());
}

}  // namespace umblock::iscsi
