// The management side of one node, with fake engine parts and a real configuration store.
#include "server/node.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "server/testing/test_node.h"

namespace umblock::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using RM = ResourceManager;

constexpr uint64_t kMiB = uint64_t{1} << 20;

template <typename T>
testing::AssertionResult IsError(const Result<T>& result, ErrorCode code, const std::string& text) {
  if (result) return testing::AssertionFailure() << "it succeeded";
  if (result.error().code() != code || result.error().message().find(text) == std::string::npos) {
    return testing::AssertionFailure() << result.error().ToString();
  }
  return testing::AssertionSuccess();
}

class NodeTest : public testing::Test {
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
    path->set_local("10.0.0.1:7789");
    path->set_remote("10.0.0.2:7789");
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

TEST_F(NodeTest, BuildsAResourceStepByStep) {
  auto backend = MakeBackend("disk0");
  ASSERT_TRUE(backend) << backend.error().ToString();
  EXPECT_TRUE(backend->status().ready());
  EXPECT_EQ(backend->status().size_bytes(), 64 * kMiB);
  ASSERT_TRUE(MakeResource("r0"));
  auto volume = MakeVolume("r0", 0, "disk0");
  ASSERT_TRUE(volume) << volume.error().ToString();
  EXPECT_EQ(volume->status().disk(), v1::DiskState::Inconsistent);
  EXPECT_TRUE(volume->attach());
  EXPECT_EQ(volume->status().size_bytes(), 63 * kMiB);
  EXPECT_THAT(GetBackend("disk0").status().used_by(), ElementsAre("volume r0/0"));
  auto connection = MakeConnection("r0", 1, true, "hush");
  ASSERT_TRUE(connection) << connection.error().ToString();
  EXPECT_EQ(connection->status().state(), v1::ConnectionState::Connecting);
  EXPECT_TRUE(connection->has_shared_secret());
  EXPECT_FALSE(connection->spec().net().has_shared_secret());
  auto resource = GetResource("r0");
  ASSERT_TRUE(resource);
  EXPECT_EQ(resource->volumes_size(), 1);
  EXPECT_EQ(resource->connections_size(), 1);
  EXPECT_EQ(resource->connections(0).volumes_size(), 1);
  EXPECT_FALSE(resource->status().promotable());
}

TEST_F(NodeTest, RefusesUnknownNames) {
  EXPECT_TRUE(IsError(GetResource("rx"), ErrorCode::kNotFound, "no resource 'rx'"));
  EXPECT_TRUE(IsError(Promote("rx"), ErrorCode::kNotFound, "no resource 'rx'"));
  EXPECT_TRUE(IsError(DeleteResource("rx", true), ErrorCode::kNotFound, "'rx'"));
  EXPECT_TRUE(IsError(MakeVolume("rx", 0, ""), ErrorCode::kNotFound, "'rx'"));
  EXPECT_TRUE(IsError(MakeConnection("rx", 1, true), ErrorCode::kNotFound, "'rx'"));
  EXPECT_TRUE(IsError(DeleteBackend("bx"), ErrorCode::kNotFound, "no backend 'bx'"));
  ASSERT_TRUE(MakeResource("r0"));
  EXPECT_TRUE(IsError(MakeVolume("r0", 0, "bx"), ErrorCode::kNotFound, "no backend 'bx'"));
  EXPECT_TRUE(IsError(Detach("r0", 5), ErrorCode::kNotFound, "no volume r0/5"));
  EXPECT_TRUE(IsError(Disconnect("r0", 5), ErrorCode::kNotFound, "no peer with node id 5"));
  v1::InvalidateRemoteRequest invalidate;
  invalidate.set_resource("r0");
  invalidate.set_peer_node_id(3);
  EXPECT_TRUE(IsError(node_.Resources(&RM::InvalidateRemote, invalidate), ErrorCode::kNotFound,
                      "no peer with node id 3"));
  // What failed left nothing behind.
  EXPECT_EQ(GetResource("r0")->volumes_size(), 0);
}

TEST_F(NodeTest, RefusesDuplicates) {
  ASSERT_TRUE(MakeBackend("disk0"));
  EXPECT_TRUE(IsError(MakeBackend("disk0"), ErrorCode::kAlreadyExists, "disk0"));
  v1::CreateBackendRequest same_path;
  same_path.mutable_spec()->set_name("other");
  same_path.mutable_spec()->set_path("/disks/disk0");
  EXPECT_TRUE(IsError(node_.Call(&Node::backends, &BackendManager::Create, same_path),
                      ErrorCode::kAlreadyExists, "is the path of backend 'disk0'"));
  ASSERT_TRUE(MakeResource("r0"));
  EXPECT_TRUE(IsError(MakeResource("r0"), ErrorCode::kAlreadyExists, "r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  EXPECT_TRUE(IsError(MakeVolume("r0", 0, ""), ErrorCode::kAlreadyExists, "volume 0 already"));
  ASSERT_TRUE(MakeConnection("r0", 1, false));
  EXPECT_TRUE(IsError(MakeConnection("r0", 1, false), ErrorCode::kAlreadyExists, "node id 1"));
  EXPECT_TRUE(IsError(MakeConnection("r0", 0, false), ErrorCode::kInvalidArgument, "own"));
}

TEST_F(NodeTest, ABackendHasOneVolume) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  EXPECT_TRUE(IsError(MakeVolume("r0", 1, "disk0"), ErrorCode::kFailedPrecondition,
                      "in use by volume r0/0"));
  EXPECT_TRUE(
      IsError(DeleteBackend("disk0"), ErrorCode::kFailedPrecondition, "in use by volume r0/0"));
  ASSERT_TRUE(Detach("r0", 0));
  EXPECT_TRUE(MakeVolume("r0", 1, "disk0", false));
}

TEST_F(NodeTest, MetadataIsMadeOnlyOnBlankDisks) {
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeBackend("disk0"));
  EXPECT_TRUE(IsError(MakeVolume("r0", 0, "disk0", false), ErrorCode::kNotFound, "no metadata"));
  EXPECT_EQ(GetResource("r0")->volumes_size(), 0);
  EXPECT_THAT(GetBackend("disk0").status().used_by(), ElementsAre());
  node_.disks["/disks/fs"] = {.size = 64 * kMiB, .has_file_system = true};
  ASSERT_TRUE(MakeBackend("fs"));
  EXPECT_TRUE(IsError(MakeVolume("r0", 0, "fs"), ErrorCode::kFailedPrecondition, "a file system"));
  ASSERT_TRUE(MakeVolume("r0", 0, ""));
  v1::CreateMetadataRequest create;
  create.set_resource("r0");
  create.set_backend("fs");
  EXPECT_TRUE(IsError(node_.Resources(&RM::CreateMetadata, create), ErrorCode::kFailedPrecondition,
                      "force"));
  create.set_force(true);
  EXPECT_TRUE(node_.Resources(&RM::CreateMetadata, create));
  create.set_max_peers(32);
  EXPECT_TRUE(IsError(node_.Resources(&RM::CreateMetadata, create), ErrorCode::kInvalidArgument,
                      "1 to 31"));
}

TEST_F(NodeTest, ComesBackAfterARestartAsSecondary) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  ASSERT_TRUE(MakeConnection("r0", 1, true, "hush"));
  ASSERT_TRUE(MakeConnection("r0", 2, true));
  ASSERT_TRUE(Disconnect("r0", 2));
  ASSERT_TRUE(Promote("r0", true));
  EXPECT_EQ(GetResource("r0")->status().role(), v1::Role::Primary);
  Status restarted = node_.Restart();
  ASSERT_TRUE(restarted) << restarted.error().ToString();
  auto resource = GetResource("r0");
  ASSERT_TRUE(resource);
  EXPECT_EQ(resource->status().role(), v1::Role::Secondary);
  EXPECT_NE(resource->volumes(0).status().disk(), v1::DiskState::Diskless);
  EXPECT_EQ(resource->connections(0).status().state(), v1::ConnectionState::Connecting);
  EXPECT_EQ(resource->connections(1).status().state(), v1::ConnectionState::StandAlone);
  node_.OnReactor([&] { EXPECT_EQ(node_.engine().resource("r0")->net(1).shared_secret, "hush"); });
  EXPECT_FALSE(MakeBackend("disk0"));
}

