// backend_load: the same load on a backend alone, without iSCSI: what the device under a LUN can
// do.
//
//   backend_load [--depth 32] [--size 4096] … ram:PATH:MIB | file:PATH:MIB
#include <fmt/core.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "bench/workload.h"
#include "engine/block/backends/backend.h"
#include "engine/runtime/uring/reactor_thread.h"

namespace umblock::bench {
namespace {

class BackendLoad {
 public:
  BackendLoad(Backend& backend, const Workload& workload, Measurement* measurement)
      : backend_(backend),
        workload_(workload),
        measurement_(measurement),
        offsets_(workload, backend.geometry().size),
        idle_(backend.reactor()) {}

  Task<bool> Run() {
    for (uint32_t i = 0; i < workload_.depth; ++i) {
      requests_.push_back(std::make_unique<Request>(this));
      requests_.back()->buffer = backend_.reactor().buffers().TryAllocate(workload_.size);
      if (!requests_.back()->buffer) co_return false;
    }
    uint64_t begin = NowNs();
    from_ = begin + static_cast<uint64_t>(workload_.warm_up * 1e9);
    end_ = from_ + static_cast<uint64_t>(workload_.seconds * 1e9);
    for (auto& request : requests_) Begin(request.get());
    while (running_ != 0) co_await idle_.Wait();
    requests_.clear();
    co_return true;
  }

 private:
  struct Request : BlockIo {
    explicit Request(BackendLoad* l) : BlockIo(&Done), load(l) {}
    static void Done(BlockIo* self, int error) noexcept {
      auto* request = static_cast<Request*>(self);
      request->load->Finish(request, error);
    }
    BackendLoad* load;
    Buffer buffer;
    iovec data{};
    uint64_t began = 0;
  };

  void Begin(Request* request) {
    ++running_;
    request->op = offsets_.NextIsRead(workload_.read_percent) ? IoOp::kRead : IoOp::kWrite;
    request->offset = offsets_.Next() * workload_.size;
    request->length = workload_.size;
    request->data = request->buffer.iov(workload_.size);
    request->iov = std::span(&request->data, 1);
    request->began = NowNs();
    backend_.Submit(request);
  }

  void Finish(Request* request, int error) {
    --running_;
    uint64_t now = NowNs();
    if (cpu_ < 0 && now >= from_) cpu_ = ProcessCpuSeconds();
    if (request->began >= from_ && now < end_) {
      ++measurement_->requests;
      if (error != 0) ++measurement_->errors;
      measurement_->latency.Add(now - request->began);
    }
    if (now < end_) return Begin(request);
    if (measurement_->seconds == 0) {
      measurement_->seconds = static_cast<double>(now - from_) / 1e9;
      measurement_->load_cpu_seconds = ProcessCpuSeconds() - cpu_;
    }
    if (running_ == 0) idle_.NotifyAll();
  }

  Backend& backend_;
  const Workload& workload_;
  Measurement* measurement_;
  Offsets offsets_;
  WaitQueue idle_;
  std::vector<std::unique_ptr<Request>> requests_;
  uint32_t running_ = 0;
  uint64_t from_ = 0, end_ = 0;
  double cpu_ = -1;
};

Task<Status> Measure(Reactor& reactor, BackendSpec spec, const Workload& workload,
                     Measurement* measurement) {
  auto backend = co_await OpenBackend(reactor, std::move(spec));
  if (!backend) co_return std::unexpected(backend.error());
  bool ran = false;
  {
    BackendLoad load(**backend, workload, measurement);
    ran = co_await load.Run();
  }
  co_await (*backend)->Stop();
  if (!ran) co_return MakeError(ErrorCode::kResourceExhausted, "no memory for the requests");
  co_return Ok();
}

int Main(int argc, char** argv) {
  Workload workload;
  BackendSpec spec{.name = "disk", .create = true};
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i];
    if (name.starts_with("--")) {
      const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
      ++i;
      if (value != nullptr && ParseWorkloadOption(name, value, &workload)) continue;
      fmt::print(stderr, "backend_load: unknown option {}\n", name);
      return 2;
    }
    size_t first = name.find(':'), last = name.rfind(':');
    if (first == std::string::npos || first == last) {
      fmt::print(stderr, "usage: backend_load [options] ram:PATH:MIB | file:PATH:MIB\n");
      return 2;
    }
    spec.kind = name.substr(0, first) == "ram" ? BackendKind::kRam : BackendKind::kFile;
    spec.path = name.substr(first + 1, last - first - 1);
    spec.size = std::stoull(name.substr(last + 1)) << 20;
  }
  auto thread = ReactorThread::Start({.name = "backend load", .cpu = workload.cpu});
  if (!thread) {
    fmt::print(stderr, "backend_load: {}\n", thread.error().message());
    return 1;
  }
  Measurement measurement;
  Status done = (*thread)->RunTask(
      [&]() { return Measure((*thread)->reactor(), spec, workload, &measurement); });
  if (!done) {
    fmt::print(stderr, "backend_load: {}\n", done.error().message());
    return 1;
  }
  Print(workload, measurement);
  return 0;
}

}  // namespace
}  // namespace umblock::bench

int main(int argc, char** argv) { return umblock::bench::Main(argc, argv); }
