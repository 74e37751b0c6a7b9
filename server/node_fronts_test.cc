// NodeTest: what presents volumes: LUNs and exports.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/testing/node_fixture.h"

namespace umblock::server {
namespace {

using ::testing::HasSubstr;

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

// The device below holds its requests, because I/O is suspended for instance.
TEST_F(NodeTest, AnExportThatCannotGoYetHoldsUpNobodyElse) {
  ASSERT_TRUE(MakeBackend("disk0"));
  ASSERT_TRUE(MakeBackend("disk1"));
  v1::CreateExportRequest create;
  create.mutable_spec()->set_name("e");
  create.mutable_spec()->mutable_backing()->set_backend("disk0");
  ASSERT_TRUE(node_.Call(&Node::exports, &ExportManager::Create, create));
  v1::DeleteExportRequest remove;
  remove.set_name("e");
  remove.set_force(true);
  std::promise<Result<v1::DeleteExportResponse>> answer;
  node_.OnReactor([&] { node_.engine().file_hangs = true; });
  Node* node = &node_.node();
  node->Call<v1::DeleteExportResponse>(
      [node, remove] { return node->exports().Delete(remove); },
      [&answer](auto result) { answer.set_value(std::move(result)); });
  // What follows stands behind the deletion, and is answered before it.
  EXPECT_EQ(GetStatus().exports_size(), 1);
  EXPECT_TRUE(IsError(node_.Call(&Node::exports, &ExportManager::Delete, remove),
                      ErrorCode::kAborted, "waits for requests on backend disk0"));
  create.mutable_spec()->set_name("other");
  create.mutable_spec()->mutable_backing()->set_backend("disk1");
  EXPECT_TRUE(node_.Call(&Node::exports, &ExportManager::Create, create));
  node_.OnReactor([&] { node_.engine().EndRemoval(); });
  EXPECT_TRUE(answer.get_future().get());
  ASSERT_EQ(GetStatus().exports_size(), 1);
  EXPECT_EQ(GetStatus().exports(0).spec().name(), "other");
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

}  // namespace
}  // namespace umblock::server