TEST_F(NodeTest, ACopyOfAnAttachedDiskIsRefusedAndBothAreNamed) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeResource("r1"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  node_.OnReactor([&] { node_.disks["/disks/copy"] = node_.disks["/disks/disk0"]; });
  ASSERT_TRUE(MakeBackend("copy"));
  const auto refused = MakeVolume("r1", 0, "copy");
  EXPECT_TRUE(IsError(refused, ErrorCode::kFailedPrecondition, "backend 'copy' is a copy of"));
  EXPECT_TRUE(IsError(refused, ErrorCode::kFailedPrecondition, "volume r0/0"));
  // In its place it may be used, and what carries no UUID is told apart by nothing.
  ASSERT_TRUE(Detach("r0", 0));
  EXPECT_TRUE(MakeVolume("r1", 0, "copy"));
  for (const char* name : {"old0", "old1"}) {
    node_.OnReactor([&] {
      node_.disks[std::string("/disks/") + name] = {.size = 64 * kMiB, .has_metadata = true};
    });
    ASSERT_TRUE(MakeBackend(name));
  }
  EXPECT_TRUE(MakeVolume("r0", 1, "old0"));
  EXPECT_TRUE(MakeVolume("r1", 1, "old1"));
  // Disks whose metadata is made here have one each.
  ASSERT_TRUE(MakeBackend("disk2"));
  EXPECT_TRUE(MakeVolume("r0", 2, "disk2"));
}

TEST_F(NodeTest, AFileUnderAnotherNameIsNotASecondBackend) {
  std::string directory = testing::TempDir() + "/umblock-same-XXXXXX";
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  const std::string path = directory + "/disk";
  const std::string link = directory + "/link";
  std::ofstream(path) << "x";
  ASSERT_EQ(::link(path.c_str(), link.c_str()), 0);
  const auto make = [&](const std::string& name, const std::string& at) {
    node_.OnReactor([&] { node_.disks[at] = {.size = 64 * kMiB}; });
    v1::CreateBackendRequest request;
    request.mutable_spec()->set_name(name);
    request.mutable_spec()->set_path(at);
    return node_.Call(&Node::backends, &BackendManager::Create, request);
  };
  ASSERT_TRUE(make("disk", path));
  const auto refused = make("link", link);
  EXPECT_TRUE(IsError(refused, ErrorCode::kFailedPrecondition, "of backend 'disk'"));
  EXPECT_TRUE(IsError(refused, ErrorCode::kFailedPrecondition, "backend 'link'"));
  std::filesystem::remove_all(directory);
}

