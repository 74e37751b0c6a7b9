#include "bench/workload.h"

#include <fmt/core.h>
#include <sched.h>
#include <sys/resource.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>

namespace umblock::bench {

bool ParseWorkloadOption(const std::string& name, const std::string& value, Workload* workload) {
  if (name == "--depth") {
    workload->depth = static_cast<uint32_t>(std::stoul(value));
  } else if (name == "--size") {
    workload->size = static_cast<uint32_t>(std::stoul(value));
  } else if (name == "--read-percent") {
    workload->read_percent = std::stoi(value);
  } else if (name == "--pattern") {
    workload->sequential = value == "sequential";
  } else if (name == "--seconds") {
    workload->seconds = std::stod(value);
  } else if (name == "--warm-up") {
    workload->warm_up = std::stod(value);
  } else if (name == "--span-mib") {
    workload->span = std::stoull(value) << 20;
  } else if (name == "--seed") {
    workload->seed = std::stoull(value);
  } else if (name == "--cpu") {
    workload->cpu = std::stoi(value);
  } else {
    return false;
  }
  return true;
}

void PinToCpu(int cpu) {
  if (cpu < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) {
    fmt::print(stderr, "cannot run on CPU {}\n", cpu);
    exit(1);
  }
}

double ProcessCpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

void Print(const Workload& workload, const Measurement& m) {
  double iops = static_cast<double>(m.requests) / m.seconds;
  fmt::print(
      "{{\"depth\": {}, \"size\": {}, \"read_percent\": {}, \"sequential\": {}, \"seconds\": "
      "{:.3f}, "
      "\"requests\": {}, \"errors\": {}, \"iops\": {:.0f}, \"mb_per_second\": {:.2f}, "
      "\"latency_us\": {{\"mean\": {:.1f}, \"p50\": {:.1f}, \"p90\": {:.1f}, \"p99\": {:.1f}, "
      "\"p999\": {:.1f}}}, \"load_cpu_us_per_request\": {:.3f}}}\n",
      workload.depth, workload.size, workload.read_percent, workload.sequential, m.seconds,
      m.requests, m.errors, iops, iops * workload.size / 1e6, m.latency.mean_us(),
      m.latency.PercentileUs(0.5), m.latency.PercentileUs(0.9), m.latency.PercentileUs(0.99),
      m.latency.PercentileUs(0.999),
      m.requests == 0 ? 0 : m.load_cpu_seconds * 1e6 / static_cast<double>(m.requests));
}

}  // namespace umblock::bench
