// ApiServer: the gRPC server of umblockd: a Unix socket, optionally TCP, with reflection and
// grpc.health.v1. Threading: Start and Shutdown on one thread that is not the node's reactor.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "engine/base/error.h"

namespace umblock::server {

class Node;

struct ApiServerOptions {
  std::string socket_path;  // Unix socket, mode 0660; empty: none
  std::string tcp_address;  // "127.0.0.1:7780"; empty: none
  // TLS for TCP: all three, or none for an unprotected port.
  std::string tls_certificate_file;
  std::string tls_key_file;
  std::string tls_client_ca_file;
  uint32_t max_calls = 256;    // at a time, waits and watches apart
  uint32_t max_waits = 256;    // at a time
  uint32_t max_watchers = 64;  // what the event hub allows
  uint32_t max_message_bytes = 1u << 20;
};

class ApiServer {
 public:
  // `node` outlives the server.
  static Result<std::unique_ptr<ApiServer>> Start(Node* node, ApiServerOptions options);
  ~ApiServer();

  // Ends streams, waits up to `patience` for calls, then cuts them; ends when all are over.
  void Shutdown(std::chrono::milliseconds patience);
  // What the health service says: not serving at first, while the node starts.
  void SetServing(bool serving);
  // The TCP port that was bound; 0 if there is none.
  int tcp_port() const;

 private:
  struct Impl;
  explicit ApiServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace umblock::server