TEST_F(NodeTest, AMissingBackendLeavesTheVolumeDisklessUntilItIsBack) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeBackend("disk1"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  ASSERT_TRUE(MakeVolume("r0", 1, "disk1"));
  node_.Stop();
  node_.disks["/disks/disk0"].fails = true;
  ASSERT_TRUE(node_.Start());
  auto resource = GetResource("r0");
  ASSERT_TRUE(resource);
  EXPECT_EQ(resource->volumes(0).status().disk(), v1::DiskState::Diskless);
  EXPECT_THAT(resource->volumes(0).status().disk_reason(), HasSubstr("backend 'disk0'"));
  EXPECT_EQ(resource->volumes(1).status().disk(), v1::DiskState::Inconsistent);
  EXPECT_FALSE(GetBackend("disk0").status().ready());
  const v1::NodeStatus status = GetStatus();
  EXPECT_EQ(status.node().problems(0).object(), "backend disk0");
  EXPECT_TRUE(IsError(DeleteBackend("disk0"), ErrorCode::kFailedPrecondition, "volume r0/0"));
  node_.OnReactor([&] { node_.disks["/disks/disk0"].fails = false; });
  AwaitEvent([](const v1::Event& event) {
    return event.object() == "volume r0/0" &&
           event.volume().status().disk() == v1::DiskState::Inconsistent;
  });
  EXPECT_TRUE(GetBackend("disk0").status().ready());
}

TEST_F(NodeTest, WhatCannotBeStoredDoesNotHappen) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  node_.Stop();
  bool full = false;
  node_.set_fault([&full](const std::string&, FileStep step) {
    return full && step == FileStep::kWrite ? FileFault::kError : FileFault::kNone;
  });
  ASSERT_TRUE(node_.Start());
  full = true;
  const std::string text = "could not be stored";
  EXPECT_TRUE(IsError(MakeBackend("disk1"), ErrorCode::kDataLoss, text));
  EXPECT_TRUE(IsError(MakeResource("r1"), ErrorCode::kDataLoss, text));
  EXPECT_TRUE(IsError(MakeVolume("r0", 0, "disk0"), ErrorCode::kDataLoss, text));
  EXPECT_TRUE(IsError(MakeConnection("r0", 1, true), ErrorCode::kDataLoss, text));
  EXPECT_TRUE(IsError(DeleteResource("r0", true), ErrorCode::kDataLoss, text));
  EXPECT_TRUE(IsError(DeleteBackend("disk0"), ErrorCode::kDataLoss, text));
  full = false;
  auto resource = GetResource("r0");
  ASSERT_TRUE(resource);
  EXPECT_EQ(resource->volumes_size(), 0);
  EXPECT_EQ(resource->connections_size(), 0);
  EXPECT_FALSE(GetResource("r1"));
  // Nothing stands in the way of the same calls once there is room.
  EXPECT_TRUE(MakeVolume("r0", 0, "disk0"));
  EXPECT_TRUE(MakeConnection("r0", 1, true));
  EXPECT_TRUE(MakeBackend("disk1"));
}

TEST_F(NodeTest, DeletesOnlyWhatIsNotInUse) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  EXPECT_TRUE(IsError(DeleteResource("r0", false), ErrorCode::kFailedPrecondition, "1 volumes"));
  v1::DeleteVolumeRequest volume;
  volume.set_resource("r0");
  EXPECT_TRUE(IsError(node_.Resources(&RM::DeleteVolume, volume), ErrorCode::kFailedPrecondition,
                      "attached"));
  ASSERT_TRUE(Promote("r0", true));
  EXPECT_TRUE(IsError(DeleteResource("r0", true), ErrorCode::kFailedPrecondition, "Primary"));
  ASSERT_TRUE(Demote("r0"));
  v1::CreateExportRequest create;
  create.mutable_spec()->set_name("e");
  create.mutable_spec()->mutable_backing()->mutable_volume()->set_resource("r0");
  ASSERT_TRUE(node_.Call(&Node::exports, &ExportManager::Create, create));
  EXPECT_TRUE(IsError(DeleteResource("r0", true), ErrorCode::kFailedPrecondition, "export e"));
  v1::DeleteExportRequest remove;
  remove.set_name("e");
  ASSERT_TRUE(node_.Call(&Node::exports, &ExportManager::Delete, remove));
  EXPECT_TRUE(DeleteResource("r0", true));
  EXPECT_TRUE(DeleteBackend("disk0"));
  EXPECT_EQ(node_.hub().Last("volume r0/0"), nullptr);
  EXPECT_EQ(node_.hub().Last("resource r0"), nullptr);
  ASSERT_TRUE(node_.Restart());
  EXPECT_EQ(GetStatus().resources_size(), 0);
}

TEST_F(NodeTest, AnOpenVolumeIsNotDemotedAndSaysWhoHoldsIt) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  ASSERT_TRUE(Promote("r0", true));
  OpenerId id = 0;
  BlockDevice* device = nullptr;
  node_.OnReactor([&] {
    device = node_.engine().resource("r0")->volume(0);
    id = *device->Open({"fuse r0-0 pid 4711", true});
  });
  EXPECT_TRUE(IsError(Demote("r0"), ErrorCode::kFailedPrecondition, "fuse r0-0 pid 4711"));
  // The kernel may report the last close a moment after the one who closed went on.
  std::promise<Result<v1::Resource>> answer;
  v1::DemoteRequest request;
  request.set_name("r0");
  node_.node().Call<v1::Resource>(
      [&] { return node_.node().resources().Demote(request); },
      [&answer](Result<v1::Resource> result) { answer.set_value(std::move(result)); });
  node_.OnReactor([&] { device->Close(id); });
  EXPECT_TRUE(answer.get_future().get());
}

