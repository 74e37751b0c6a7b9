// NodeTest: building and taking apart, restarts, acts and waits, events, calls from many threads.
#include "server/node.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/testing/node_fixture.h"

namespace umblock::server {
namespace {

using ::testing::ElementsAre;

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

// Who connects is recognised by its address only.
TEST_F(NodeTest, RefusesAPathThatAnotherConnectionHas) {
  ASSERT_TRUE(MakeResource("r0"));
  auto first = MakeConnection("r0", 1, false);
  ASSERT_TRUE(first);
  const v1::Path path = first->spec().paths(0);
  ASSERT_TRUE(MakeResource("r1"));
  v1::CreateConnectionRequest create;
  create.mutable_spec()->set_resource("r1");
  create.mutable_spec()->set_peer_node_id(2);
  *create.mutable_spec()->add_paths() = path;
  const auto made = [&] { return node_.Resources(&RM::CreateConnection, create); };
  EXPECT_TRUE(IsError(made(), ErrorCode::kAlreadyExists, "r0/1 expects the same host"));
  // Its port at the other end does not tell them apart.
  create.mutable_spec()->mutable_paths(0)->set_remote("10.0.0.2:9999");
  EXPECT_TRUE(IsError(made(), ErrorCode::kAlreadyExists, "r0/1 expects the same host"));
  create.mutable_spec()->mutable_paths(0)->set_local("10.0.0.1:9999");
  *create.mutable_spec()->add_paths() = create.spec().paths(0);
  EXPECT_TRUE(IsError(made(), ErrorCode::kAlreadyExists, "another of its paths"));
  create.mutable_spec()->mutable_paths()->RemoveLast();
  ASSERT_TRUE(made());
  v1::UpdateConnectionRequest update;
  update.set_resource("r1");
  update.set_peer_node_id(2);
  *update.add_paths() = path;
  EXPECT_TRUE(IsError(node_.Resources(&RM::UpdateConnection, update), ErrorCode::kAlreadyExists,
                      "r0/1 expects the same host"));
  // A connection is not in its own way.
  update.set_resource("r0");
  update.set_peer_node_id(1);
  EXPECT_TRUE(node_.Resources(&RM::UpdateConnection, update));
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

TEST_F(NodeTest, AVerifyIsStartedShownAndStopped) {
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, ""));
  v1::StartVerifyRequest start;
  start.set_resource("r0");
  start.set_peer_node_id(1);
  EXPECT_TRUE(IsError(node_.Resources(&RM::StartVerify, start), ErrorCode::kNotFound,
                      "no peer with node id 1"));
  ASSERT_TRUE(MakeConnection("r0", 1, true));
  node_.OnReactor([&] { node_.engine().resource("r0")->PeerArrives(1); });
  start.set_start_bytes(8192);
  auto started = node_.Resources(&RM::StartVerify, start);
  ASSERT_TRUE(started) << started.error().ToString();
  EXPECT_EQ(started->volumes(0).replication(), v1::ReplicationState::VerifyS);
  EXPECT_TRUE(started->volumes(0).verify().running());
  EXPECT_EQ(started->volumes(0).verify().different_bytes(), 4096u);
  node_.OnReactor([&] {
    const auto& asked = node_.engine().resource("r0")->last_verify;
    EXPECT_EQ(asked->start, 8192u);
    EXPECT_FALSE(asked->stop);
  });
  start.set_number(7);
  EXPECT_TRUE(IsError(node_.Resources(&RM::StartVerify, start), ErrorCode::kNotFound, "r0/7"));
  v1::StopVerifyRequest stop;
  stop.set_resource("r0");
  stop.set_peer_node_id(1);
  auto stopped = node_.Resources(&RM::StopVerify, stop);
  ASSERT_TRUE(stopped);
  EXPECT_FALSE(stopped->volumes(0).verify().running());
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

TEST_F(NodeTest, AGenerationIsBegunByThePrimaryOrByForce) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  v1::NewCurrentUuidRequest request;
  request.set_resource("r0");
  EXPECT_TRUE(IsError(node_.Resources(&RM::NewCurrentUuid, request), ErrorCode::kFailedPrecondition,
                      "Secondary"));
  request.set_force(true);
  EXPECT_TRUE(node_.Resources(&RM::NewCurrentUuid, request));
}

TEST_F(NodeTest, APeerIsForgottenWithItsConnection) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  ASSERT_TRUE(MakeConnection("r0", 1, false));
  ASSERT_TRUE(MakeConnection("r0", 2, false));
  v1::DeleteConnectionRequest request;
  request.set_resource("r0");
  request.set_peer_node_id(1);
  request.set_forget(true);
  ASSERT_TRUE(Detach("r0", 0));
  EXPECT_TRUE(IsError(node_.Resources(&RM::DeleteConnection, request),
                      ErrorCode::kFailedPrecondition, "volume r0/0 has no disk"));
  EXPECT_EQ(GetResource("r0")->connections_size(), 2);
  v1::AttachRequest attach;
  attach.set_resource("r0");
  ASSERT_TRUE(node_.Resources(&RM::Attach, attach));
  node_.OnReactor([&] { node_.engine().forgetting_fails = true; });
  EXPECT_FALSE(node_.Resources(&RM::DeleteConnection, request));
  EXPECT_EQ(GetResource("r0")->connections_size(), 2) << "what fails is taken back";
  node_.OnReactor([&] { node_.engine().forgetting_fails = false; });
  ASSERT_TRUE(node_.Resources(&RM::DeleteConnection, request));
  EXPECT_THAT(node_.engine().forgotten, ElementsAre(1));
  // Without forget it keeps its place, and is forgotten by its number later.
  request.set_peer_node_id(2);
  request.set_forget(false);
  v1::ForgetPeerRequest forget;
  forget.set_resource("r0");
  forget.set_peer_node_id(2);
  EXPECT_TRUE(
      IsError(node_.Resources(&RM::ForgetPeer, forget), ErrorCode::kFailedPrecondition, "a peer"));
  ASSERT_TRUE(node_.Resources(&RM::DeleteConnection, request));
  EXPECT_THAT(node_.engine().forgotten, ElementsAre(1));
  ASSERT_TRUE(node_.Resources(&RM::ForgetPeer, forget));
  EXPECT_THAT(node_.engine().forgotten, ElementsAre(1, 2));
  forget.set_number(7);
  EXPECT_TRUE(IsError(node_.Resources(&RM::ForgetPeer, forget), ErrorCode::kNotFound, "r0/7"));
}

}  // namespace
}  // namespace umblock::server
