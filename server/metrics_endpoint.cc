#include "server/metrics_endpoint.h"

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>

#include <exception>
#include <future>

#include "engine/base/socket_address.h"
#include "server/metrics.h"
#include "server/node.h"

namespace umblock::server {
namespace {

constexpr auto kPatience = std::chrono::seconds(1);

class NodeCollector final : public prometheus::Collectable {
 public:
  explicit NodeCollector(Node* node) : node_(node) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    auto answer = std::make_shared<std::promise<Result<v1::NodeStatus>>>();
    auto future = answer->get_future();
    Node* node = node_;
    node_->Call<v1::NodeStatus>(
        [node] { return node->GetStatus({}); },
        [answer](Result<v1::NodeStatus> status) { answer->set_value(std::move(status)); });
    std::vector<prometheus::MetricFamily> families;
    bool up = false;
    if (future.wait_for(kPatience) == std::future_status::ready) {
      Result<v1::NodeStatus> status = future.get();
      up = status.has_value();
      if (up) families = NodeMetrics(*status);
    }
    prometheus::MetricFamily& alive = families.emplace_back();
    alive.name = "umblock_up";
    alive.help = "1: the daemon answered this scrape; 0: it is starting, stopping or stuck.";
    alive.type = prometheus::MetricType::Gauge;
    alive.metric.emplace_back().gauge.value = up ? 1 : 0;
    return families;
  }

 private:
  Node* node_;
};

}  // namespace

struct MetricsEndpoint::Impl {
  std::shared_ptr<NodeCollector> collector;
  std::unique_ptr<prometheus::Exposer> exposer;
};

MetricsEndpoint::MetricsEndpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MetricsEndpoint::~MetricsEndpoint() = default;

Result<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(const std::string& address,
                                                                Node* node) {
  auto parsed = SocketAddress::Parse(address);
  if (!parsed) return std::unexpected(parsed.error().Within("--metrics"));
  auto impl = std::make_unique<Impl>();
  impl->collector = std::make_shared<NodeCollector>(node);
  try {
    impl->exposer = std::make_unique<prometheus::Exposer>(address, 2);
  } catch (const std::exception& problem) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "metrics cannot be served on {} ({}): is the address in use, or not this "
                     "host's?",
                     address, problem.what());
  }
  impl->exposer->RegisterCollectable(impl->collector);
  return std::unique_ptr<MetricsEndpoint>(new MetricsEndpoint(std::move(impl)));
}

}  // namespace umblock::server
