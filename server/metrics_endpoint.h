// MetricsEndpoint: GET /metrics over HTTP for Prometheus. Each scrape asks the node for a fresh
// status; if the node does not answer within a second the scrape is empty but for umblock_up 0.
// Threading: the HTTP server has threads of its own; construction and destruction on one thread,
// while the node's reactor runs.
#pragma once

#include <memory>
#include <string>

#include "engine/base/error.h"

namespace umblock::server {

class Node;

class MetricsEndpoint {
 public:
  // `address` is "127.0.0.1:9720" or "[::]:9720". `node` outlives the endpoint.
  static Result<std::unique_ptr<MetricsEndpoint>> Start(const std::string& address, Node* node);
  ~MetricsEndpoint();

 private:
  struct Impl;
  explicit MetricsEndpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace umblock::server