TEST_F(NodeTest, ReplacesADisk) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  ASSERT_TRUE(Detach("r0", 0));
  ASSERT_TRUE(Detach("r0", 0));
  ASSERT_TRUE(DeleteBackend("disk0"));
  EXPECT_EQ(GetResource("r0")->volumes(0).spec().backend(), "");
  ASSERT_TRUE(node_.Restart());
  ASSERT_TRUE(MakeBackend("disk1"));
  v1::CreateMetadataRequest metadata;
  metadata.set_resource("r0");
  metadata.set_backend("disk1");
  ASSERT_TRUE(node_.Resources(&RM::CreateMetadata, metadata));
  v1::AttachRequest attach;
  attach.set_resource("r0");
  EXPECT_TRUE(
      IsError(node_.Resources(&RM::Attach, attach), ErrorCode::kInvalidArgument, "no backend"));
  attach.set_backend("disk1");
  ASSERT_TRUE(node_.Resources(&RM::Attach, attach));
  ASSERT_TRUE(node_.Resources(&RM::Attach, attach));  // already so
  ASSERT_TRUE(MakeBackend("disk2"));
  attach.set_backend("disk2");
  EXPECT_TRUE(IsError(node_.Resources(&RM::Attach, attach), ErrorCode::kFailedPrecondition,
                      "attached to backend 'disk1'"));
}

TEST_F(NodeTest, AVolumeThatLostItsBackendsIsNotAttachedAtTheNextStart) {
  for (const char* name : {"disk0", "disk1"}) ASSERT_TRUE(MakeBackend(name));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  ASSERT_TRUE(MakeVolume("r0", 1, "disk1"));
  node_.Stop();
  // Volume 1 cannot have its metadata backend and so holds neither.
  EditStored([](StoredState& state) {
    FindVolume(state, "r0", 1)->mutable_spec()->set_metadata_backend("disk0");
  });
  ASSERT_TRUE(node_.Start());
  EXPECT_TRUE(GetVolume("r0", 1).attach());
  ASSERT_TRUE(DeleteBackend("disk1"));
  EXPECT_FALSE(GetVolume("r0", 1).attach());
  Status restarted = node_.Restart();
  ASSERT_TRUE(restarted) << restarted.error().ToString();
  EXPECT_FALSE(GetVolume("r0", 1).attach());
  EXPECT_EQ(GetVolume("r0", 1).spec().metadata_backend(), "");
}

TEST_F(NodeTest, MakingMetadataHoldsItsBackendsOnlyMeanwhile) {
  for (const char* name : {"a", "b", "m", "n"}) ASSERT_TRUE(MakeBackend(name));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "a"));
  node_.Stop();
  EditStored([](StoredState& state) {
    FindVolume(state, "r0", 0)->mutable_spec()->set_metadata_backend("m");
  });
  node_.disks["/disks/a"].fails = true;  // so that the volume waits, and holds a and m
  ASSERT_TRUE(node_.Start());
  v1::CreateMetadataRequest create;
  create.set_resource("r0");
  create.set_backend("b");
  create.set_metadata_backend("m");
  auto made = node_.Resources(&RM::CreateMetadata, create);
  ASSERT_TRUE(made) << made.error().ToString();
  EXPECT_THAT(GetBackend("m").status().used_by(), ElementsAre("volume r0/0"));
  EXPECT_THAT(GetBackend("b").status().used_by(), ElementsAre());
  create.set_backend("a");
  create.set_metadata_backend("n");
  EXPECT_TRUE(IsError(node_.Resources(&RM::CreateMetadata, create), ErrorCode::kUnavailable, "a"));
  EXPECT_THAT(GetBackend("n").status().used_by(), ElementsAre());
  EXPECT_THAT(GetBackend("a").status().used_by(), ElementsAre("volume r0/0"));
}

TEST_F(NodeTest, AVolumeThatIsBeingMadeOrDeletedIsNotPresented) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  node_.OnReactor([&] { node_.engine().attach_hangs = true; });
  v1::CreateVolumeRequest create;
  create.mutable_spec()->set_resource("r0");
  create.mutable_spec()->set_backend("disk0");
  auto making = Begin(&RM::CreateVolume, create);
  AwaitEvent([](const v1::Event& event) {
    return event.volume().status().disk() == v1::DiskState::Attaching;
  });
  v1::VolumeRef ref;
  ref.set_resource("r0");
  node_.OnReactor([&] {
    EXPECT_TRUE(IsError(node_.node().resources().ClaimVolume(ref, "lun t/0"), ErrorCode::kAborted,
                        "being made or deleted"));
    node_.engine().attach_hangs = false;
  });
  EXPECT_TRUE(IsError(Detach("r0", 0, true), ErrorCode::kNotFound, "no volume r0/0"));
  EXPECT_FALSE(making.get());

  ASSERT_TRUE(MakeVolume("r0", 0, ""));
  node_.OnReactor([&] { node_.engine().removal_hangs = true; });
  v1::DeleteVolumeRequest remove;
  remove.set_resource("r0");
  auto removing = Begin(&RM::DeleteVolume, remove);
  node_.OnReactor([&] {
    EXPECT_TRUE(IsError(node_.node().resources().ClaimVolume(ref, "lun t/0"), ErrorCode::kAborted,
                        "being made or deleted"));
    node_.engine().EndRemoval();
  });
  EXPECT_TRUE(removing.get());
}

TEST_F(NodeTest, ForceDoesNotWaitForAnAttachThatHangs) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, ""));
  ASSERT_TRUE(MakeConnection("r0", 1, true));
  auto attaching = BeginHangingAttach();
  auto connection = Disconnect("r0", 1, true);
  ASSERT_TRUE(connection) << connection.error().ToString();
  EXPECT_FALSE(connection->connect());
  EXPECT_EQ(connection->status().state(), v1::ConnectionState::StandAlone);
  EXPECT_TRUE(IsError(attaching.get(), ErrorCode::kUnavailable, "does not answer"));

  attaching = BeginHangingAttach();
  auto volume = Detach("r0", 0, true);
  ASSERT_TRUE(volume) << volume.error().ToString();
  EXPECT_FALSE(volume->attach());
  EXPECT_FALSE(attaching.get());

  v1::ConnectRequest connect;
  connect.set_resource("r0");
  connect.set_peer_node_id(1);
  ASSERT_TRUE(node_.Resources(&RM::Connect, connect));
  attaching = BeginHangingAttach();
  v1::DeleteConnectionRequest remove;
  remove.set_resource("r0");
  remove.set_peer_node_id(1);
  remove.set_force(true);
  EXPECT_TRUE(node_.Resources(&RM::DeleteConnection, remove));
  EXPECT_FALSE(attaching.get());
  EXPECT_EQ(GetResource("r0")->connections_size(), 0);
}

