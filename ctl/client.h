// Client: one umblockd, called by method name. gRPC stays inside client.cc.
//
// Methods are named as in the protos, "ResourceService.Promote"; the messages must be that
// method's (checked). Errors carry the server's code and message; kUnavailable also says where the
// daemon was expected. Threading: Call from any thread; each Watch occupies its thread.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "engine/base/error.h"

namespace google::protobuf {
class Message;
}
namespace umblock::v1 {
class Event;
class WatchRequest;
}  // namespace umblock::v1

namespace umblock::ctl {

struct Endpoint {
  std::string socket = "/run/umblock/umblockd.sock";
  std::string server;  // host:port; empty: the socket
  bool insecure = false;
  std::string tls_ca_file, tls_certificate_file, tls_key_file;
};

class Client {
 public:
  static Result<std::unique_ptr<Client>> Make(const Endpoint& endpoint);
  ~Client();

  Status Call(const std::string& method, const google::protobuf::Message& request,
              google::protobuf::Message* response, std::chrono::milliseconds timeout);

  // Until `on_event` says false (then Ok), the stream ends or Stop is called.
  Status Watch(const v1::WatchRequest& request,
               const std::function<bool(const v1::Event&)>& on_event);
  // Any thread: ends a Watch that runs, with kCancelled.
  void Stop();

  // grpc.health.v1: Ok if the daemon serves.
  Status CheckHealth(std::chrono::milliseconds timeout);

 private:
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace umblock::ctl
