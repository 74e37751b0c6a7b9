// NodeTest: the management side of one node, with fake engine parts and a real configuration store,
// and its calls as a client makes them.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <memory>
#include <string>

#include "server/testing/test_node.h"

namespace umblock::server {

using RM = ResourceManager;

inline constexpr uint64_t kMiB = uint64_t{1} << 20;

template <typename T>
::testing::AssertionResult IsError(const Result<T>& result, ErrorCode code,
                                   const std::string& text) {
  if (result) return ::testing::AssertionFailure() << "it succeeded";
  if (result.error().code() != code || result.error().message().find(text) == std::string::npos) {
    return ::testing::AssertionFailure() << result.error().ToString();
  }
  return ::testing::AssertionSuccess();
}

class NodeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Status started = node_.Start();
    ASSERT_TRUE(started) << started.error().ToString();
  }

  Result<v1::Backend> MakeBackend(const std::string& name, uint64_t size = 64 * kMiB) {
    v1::CreateBackendRequest request;
    request.mutable_spec()->set_name(name);
    request.mutable_spec()->set_path("/disks/" + name);
    request.mutable_spec()->set_size_bytes(size);
    request.mutable_spec()->set_create(true);
    return node_.Call(&Node::backends, &BackendManager::Create, request);
  }
  Result<v1::DeleteBackendResponse> DeleteBackend(const std::string& name) {
    v1::DeleteBackendRequest request;
    request.set_name(name);
    return node_.Call(&Node::backends, &BackendManager::Delete, request);
  }
  v1::Backend GetBackend(const std::string& name) {
    v1::GetBackendRequest request;
    request.set_name(name);
    auto backend = node_.Call(&Node::backends, &BackendManager::Get, request);
    EXPECT_TRUE(backend);
    return backend ? *backend : v1::Backend();
  }
  Result<v1::Resource> MakeResource(const std::string& name, uint32_t node_id = 0) {
    v1::CreateResourceRequest request;
    request.mutable_spec()->set_name(name);
    request.mutable_spec()->set_node_id(node_id);
    return node_.Resources(&RM::Create, request);
  }
  Result<v1::Volume> MakeVolume(const std::string& resource, uint32_t number,
                                const std::string& backend, bool metadata = true) {
    v1::CreateVolumeRequest request;
    request.mutable_spec()->set_resource(resource);
    request.mutable_spec()->set_number(number);
    request.mutable_spec()->set_backend(backend);
    request.set_create_metadata_if_blank(metadata);
    return node_.Resources(&RM::CreateVolume, request);
  }
  Result<v1::Connection> MakeConnection(const std::string& resource, uint32_t peer, bool connect,
                                        const std::string& secret = "") {
    v1::CreateConnectionRequest request;
    v1::ConnectionSpec* spec = request.mutable_spec();
    spec->set_resource(resource);
    spec->set_peer_node_id(peer);
    spec->set_peer_name("n" + std::to_string(peer));
    v1::Path* path = spec->add_paths();
    // A port for each resource, a host for each peer.
    const std::string port = std::to_string(7789 + std::hash<std::string>()(resource) % 1000);
    path->set_local("10.0.0.1:" + port);
    path->set_remote("10.0.0." + std::to_string(1 + peer) + ":" + port);
    if (!secret.empty()) spec->mutable_net()->set_shared_secret(secret);
    request.set_connect(connect);
    return node_.Resources(&RM::CreateConnection, request);
  }
  Result<v1::Resource> GetResource(const std::string& name) {
    v1::GetResourceRequest request;
    request.set_name(name);
    return node_.Resources(&RM::Get, request);
  }
  Result<v1::Resource> Promote(const std::string& name, bool force = false) {
    v1::PromoteRequest request;
    request.set_name(name);
    request.set_force(force);
    return node_.Resources(&RM::Promote, request);
  }
  Result<v1::Resource> Demote(const std::string& name) {
    v1::DemoteRequest request;
    request.set_name(name);
    return node_.Resources(&RM::Demote, request);
  }
  Result<v1::DeleteResourceResponse> DeleteResource(const std::string& name, bool recursive) {
    v1::DeleteResourceRequest request;
    request.set_name(name);
    request.set_recursive(recursive);
    return node_.Resources(&RM::Delete, request);
  }
  Result<v1::Volume> Detach(const std::string& resource, uint32_t number, bool force = false) {
    v1::DetachRequest request;
    request.set_force(force);
    request.set_resource(resource);
    request.set_number(number);
    return node_.Resources(&RM::Detach, request);
  }
  Result<v1::Connection> Disconnect(const std::string& resource, uint32_t peer,
                                    bool force = false) {
    v1::DisconnectRequest request;
    request.set_force(force);
    request.set_resource(resource);
    request.set_peer_node_id(peer);
    return node_.Resources(&RM::Disconnect, request);
  }
  Result<v1::WaitResponse> Wait(v1::WaitRequest request) {
    std::promise<Result<v1::WaitResponse>> answer;
    Node* node = &node_.node();
    node->Call<v1::WaitResponse>(
        [node, request] { return node->Wait(request, {}); },
        [&answer](Result<v1::WaitResponse> result) { answer.set_value(std::move(result)); });
    return answer.get_future().get();
  }
  v1::NodeStatus GetStatus() {
    auto status = node_.Call(&Node::self, &Node::GetStatus, v1::GetStatusRequest());
    EXPECT_TRUE(status);
    return status ? *status : v1::NodeStatus();
  }

  // A call that goes on while the test does.
  template <typename Request, typename Response>
  std::future<Result<Response>> Begin(Task<Result<Response>> (RM::*act)(Request), Request request) {
    auto answer = std::make_shared<std::promise<Result<Response>>>();
    Node* node = &node_.node();
    node->Call<Response>(
        [node, act, request] { return (node->resources().*act)(request); },
        [answer](Result<Response> result) { answer->set_value(std::move(result)); });
    return answer->get_future();
  }
  // An attach that waits for a peer, with the resource's lifecycle in its hands.
  std::future<Result<v1::Volume>> BeginHangingAttach() {
    node_.OnReactor([&] { node_.engine().attach_hangs = true; });
    v1::AttachRequest attach;
    attach.set_resource("r0");
    attach.set_backend("disk0");
    auto attaching = Begin(&RM::Attach, attach);
    AwaitEvent([](const v1::Event& event) {
      return event.volume().status().disk() == v1::DiskState::Attaching;
    });
    return attaching;
  }
  // Changes what is stored, between two lives of the node.
  void EditStored(std::function<void(StoredState&)> edit) {
    ConfigStore store(node_.directory(), {});
    auto state = store.Load();
    ASSERT_TRUE(state) << state.error().ToString();
    edit(*state);
    ASSERT_TRUE(store.Save(*state));
  }
  v1::Volume GetVolume(const std::string& resource, uint32_t number) {
    v1::GetVolumeRequest request;
    request.set_resource(resource);
    request.set_number(number);
    auto volume = node_.Resources(&RM::GetVolume, request);
    EXPECT_TRUE(volume);
    return volume ? *volume : v1::Volume();
  }

  // Blocks until an event was published for which `matches` holds, from the present state on.
  void AwaitEvent(std::function<bool(const v1::Event&)> matches) {
    EventHub& hub = node_.hub();
    for (;;) {
      EventHub::Subscription s;
      auto bell = std::make_shared<std::promise<void>>();
      auto heard = bell->get_future();
      ASSERT_EQ(hub.Subscribe(0, "", [bell] { bell->set_value(); }, &s), EventHub::Outcome::kOk);
      bool found = false;
      for (const EventPtr& event : s.snapshot) found = found || matches(*event);
      EventPtr event;
      if (!found && hub.Poll(*s.watcher, &event) == EventHub::Next::kEmpty) heard.wait();
      hub.Unsubscribe(s.watcher);
      if (found) return;
    }
  }

  TestNode node_;
};

}  // namespace umblock::server