TEST_F(NodeTest, NothingNewIsMadeWhileTheDaemonStops) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, ""));
  auto attaching = BeginHangingAttach();
  v1::CreateVolumeRequest create;
  create.mutable_spec()->set_resource("r0");
  create.mutable_spec()->set_number(1);
  auto making = Begin(&RM::CreateVolume, create);
  v1::CreateConnectionRequest connection;
  connection.mutable_spec()->set_resource("r0");
  connection.mutable_spec()->set_peer_node_id(1);
  auto connecting = Begin(&RM::CreateConnection, connection);
  node_.Stop();  // its end of the engine's part lets the attach go
  EXPECT_FALSE(attaching.get());
  EXPECT_TRUE(IsError(making.get(), ErrorCode::kUnavailable, "stopping"));
  EXPECT_TRUE(IsError(connecting.get(), ErrorCode::kUnavailable, "stopping"));
}

TEST_F(NodeTest, InvalidateTakesAnyPeerThatHasTheData) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  ASSERT_TRUE(MakeConnection("r0", 1, true));
  v1::InvalidateRequest request;
  request.set_resource("r0");
  EXPECT_TRUE(IsError(node_.Resources(&RM::Invalidate, request), ErrorCode::kFailedPrecondition,
                      "no connected peer"));
  node_.OnReactor([&] { node_.engine().resource("r0")->PeerArrives(1); });
  auto volume = node_.Resources(&RM::Invalidate, request);
  ASSERT_TRUE(volume);
  EXPECT_EQ(volume->status().disk(), v1::DiskState::Inconsistent);
  request.set_peer_node_id(2);
  EXPECT_TRUE(IsError(node_.Resources(&RM::Invalidate, request), ErrorCode::kNotFound, "2"));
}

TEST_F(NodeTest, DisksAreDeclaredEqualOnlyIfTheWantedPeersHearOfIt) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  ASSERT_TRUE(MakeConnection("r0", 1, true));
  v1::NewCurrentUuidRequest request;
  request.set_resource("r0");
  request.set_clear_bitmap(true);
  EXPECT_TRUE(IsError(node_.Resources(&RM::NewCurrentUuid, request), ErrorCode::kFailedPrecondition,
                      "connection r0/1 is not connected"));
  ASSERT_TRUE(Disconnect("r0", 1));
  EXPECT_TRUE(node_.Resources(&RM::NewCurrentUuid, request));
}

TEST_F(NodeTest, ChangesOptionsOfAConnection) {
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeConnection("r0", 1, true, "old secret"));
  v1::UpdateConnectionRequest update;
  update.set_resource("r0");
  update.set_peer_node_id(1);
  update.mutable_net()->set_protocol(v1::Protocol::A);
  // What the handshake compares is not changed under a link that stands.
  EXPECT_TRUE(IsError(node_.Resources(&RM::UpdateConnection, update),
                      ErrorCode::kFailedPrecondition, "protocol must be the same on both nodes"));
  ASSERT_TRUE(Disconnect("r0", 1));
  ASSERT_TRUE(node_.Resources(&RM::UpdateConnection, update));
  v1::ConnectRequest connect;
  connect.set_resource("r0");
  connect.set_peer_node_id(1);
  ASSERT_TRUE(node_.Resources(&RM::Connect, connect));
  update.mutable_net()->mutable_timeout()->set_seconds(5);
  ASSERT_TRUE(node_.Resources(&RM::UpdateConnection, update));
  node_.OnReactor([&] {
    EXPECT_EQ(node_.engine().resource("r0")->net(1).protocol, drbd::Protocol::kA);
    EXPECT_EQ(node_.engine().resource("r0")->net(1).shared_secret, "old secret");
  });
  update.mutable_net()->set_shared_secret("new secret");
  ASSERT_TRUE(node_.Resources(&RM::UpdateConnection, update));
  update.add_paths()->set_local("10.0.0.1:7790");
  update.mutable_paths(0)->set_remote("10.0.0.2:7790");
  EXPECT_TRUE(IsError(node_.Resources(&RM::UpdateConnection, update),
                      ErrorCode::kFailedPrecondition, "not StandAlone"));
  ASSERT_TRUE(Disconnect("r0", 1));
  ASSERT_TRUE(node_.Resources(&RM::UpdateConnection, update));
  ASSERT_TRUE(node_.Restart());
  node_.OnReactor(
      [&] { EXPECT_EQ(node_.engine().resource("r0")->net(1).shared_secret, "new secret"); });
  EXPECT_EQ(GetResource("r0")->connections(0).spec().paths(0).local(), "10.0.0.1:7790");
}

