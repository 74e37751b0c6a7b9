// TestNode: a Node on a ThreadReactor with fake parts and a real configuration store in a directory
// of its own; it can be restarted.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/node.h"
#include "server/testing/fake_engine.h"
#include "server/testing/thread_reactor.h"
#include "umblock/v1/event.pb.h"

namespace umblock::server {

class TempDirectory {
 public:
  TempDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "umblock-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  ~TempDirectory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Keeps what is logged.
class MemoryLog final : public Logger {
 public:
  bool Enabled(LogLevel) const override { return true; }
  void Write(LogLevel, std::string_view line) override {
    std::lock_guard lock(mutex_);
    lines_.emplace_back(line);
  }
  std::vector<std::string> lines() const {
    std::lock_guard lock(mutex_);
    return lines_;
  }
  bool Contains(std::string_view text) const {
    for (const std::string& line : lines()) {
      if (line.find(text) != std::string::npos) return true;
    }
    return false;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

class TestNode {
 public:
  explicit TestNode(NodeOptions options = DefaultOptions()) : options_(std::move(options)) {}
  ~TestNode() { Stop(); }

  static NodeOptions DefaultOptions() {
    NodeOptions options;
    options.name = "n1";
    options.fuse_dir = "/exports";
    options.look_interval = 5ms;
    options.retry_interval = 5ms;
    options.patience = 1h;  // however slow the machine
    options.max_calls = 256;
    options.max_watchers = 64;
    options.max_message_bytes = 1u << 20;
    return options;
  }

  Status Start() {
    store_.emplace(directory_.path(), fault_);
    auto state = store_->Load();
    if (!state) return std::unexpected(state.error());
    hub_.emplace(first_revision_ += 1000000, event_log);
    reactor_.emplace(&log_);
    engine_.emplace(*reactor_, &disks);
    engine_->fuse_works = fuse_works;
    node_.emplace(*reactor_, log_, *engine_, &*store_, std::move(*state), &*hub_, options_);
    return OnReactor<Status>([this] { return node_->Start(); });
  }
  void Stop() {
    if (!node_) return;
    reactor_->RunAndWait([this] { return node_->Stop(); });
    Destroy();
  }
  // After Node::Stop.
  void Destroy() {
    reactor_->RunAndWait([this]() -> Task<void> {
      node_.reset();
      engine_.reset();
      co_return;
    });
    reactor_.reset();
    hub_.reset();
    store_.reset();
  }
  Status Restart() {
    Stop();
    return Start();
  }

  template <typename T>
  T OnReactor(std::move_only_function<Task<T>()> make) {
    return reactor_->RunTask<T>(std::move(make));
  }
  void OnReactor(std::function<void()> function) {
    reactor_->RunAndWait([&]() -> Task<void> {
      function();
      co_return;
    });
  }

  // One call, as an RPC would make it.
  template <typename Manager, typename Request, typename Response>
  Result<Response> Call(Manager& (Node::*manager)(),
                        Task<Result<Response>> (Manager::*act)(Request), Request request) {
    std::promise<Result<Response>> answer;
    Node* node = &*node_;
    node->Call<Response>(
        [node, manager, act, request]() { return ((node->*manager)().*act)(request); },
        [&answer](Result<Response> result) { answer.set_value(std::move(result)); });
    return answer.get_future().get();
  }
  template <typename Request, typename Response>
  Result<Response> Resources(Task<Result<Response>> (ResourceManager::*act)(Request),
                             Request request) {
    return Call(&Node::resources, act, std::move(request));
  }

  Node& node() { return *node_; }
  EventHub& hub() { return *hub_; }
  FakeEngine& engine() { return *engine_; }
  MemoryLog& log() { return log_; }
  const std::string& directory() const { return directory_.path(); }
  void set_patience(Duration patience) { options_.patience = patience; }
  void set_fault(FileFaultHook fault) { fault_ = std::move(fault); }

  FakeDisks disks;  // survive restarts
  bool fuse_works = true;
  size_t event_log = 8192;

 private:
  NodeOptions options_;
  TempDirectory directory_;
  MemoryLog log_;
  FileFaultHook fault_;
  uint64_t first_revision_ = 0;
  std::optional<ConfigStore> store_;
  std::optional<EventHub> hub_;
  std::optional<ThreadReactor> reactor_;
  std::optional<FakeEngine> engine_;
  std::optional<Node> node_;
};

}  // namespace umblock::server
