#include "ctl/status_command.h"

#include <fmt/core.h>
#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <ostream>
#include <thread>

#include "ctl/views.h"
#include "umblock/v1/event.pb.h"
#include "umblock/v1/node.pb.h"

namespace umblock::ctl {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kRedrawInterval{200};
constexpr milliseconds kProgressInterval{500};
constexpr int kBarWidth = 30;

Status PrintStatus(Session& session, const StatusArguments& a) {
  v1::GetStatusRequest request;
  request.set_resource(a.resource);
  v1::NodeStatus status;
  UMBLOCK_TRY(session.Call("NodeService.GetStatus", request, &status));
  if (session.json) {
    if (a.watch) {
      session.PrintLine(status);
    } else {
      session.Print(status);
    }
    return Ok();
  }
  if (a.watch && session.io.out_terminal) session.io.out << "\x1b[H\x1b[2J";
  session.io.out << RenderStatus(status, {a.verbose, a.statistics}) << std::flush;
  return Ok();
}

// Runs a Watch on a thread of its own and tells whether something changed since the last look.
class ChangeSignal {
 public:
  ChangeSignal(Client* client, const v1::WatchRequest& request)
      : client_(client), thread_([this, request] {
          Status ended = client_->Watch(request, [this](const v1::Event&) {
            Raise(false);
            return true;
          });
          std::lock_guard lock(mutex_);
          ended_ = true;
          status_ = ended;
          wake_.notify_one();
        }) {}
  ~ChangeSignal() {
    client_->Stop();
    thread_.join();
  }

  // False when the stream has ended.
  bool Await() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return changed_ || ended_; });
    changed_ = false;
    return !ended_;
  }
  Status status() {
    std::lock_guard lock(mutex_);
    return status_;
  }

 private:
  void Raise(bool ended) {
    std::lock_guard lock(mutex_);
    changed_ = true;
    ended_ = ended_ || ended;
    wake_.notify_one();
  }

  Client* client_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool changed_ = false;
  bool ended_ = false;
  Status status_;
  std::thread thread_;
};

}  // namespace

Status ShowStatus(Session& session, const StatusArguments& a) {
  if (!a.watch) return PrintStatus(session, a);
  auto client = session.client();
  if (!client) return std::unexpected(client.error());
  v1::WatchRequest request;
  request.set_resource(a.resource);
  ChangeSignal signal(*client, request);
  while (signal.Await()) {
    UMBLOCK_TRY(PrintStatus(session, a));
    std::this_thread::sleep_for(kRedrawInterval);  // a screen is not redrawn more often
  }
  return signal.status();
}

bool FollowFilter::Wants(const v1::Event& event) {
  switch (event.type()) {
    case v1::Event::START_OVER:
      over_ = true;
      return true;
    case v1::Event::BOOKMARK:
      over_ = false;
      return false;
    case v1::Event::EXISTS:
      return over_ && event.object().starts_with(prefix_);
    default:
      return event.object().starts_with(prefix_);
  }
}

Status FollowEvents(Session& session, const std::string& resource, const std::string& prefix) {
  auto client = session.client();
  if (!client) return std::unexpected(client.error());
  v1::WatchRequest request;
  request.set_resource(resource);
  FollowFilter filter(prefix);
  return (*client)->Watch(request, [&](const v1::Event& event) {
    if (!filter.Wants(event)) return true;
    if (session.json) {
      session.PrintLine(event);
    } else {
      session.io.out << RenderEvent(event) << "\n" << std::flush;
    }
    return session.io.out.good();
  });
}

Status ShowEvents(Session& session, const EventArguments& a) {
  auto client = session.client();
  if (!client) return std::unexpected(client.error());
  v1::WatchRequest request;
  request.set_resource(a.resource);
  request.set_since_revision(a.since);
  return (*client)->Watch(request, [&](const v1::Event& event) {
    if (session.json) {
      session.PrintLine(event);
    } else {
      session.io.out << fmt::format("{} {}\n", event.revision(), RenderEvent(event)) << std::flush;
    }
    return session.io.out.good() && !(a.now && event.type() == v1::Event::BOOKMARK);
  });
}

namespace {

void DrawProgress(Session& session, const std::string& name, int* drawn) {
  v1::GetResourceRequest request;
  request.set_name(name);
  v1::Resource resource;
  if (!session.Call("ResourceService.GetResource", request, &resource)) return;
  std::string text;
  if (*drawn > 0) text += fmt::format("\x1b[{}A", *drawn);
  const std::vector<std::string> lines = RenderProgress(resource, kBarWidth);
  for (const std::string& line : lines) text += "\x1b[2K" + line + "\n";
  for (int i = static_cast<int>(lines.size()); i < *drawn; ++i) text += "\x1b[2K\n";
  *drawn = std::max(*drawn, static_cast<int>(lines.size()));
  session.io.err << text << std::flush;
}

}  // namespace

Status WaitFor(Session& session, const v1::WaitRequest& request) {
  using google::protobuf::util::TimeUtil;
  auto client = session.client();
  if (!client) return std::unexpected(client.error());
  const milliseconds whole(
      request.has_timeout() ? TimeUtil::DurationToMilliseconds(request.timeout()) : 60000);
  const auto deadline = std::chrono::steady_clock::now() + whole;
  const bool progress =
      session.io.out_terminal && !session.json && request.condition() == v1::WaitRequest::SYNCED;
  v1::WaitResponse response;
  int drawn = 0;
  for (;;) {
    v1::WaitRequest slice = request;
    milliseconds left = std::max(milliseconds(0), std::chrono::duration_cast<milliseconds>(
                                                      deadline - std::chrono::steady_clock::now()));
    const bool last = !progress || left <= kProgressInterval;
    if (!last) left = kProgressInterval;
    *slice.mutable_timeout() = TimeUtil::MillisecondsToDuration(left.count());
    // The server's own deadline comes first, with the better message.
    Status held = (*client)->Call("EventService.Wait", slice, &response, left + milliseconds(5000));
    if (held) break;
    if (last || held.error().code() != ErrorCode::kDeadlineExceeded) return held;
    DrawProgress(session, request.resource(), &drawn);
  }
  if (drawn > 0) DrawProgress(session, request.resource(), &drawn);
  if (session.json) session.Print(response.resource());
  return Ok();
}

}  // namespace umblock::ctl