TEST_F(NodeTest, AWaitEndsWhenItsConditionHolds) {
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, ""));
  ASSERT_TRUE(MakeConnection("r0", 1, true));
  v1::WaitRequest request;
  request.set_resource("r0");
  request.set_condition(v1::WaitRequest::CONNECTED);
  request.mutable_timeout()->set_seconds(0);
  EXPECT_TRUE(
      IsError(Wait(request), ErrorCode::kDeadlineExceeded, "connection r0/1 is Connecting"));
  request.mutable_timeout()->set_seconds(100);
  auto waiting = std::async(std::launch::async, [&] { return Wait(request); });
  node_.OnReactor([&] { node_.engine().resource("r0")->PeerArrives(1); });
  auto response = waiting.get();
  ASSERT_TRUE(response) << response.error().ToString();
  EXPECT_EQ(response->resource().connections(0).status().state(), v1::ConnectionState::Connected);
  request.set_resource("rx");
  EXPECT_TRUE(IsError(Wait(request), ErrorCode::kNotFound, "rx"));
  request.set_resource("r0");
  request.mutable_timeout()->set_seconds(1000000);
  EXPECT_TRUE(IsError(Wait(request), ErrorCode::kInvalidArgument, "86400"));
}

TEST_F(NodeTest, AWaitEndsWhenTheDaemonStops) {
  ASSERT_TRUE(MakeResource("r0"));
  v1::WaitRequest request;
  request.set_resource("r0");
  request.set_condition(v1::WaitRequest::CONNECTED);
  request.mutable_timeout()->set_seconds(1000);
  std::promise<Result<v1::WaitResponse>> answer;
  Node* node = &node_.node();
  node->Call<v1::WaitResponse>(
      [node, request] { return node->Wait(request, {}); },
      [&answer](Result<v1::WaitResponse> result) { answer.set_value(std::move(result)); });
  node_.Stop();
  EXPECT_TRUE(IsError(answer.get_future().get(), ErrorCode::kUnavailable, "stopping"));
}

TEST_F(NodeTest, EventsCarryTheReason) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  EventHub::Subscription s;
  ASSERT_EQ(node_.hub().Subscribe(0, "r0", [] {}, &s), EventHub::Outcome::kOk);
  ASSERT_TRUE(Promote("r0", true));
  node_.OnReactor([] {});  // what the engine reported has been published
  bool role = false;
  bool disk = false;
  EventPtr event;
  while (node_.hub().Poll(*s.watcher, &event) == EventHub::Next::kEvent) {
    for (const v1::Change& change : event->changes()) {
      role = role || (event->object() == "resource r0" && change.attribute() == "role" &&
                      change.old_value() == "Secondary" && change.new_value() == "Primary" &&
                      change.reason() == "Promote");
      disk = disk || (event->object() == "volume r0/0" && change.attribute() == "disk" &&
                      change.new_value() == "UpToDate" && change.reason() == "forced promotion");
    }
  }
  EXPECT_TRUE(role);
  EXPECT_TRUE(disk);
  node_.hub().Unsubscribe(s.watcher);
}

TEST_F(NodeTest, ProgressOfASyncIsPublished) {
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, ""));
  ASSERT_TRUE(MakeConnection("r0", 1, true));
  node_.OnReactor([&] { node_.engine().resource("r0")->PeerArrives(1); });
  node_.OnReactor([&] { node_.engine().resource("r0")->SyncRuns(1, 100 * kMiB, 75 * kMiB); });
  AwaitEvent([](const v1::Event& event) {
    return event.object() == "peer-volume r0/1/0" &&
           event.peer_volume().sync().done_percent() == 25.0;
  });
}

TEST_F(NodeTest, FrontsFollowTheirVolumes) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  v1::CreateTargetRequest target;
  target.mutable_spec()->set_name("iqn.2026-01.example:t");
  target.mutable_spec()->mutable_chap()->set_user("u");
  target.mutable_spec()->mutable_chap()->set_secret("123456789012");
  ASSERT_TRUE(node_.Call(&Node::targets, &TargetManager::CreateTarget, target));
  v1::CreateLunRequest lun;
  lun.mutable_spec()->set_target("iqn.2026-01.example:t");
  lun.mutable_spec()->mutable_backing()->mutable_volume()->set_resource("r0");
  auto made = node_.Call(&Node::targets, &TargetManager::CreateLun, lun);
  ASSERT_TRUE(made) << made.error().ToString();
  EXPECT_FALSE(made->ready());
  EXPECT_EQ(made->reason(), "Secondary");
  ASSERT_TRUE(Promote("r0", true));
  AwaitEvent([](const v1::Event& event) {
    return event.object() == "lun iqn.2026-01.example:t/0" && event.lun().ready();
  });
  EXPECT_TRUE(IsError(node_.Call(&Node::targets, &TargetManager::CreateLun, lun),
                      ErrorCode::kAlreadyExists, "lun"));
  // A backend below a volume is not presented past it.
  lun.mutable_spec()->set_number(1);
  lun.mutable_spec()->mutable_backing()->set_backend("disk0");
  EXPECT_TRUE(IsError(node_.Call(&Node::targets, &TargetManager::CreateLun, lun),
                      ErrorCode::kFailedPrecondition, "in use by volume r0/0"));
  ASSERT_TRUE(node_.Restart());
  v1::GetTargetRequest get;
  get.set_name("iqn.2026-01.example:t");
  auto shown = node_.Call(&Node::targets, &TargetManager::GetTarget, get);
  ASSERT_TRUE(shown);
  EXPECT_TRUE(shown->ready());
  EXPECT_EQ(shown->luns_size(), 1);
  EXPECT_TRUE(shown->spec().has_chap());
  EXPECT_FALSE(shown->spec().chap().has_secret());
}

