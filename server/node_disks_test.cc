// NodeTest: backends, metadata, and the disks below volumes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "server/testing/node_fixture.h"

namespace umblock::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

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

TEST_F(NodeTest, RefusesTheDiskOfAnotherVolumeEvenIfThatIsDetached) {
  for (const char* name : {"disk0", "disk1"}) ASSERT_TRUE(MakeBackend(name));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  ASSERT_TRUE(MakeVolume("r0", 1, "disk1"));
  ASSERT_TRUE(Detach("r0", 0));
  ASSERT_TRUE(Detach("r0", 1));
  v1::AttachRequest attach;
  attach.set_resource("r0");
  attach.set_backend("disk1");
  EXPECT_TRUE(IsError(node_.Resources(&RM::Attach, attach), ErrorCode::kFailedPrecondition,
                      "another disk"));
  // Metadata that is made anew is the volume's own.
  v1::CreateMetadataRequest create;
  create.set_resource("r0");
  create.set_backend("disk1");
  create.set_force(true);
  ASSERT_TRUE(node_.Resources(&RM::CreateMetadata, create));
  ASSERT_TRUE(node_.Resources(&RM::Attach, attach));
  ASSERT_TRUE(node_.Restart());
  ASSERT_TRUE(Detach("r0", 0));
  attach.set_backend("disk0");
  EXPECT_TRUE(
      IsError(node_.Resources(&RM::Attach, attach), ErrorCode::kFailedPrecondition, "by force"));
  attach.set_force(true);
  EXPECT_TRUE(node_.Resources(&RM::Attach, attach));
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

TEST_F(NodeTest, SizesAreChangedAndRemembered) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  const uint64_t before = GetBackend("disk0").status().size_bytes();
  v1::ResizeBackendRequest grow;
  grow.set_name("disk0");
  grow.set_size_bytes(before / 2);
  EXPECT_TRUE(IsError(node_.Call(&Node::backends, &BackendManager::Resize, grow),
                      ErrorCode::kInvalidArgument, "smaller"));
  grow.set_size_bytes(2 * before);
  const auto grown = node_.Call(&Node::backends, &BackendManager::Resize, grow);
  ASSERT_TRUE(grown);
  EXPECT_EQ(grown->status().size_bytes(), 2 * before);
  EXPECT_EQ(grown->spec().size_bytes(), 0) << "whatever the file has from now on";
  grow.set_name("none");
  EXPECT_TRUE(IsError(node_.Call(&Node::backends, &BackendManager::Resize, grow),
                      ErrorCode::kNotFound, "none"));
  v1::ResizeVolumeRequest resize;
  resize.set_resource("r0");
  resize.set_size_bytes(before / 2);
  EXPECT_TRUE(IsError(node_.Resources(&RM::ResizeVolume, resize), ErrorCode::kFailedPrecondition,
                      "would be lost"));
  resize.set_shrink(true);
  const auto resized = node_.Resources(&RM::ResizeVolume, resize);
  ASSERT_TRUE(resized);
  EXPECT_EQ(resized->spec().size_bytes(), before / 2);
  EXPECT_EQ(resized->status().size_bytes(), before / 2);
  resize.set_number(7);
  EXPECT_TRUE(IsError(node_.Resources(&RM::ResizeVolume, resize), ErrorCode::kNotFound, "r0/7"));
  // Where the metadata was is known at the next start.
  node_.OnReactor([&] { node_.engine().last_known_size = 0; });
  ASSERT_TRUE(node_.Restart());
  EXPECT_EQ(node_.engine().last_known_size, before);
  EXPECT_EQ(GetResource("r0")->volumes(0).spec().size_bytes(), before / 2);
}

// The metadata of a disk that grew while it was detached is found by it.
TEST_F(NodeTest, AnAttachThatFailsLeavesTheSizeOfTheVolumesOwnDiskKnown) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  const uint64_t size = GetBackend("disk0").status().size_bytes();
  ASSERT_TRUE(Detach("r0", 0));
  v1::AttachRequest attach;
  attach.set_resource("r0");
  attach.set_backend("mistyped");
  EXPECT_TRUE(IsError(node_.Resources(&RM::Attach, attach), ErrorCode::kNotFound, "mistyped"));
  attach.set_backend("disk0");
  ASSERT_TRUE(node_.Resources(&RM::Attach, attach));
  EXPECT_EQ(node_.engine().last_known_size, size);
}

TEST_F(NodeTest, AnAttachThatHangsDoesNotKeepOtherDisksFromComingBack) {
  ASSERT_TRUE(MakeBackend("late"));
  ASSERT_TRUE(MakeResource("r1"));
  ASSERT_TRUE(MakeVolume("r1", 0, "late"));
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeResource("r0"));
  ASSERT_TRUE(MakeVolume("r0", 0, "disk0"));
  ASSERT_TRUE(Detach("r0", 0));
  const FakeDisk disk = node_.disks["/disks/late"];
  node_.Stop();
  node_.disks.erase("/disks/late");
  ASSERT_TRUE(node_.Start());
  auto attaching = BeginHangingAttach();
  node_.OnReactor([&] {
    node_.engine().attach_hangs = false;  // of any further one
    node_.disks["/disks/late"] = disk;
  });
  AwaitEvent([](const v1::Event& event) {
    return event.object() == "volume r1/0" &&
           event.volume().status().disk() >= v1::DiskState::Inconsistent;
  });
  node_.OnReactor([&] { node_.engine().LetAttachGo(); });
  (void)attaching.get();
}

// Its LUNs, its exports and the way to take the disk out of the configuration are needed.
TEST_F(NodeTest, ANodeStartsWithoutADiskThatDoesNotAnswer) {
  for (const char* name : {"a", "b", "c"}) {
    ASSERT_TRUE(MakeBackend(name));
    ASSERT_TRUE(MakeResource(name));
    ASSERT_TRUE(MakeVolume(name, 0, name));
  }
  node_.Stop();
  node_.disks["/disks/a"].open_hangs = true;
  node_.disks["/disks/b"].attach_hangs = true;
  node_.set_patience(1ms);
  ASSERT_TRUE(node_.Start());
  const auto await_disk = [&](const std::string& volume, v1::DiskState::Value disk) {
    AwaitEvent([&](const v1::Event& event) {
      return event.object() == volume && event.volume().status().disk() == disk;
    });
  };
  EXPECT_THAT(GetBackend("a").status().reason(), HasSubstr("has not answered yet"));
  await_disk("volume b/0", v1::DiskState::Attaching);
  await_disk("volume c/0", v1::DiskState::Inconsistent);
  EXPECT_TRUE(Detach("b", 0, true));
  // What answers at last is used.
  node_.OnReactor([&] { node_.engine().EndRemoval(); });
  await_disk("volume a/0", v1::DiskState::Inconsistent);
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

}  // namespace
}  // namespace umblock::server
