// Metrics in Prometheus' terms, made from one status of the node. docs/metrics.md lists them all
// (a test compares). Pure.
#pragma once

#include <prometheus/metric_family.h>

#include <vector>

namespace umblock::v1 {
class NodeStatus;
}

namespace umblock::server {

std::vector<prometheus::MetricFamily> NodeMetrics(const v1::NodeStatus& status);

}  // namespace umblock::server