// What a pair of nodes and another pair present, by the serial number.
TEST_F(NodeTest, LunsOfOneVolumeAreOneDiskAndNoOthersAre) {
  struct Site {
    explicit Site(const std::string& name) : node(Options(name)) {
      EXPECT_TRUE(node.Start());
      v1::CreateBackendRequest backend;
      backend.mutable_spec()->set_name("r0");
      backend.mutable_spec()->set_path("/disks/r0");
      backend.mutable_spec()->set_size_bytes(64 * kMiB);
      backend.mutable_spec()->set_create(true);
      EXPECT_TRUE(node.Call(&Node::backends, &BackendManager::Create, backend));
      v1::CreateResourceRequest resource;
      resource.mutable_spec()->set_name("r0");
      EXPECT_TRUE(node.Resources(&RM::Create, resource));
      v1::CreateVolumeRequest volume;
      volume.mutable_spec()->set_resource("r0");
      EXPECT_TRUE(node.Resources(&RM::CreateVolume, volume));
    }
    static NodeOptions Options(const std::string& name) {
      NodeOptions options = TestNode::DefaultOptions();
      options.name = name;
      return options;
    }
    Result<v1::Lun> MakeLun(const std::string& target, uint32_t number, bool of_backend,
                            const std::string& serial = "") {
      v1::CreateTargetRequest create;
      create.mutable_spec()->set_name(target);
      (void)node.Call(&Node::targets, &TargetManager::CreateTarget, create);
      v1::CreateLunRequest lun;
      lun.mutable_spec()->set_target(target);
      lun.mutable_spec()->set_number(number);
      lun.mutable_spec()->set_serial(serial);
      if (of_backend) {
        lun.mutable_spec()->mutable_backing()->set_backend("r0");
      } else {
        lun.mutable_spec()->mutable_backing()->mutable_volume()->set_resource("r0");
      }
      return node.Call(&Node::targets, &TargetManager::CreateLun, lun);
    }
    std::string Serial(const std::string& target, uint32_t number, bool of_backend) {
      auto lun = MakeLun(target, number, of_backend);
      EXPECT_TRUE(lun) << lun.error().ToString();
      return lun ? lun->spec().serial() : "";
    }
    TestNode node;
  };
  const std::string target = "iqn.2026-01.example:r0";
  Site one("n1"), two("n2");
  const std::string serial = one.Serial(target, 0, false);
  EXPECT_EQ(serial.size(), 16u);
  EXPECT_EQ(two.Serial(target, 0, false), serial);
  EXPECT_NE(Site("n1").Serial("iqn.2026-01.example.other:r0", 0, false), serial);
  EXPECT_NE(one.Serial(target, 1, false), serial);
  const std::string backend = one.Serial(target, 2, true);
  EXPECT_NE(backend, serial);
  EXPECT_NE(two.Serial(target, 2, true), backend);
  // An own one, which stays over a restart as every other does.
  EXPECT_TRUE(IsError(one.MakeLun(target, 3, false, serial), ErrorCode::kAlreadyExists, serial));
  EXPECT_TRUE(
      IsError(one.MakeLun(target, 3, false, "no blanks"), ErrorCode::kInvalidArgument, "serial"));
  ASSERT_TRUE(one.MakeLun(target, 3, false, "my-disk"));
  ASSERT_TRUE(one.node.Restart());
  one.node.OnReactor([&] {
    EXPECT_EQ(one.node.engine().luns.at(target + "/0").serial, serial);
    EXPECT_EQ(one.node.engine().luns.at(target + "/3").serial, "my-disk");
  });
}

TEST_F(NodeTest, ALunKeepsItsBlockSize) {
  for (const char* name : {"old", "new"}) {
    node_.disks[std::string("/disks/") + name] = {.size = 64 * kMiB, .block_size = 4096};
  }
  ASSERT_TRUE(MakeBackend("old"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "old"));
  ASSERT_TRUE(MakeVolume("r0", 1, ""));
  const std::string target = "iqn.2026-01.example:t";
  v1::CreateTargetRequest create;
  create.mutable_spec()->set_name(target);
  ASSERT_TRUE(node_.Call(&Node::targets, &TargetManager::CreateTarget, create));
  v1::CreateLunRequest lun;
  lun.mutable_spec()->set_target(target);
  lun.mutable_spec()->mutable_backing()->mutable_volume()->set_resource("r0");
  auto made = node_.Call(&Node::targets, &TargetManager::CreateLun, lun);
  ASSERT_TRUE(made) << made.error().ToString();
  EXPECT_EQ(made->spec().block_size(), 4096u);
  lun.mutable_spec()->set_number(1);
  lun.mutable_spec()->mutable_backing()->mutable_volume()->set_number(1);
  made = node_.Call(&Node::targets, &TargetManager::CreateLun, lun);
  ASSERT_TRUE(made) << made.error().ToString();
  EXPECT_EQ(made->spec().block_size(), 512u);

  // The volume is Diskless at the next start, and looks as if 512 would do.
  ASSERT_TRUE(Detach("r0", 0));
  ASSERT_TRUE(node_.Restart());
  node_.OnReactor([&] { EXPECT_EQ(node_.engine().luns.at(target + "/0").block_size, 4096u); });
  // A disk that needs more than the LUN has makes it not ready, at once and after a restart.
  ASSERT_TRUE(MakeBackend("new"));
  v1::CreateMetadataRequest metadata;
  metadata.set_resource("r0");
  metadata.set_number(1);
  metadata.set_backend("new");
  ASSERT_TRUE(node_.Resources(&RM::CreateMetadata, metadata));
  v1::AttachRequest attach;
  attach.set_resource("r0");
  attach.set_number(1);
  attach.set_backend("new");
  ASSERT_TRUE(node_.Resources(&RM::Attach, attach));
  const auto second = [&] {
    v1::GetTargetRequest get;
    get.set_name(target);
    return node_.Call(&Node::targets, &TargetManager::GetTarget, get)->luns(1);
  };
  EXPECT_FALSE(second().ready());
  EXPECT_THAT(second().reason(), HasSubstr("needs blocks of 4096 bytes"));
  ASSERT_TRUE(node_.Restart());
  EXPECT_THAT(second().reason(), HasSubstr("needs blocks of 4096 bytes"));
  node_.OnReactor([&] { EXPECT_FALSE(node_.engine().luns.contains(target + "/1")); });
}

