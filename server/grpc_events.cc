// EventService: Watch and Wait.
#include <mutex>

#include "server/api_context.h"
#include "server/grpc_services.h"
#include "server/grpc_status.h"
#include "server/node.h"
#include "umblock/v1/event.grpc.pb.h"

namespace umblock::server {
namespace {

// One Watch stream. Writes one event at a time; when the hub has nothing it waits to be woken.
// The hub's wake comes on the node's reactor, everything else on gRPC's threads.
class WatchCall final : public grpc::ServerWriteReactor<v1::Event> {
 public:
  static WatchCall* Start(EventHub* hub, const v1::WatchRequest& request) {
    auto call = std::shared_ptr<WatchCall>(new WatchCall(hub));
    call->self_ = call;
    call->Subscribe(request);
    return call.get();
  }

  void OnWriteDone(bool ok) override {
    {
      std::lock_guard lock(mutex_);
      writing_ = false;
      if (!ok) ended_ = true;
    }
    Continue();
  }

  void OnCancel() override {
    {
      std::lock_guard lock(mutex_);
      ended_ = true;
    }
    Continue();
  }

  void OnDone() override {
    if (subscription_.watcher) hub_->Unsubscribe(subscription_.watcher);
    std::shared_ptr<WatchCall> last = std::move(self_);
  }

 private:
  explicit WatchCall(EventHub* hub) : hub_(hub) {}

  void Subscribe(const v1::WatchRequest& request) {
    std::weak_ptr<WatchCall> weak = self_;
    const auto wake = [weak] {
      if (std::shared_ptr<WatchCall> call = weak.lock()) call->Continue();
    };
    switch (hub_->Subscribe(request.since_revision(), request.resource(), wake, &subscription_)) {
      case EventHub::Outcome::kOk:
        backlog_.assign(subscription_.snapshot.begin(), subscription_.snapshot.end());
        subscription_.snapshot.clear();
        Continue();
        return;
      case EventHub::Outcome::kOutOfRange:
        finished_ = true;
        Finish(grpc::Status(
            grpc::StatusCode::OUT_OF_RANGE,
            fmt::format("revision {} is not remembered (now at {}): watch again from the beginning",
                        request.since_revision(), hub_->last_revision())));
        return;
      case EventHub::Outcome::kTooMany:
        finished_ = true;
        Finish(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                            "too many watchers at a time (--max-watchers)"));
        return;
    }
  }

  // Writes the next event if there is one and none is being written.
  void Continue() {
    bool finish = false;
    {
      std::lock_guard lock(mutex_);
      if (writing_ || finished_) return;
      if (ended_) {
        finished_ = finish = true;
      } else if (!TakeNext()) {
        return;
      } else {
        writing_ = true;
      }
    }
    if (finish) {
      Finish(grpc::Status::CANCELLED);
    } else {
      StartWrite(current_.get());
    }
  }

  bool TakeNext() {
    if (backlog_.empty()) {
      switch (hub_->Poll(*subscription_.watcher, &current_)) {
        case EventHub::Next::kEvent:
          return true;
        case EventHub::Next::kEmpty:
          return false;
        case EventHub::Next::kOverrun: {
          const std::vector<EventPtr> fresh = hub_->StartOver(*subscription_.watcher);
          backlog_.assign(fresh.begin(), fresh.end());
          break;
        }
      }
    }
    current_ = std::move(backlog_.front());
    backlog_.pop_front();
    return true;
  }

  EventHub* hub_;
  EventHub::Subscription subscription_;
  std::shared_ptr<WatchCall> self_;  // until gRPC is done with it
  std::mutex mutex_;
  std::deque<EventPtr> backlog_;  // what is left of a snapshot
  EventPtr current_;
  bool writing_ = false;
  bool ended_ = false;     // cancelled, or the stream broke
  bool finished_ = false;  // Finish was called
};

// One Wait. The cancel source lives on the reactor.
class WaitCall final : public grpc::ServerUnaryReactor {
 public:
  WaitCall(ApiContext* api, const v1::WaitRequest* request, v1::WaitResponse* response)
      : slot_(&api->waits), node_(api->node) {
    if (!slot_.admitted()) {
      Finish(grpc::Status(
          grpc::StatusCode::RESOURCE_EXHAUSTED,
          fmt::format("more than {} waits at a time (--max-waits)", api->waits.limit)));
      return;
    }
    Node* node = node_;
    node_->Call<v1::WaitResponse>(
        [node, copy = *request, cancel = cancel_]() {
          return node->Wait(copy, CancelToken(*cancel));
        },
        [this, response](Result<v1::WaitResponse> result) {
          if (!result) return Finish(ToGrpcStatus(result.error()));
          *response = std::move(*result);
          Finish(grpc::Status::OK);
        });
  }

  void OnCancel() override {
    node_->Run([cancel = cancel_] { cancel->Cancel(); });
  }
  void OnDone() override { delete this; }

 private:
  CallSlot slot_;
  Node* node_;
  std::shared_ptr<CancelSource> cancel_ = std::make_shared<CancelSource>();
};

class EventServiceImpl final : public v1::EventService::CallbackService {
 public:
  explicit EventServiceImpl(ApiContext* api) : api_(api) {}

  grpc::ServerWriteReactor<v1::Event>* Watch(grpc::CallbackServerContext*,
                                             const v1::WatchRequest* request) override {
    return WatchCall::Start(&api_->node->hub(), *request);
  }
  grpc::ServerUnaryReactor* Wait(grpc::CallbackServerContext*, const v1::WaitRequest* request,
                                 v1::WaitResponse* response) override {
    return new WaitCall(api_, request, response);
  }

 private:
  ApiContext* api_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeEventService(ApiContext* api) {
  return std::make_unique<EventServiceImpl>(api);
}

}  // namespace umblock::server