TEST_F(NodeTest, ALunThatWasStoredWithoutBlockSizeAndSerialGetsThemForGood) {
  ASSERT_TRUE(MakeBackend("disk0"));
  const std::string target = "iqn.2026-01.example:t";
  v1::CreateTargetRequest create;
  create.mutable_spec()->set_name(target);
  ASSERT_TRUE(node_.Call(&Node::targets, &TargetManager::CreateTarget, create));
  node_.Stop();
  EditStored([&](StoredState& state) {
    v1::LunSpec* lun = FindTarget(state, target)->add_luns();
    lun->set_target(target);
    lun->mutable_backing()->set_backend("disk0");
  });
  node_.disks["/disks/disk0"].block_size = 4096;
  ASSERT_TRUE(node_.Start());
  node_.disks["/disks/disk0"].block_size = 512;
  ASSERT_TRUE(node_.Restart());
  node_.OnReactor([&] {
    const LunSetup& setup = node_.engine().luns.at(target + "/0");
    EXPECT_EQ(setup.block_size, 4096u);
    EXPECT_EQ(setup.serial.size(), 16u);
  });
}

TEST_F(NodeTest, AMountThatSomebodyElseUnmountedComesBack) {
  ASSERT_TRUE(MakeBackend("disk0"));
  v1::CreateExportRequest create;
  create.mutable_spec()->set_name("e");
  create.mutable_spec()->mutable_backing()->set_backend("disk0");
  ASSERT_TRUE(node_.Call(&Node::exports, &ExportManager::Create, create));
  EventHub::Subscription s;
  ASSERT_EQ(node_.hub().Subscribe(0, "", [] {}, &s), EventHub::Outcome::kOk);
  node_.OnReactor([&] {
    node_.engine().open_files.insert("e");
    node_.engine().fuse_mounted = false;
  });
  bool lost = false;
  bool back = false;
  while (!back) {
    EventPtr event;
    if (node_.hub().Poll(*s.watcher, &event) != EventHub::Next::kEvent) {
      std::this_thread::yield();
      continue;
    }
    if (event->object() != "export e") continue;
    const v1::Export& item = event->export_();
    lost = lost ||
           (!item.ready() && item.reason().find("unmounted by somebody else") != std::string::npos);
    back = lost && item.ready();
  }
  node_.hub().Unsubscribe(s.watcher);
  node_.OnReactor([&] {
    EXPECT_TRUE(node_.engine().open_files.empty());
    EXPECT_TRUE(node_.engine().fuse_mounted);
  });
}

TEST_F(NodeTest, AnOpenExportIsDeletedOnlyByForce) {
  ASSERT_TRUE(MakeBackend("disk0"));
  v1::CreateExportRequest create;
  create.mutable_spec()->set_name("e");
  create.mutable_spec()->mutable_backing()->set_backend("disk0");
  ASSERT_TRUE(node_.Call(&Node::exports, &ExportManager::Create, create));
  node_.OnReactor([&] { node_.engine().open_files.insert("e"); });
  v1::DeleteExportRequest remove;
  remove.set_name("e");
  EXPECT_TRUE(IsError(node_.Call(&Node::exports, &ExportManager::Delete, remove),
                      ErrorCode::kFailedPrecondition, "open"));
  remove.set_force(true);
  EXPECT_TRUE(node_.Call(&Node::exports, &ExportManager::Delete, remove));
}

TEST_F(NodeTest, WithoutFuseExportsSayWhy) {
  NodeOptions options = TestNode::DefaultOptions();
  options.fuse_dir.clear();
  TestNode plain(options);
  ASSERT_TRUE(plain.Start());
  v1::CreateExportRequest create;
  create.mutable_spec()->set_name("e");
  create.mutable_spec()->mutable_backing()->set_backend("b");
  EXPECT_TRUE(IsError(plain.Call(&Node::exports, &ExportManager::Create, create),
                      ErrorCode::kUnimplemented, "--fuse-dir"));
}

TEST_F(NodeTest, ABackendOnItsOwnExportIsRefused) {
  ASSERT_TRUE(MakeBackend("disk0"));
  v1::CreateExportRequest create;
  create.mutable_spec()->set_name("e");
  create.mutable_spec()->mutable_backing()->set_backend("disk0");
  ASSERT_TRUE(node_.Call(&Node::exports, &ExportManager::Create, create));
  v1::CreateBackendRequest request;
  request.mutable_spec()->set_name("loop");
  request.mutable_spec()->set_path("/exports/e");
  EXPECT_TRUE(IsError(node_.Call(&Node::backends, &BackendManager::Create, request),
                      ErrorCode::kFailedPrecondition, "wait for itself"));
}

TEST_F(NodeTest, CallsAreRefusedBeforeTheStartAndAfterTheStop) {
  node_.OnReactor([&] { node_.node().BeginStop(); });
  EXPECT_TRUE(IsError(GetResource("r0"), ErrorCode::kUnavailable, "stopping"));
}

// Many callers at a time, as gRPC's threads would be.
TEST_F(NodeTest, ManyThreadsMayCall) {
  std::vector<std::thread> callers;
  std::atomic<int> made{0};
  for (int c = 0; c < 8; ++c) {
    callers.emplace_back([&, c] {
      for (int i = 0; i < 10; ++i) {
        const std::string name = fmt::format("r{}-{}", c, i);
        if (MakeResource(name)) ++made;
        if (i % 2 == 0) EXPECT_TRUE(DeleteResource(name, false));
        (void)GetStatus();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(made, 80);
  EXPECT_EQ(GetStatus().resources_size(), 40);
}

}  // namespace
}  // namespace umblock::server
