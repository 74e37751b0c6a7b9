// umctl against a daemon in this process (with fake engine parts): what it prints, what it asks,
// and its exit codes.
#include "ctl/umctl.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "server/api_server.h"
#include "server/testing/test_node.h"

namespace umblock::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class UmctlTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(node_.Start());
    server::ApiServerOptions options;
    socket_ = node_.directory() + "/api.sock";
    options.socket_path = socket_;
    auto server = server::ApiServer::Start(&node_.node(), options);
    ASSERT_TRUE(server) << server.error().ToString();
    server_ = std::move(*server);
    server_->SetServing(true);
  }
  void TearDown() override {
    node_.OnReactor([&] { node_.node().BeginStop(); });
    if (server_) server_->Shutdown(std::chrono::seconds(1));
  }

  int Run(std::vector<std::string> arguments, const std::string& input = "",
          bool terminal = false) {
    std::istringstream in(input);
    std::ostringstream out;
    std::ostringstream err;
    if (arguments.empty() || arguments[0] != "--socket") {
      arguments.insert(arguments.begin(), {"--socket", socket_});
    }
    const int code = RunUmctl(arguments, {in, out, err, terminal, terminal});
    out_ = out.str();
    err_ = err.str();
    return code;
  }
  void Must(std::vector<std::string> arguments) {
    ASSERT_EQ(Run(std::move(arguments)), kExitOk) << err_;
  }
  void MakeDisk(const std::string& name) {
    Must({"backend", "create", name, "--path", "/disks/" + name, "--size", "64MiB", "--create"});
  }

  server::TestNode node_;
  std::string socket_;
  std::unique_ptr<server::ApiServer> server_;
  std::string out_, err_;
};

TEST_F(UmctlTest, AWholeResourceInOneCommand) {
  MakeDisk("disk0");
  EXPECT_EQ(out_,
            "NAME   KIND  READY  SIZE      PATH          USED-BY  REASON\n"
            "disk0  File  yes    64.0 MiB  /disks/disk0  -        -\n");
  const std::string secret = node_.directory() + "/secret";
  std::ofstream(secret) << "hush\nnot this\n";
  Must({"resource", "create", "r0", "--node-id", "0", "--volume", "0:backend=disk0", "--peer",
        "1,name=n2,local=10.0.0.1:7789,remote=10.0.0.2:7789", "--protocol", "A",
        "--shared-secret-file", secret});
  Must({"status"});
  EXPECT_EQ(out_,
            "r0 role:Secondary\n"
            "  disk:Inconsistent open:no\n"
            "      reason: just created\n"
            "  n2 connection:Connecting\n"
            "\n");
  node_.OnReactor([&] {
    EXPECT_EQ(node_.engine().resource("r0")->net(1).protocol, drbd::Protocol::kA);
    EXPECT_EQ(node_.engine().resource("r0")->net(1).shared_secret, "hush");
  });
}

TEST_F(UmctlTest, AFailedOneShotLeavesNothing) {
  MakeDisk("disk0");
  EXPECT_EQ(Run({"resource", "create", "r0", "--node-id", "0", "--volume", "0:backend=disk0",
                 "--volume", "1:backend=nope"}),
            kExitNotFound);
  EXPECT_EQ(err_, "umctl: volume r0/1: no backend 'nope' (nothing was kept)\n");
  EXPECT_EQ(Run({"resource", "get", "r0"}), kExitNotFound);
  Must({"backend", "delete", "disk0"});
}

TEST_F(UmctlTest, StepByStep) {
  MakeDisk("disk0");
  Must({"resource", "create", "r0", "--node-id", "0"});
  Must({"volume", "create", "r0/0"});
  EXPECT_EQ(Run({"volume", "attach", "r0/0", "--backend", "disk0"}), kExitNotFound);
  EXPECT_THAT(err_, HasSubstr("no metadata"));
  Must({"metadata", "create", "r0/0", "--backend", "disk0", "--max-peers", "3"});
  Must({"volume", "attach", "r0/0", "--backend", "disk0"});
  Must({"connection", "create", "r0", "--peer-node-id", "1", "--peer-name", "n2", "--path",
        "10.0.0.1:7789", "10.0.0.2:7789", "--ping-int", "3s", "--after-sb-0pri",
        "DiscardZeroChanges"});
  Must({"connection", "connect", "r0/1"});
  EXPECT_THAT(out_, HasSubstr("Connecting"));
  Must({"connection", "disconnect", "r0", "--peer-node-id", "1"});
  EXPECT_THAT(out_, HasSubstr("StandAlone"));
  Must({"volume", "new-current-uuid", "r0/0", "--clear-bitmap"});
  Must({"resource", "promote", "r0"});
  EXPECT_THAT(out_, HasSubstr("Primary"));
  Must({"resource", "suspend-io", "r0"});
  Must({"resource", "resume-io", "r0"});
  Must({"export", "create", "r0-0", "--volume", "r0/0"});
  EXPECT_EQ(out_,
            "NAME  PRESENTS     SIZE      READY  OPEN  PATH           REASON\n"
            "r0-0  volume r0/0  63.0 MiB  yes    0     /exports/r0-0  -\n");
  Must({"portal", "create", "0.0.0.0:3260"});
  Must({"target", "create", "iqn.2026-01.example:t", "--initiator", "iqn.2026-01.example:a",
        "--initiator", "iqn.2026-01.example:b"});
  Must({"lun", "create", "iqn.2026-01.example:t", "0", "--volume", "r0/0", "--serial", "my-disk"});
  EXPECT_EQ(out_,
            "TARGET                 LUN  PRESENTS     SIZE      BLOCK  SERIAL   READY  REASON\n"
            "iqn.2026-01.example:t  0    volume r0/0  63.0 MiB  512    my-disk  yes    -\n");
  Must({"target", "show", "iqn.2026-01.example:t"});
  EXPECT_THAT(out_, HasSubstr("iqn.2026-01.example:a, iqn.2026-01.example:b"));
  EXPECT_THAT(out_, HasSubstr("volume r0/0"));
  Must({"lun", "delete", "iqn.2026-01.example:t", "0"});
  Must({"target", "delete", "iqn.2026-01.example:t", "--force", "--yes"});
  Must({"portal", "delete", "0.0.0.0:3260"});
  EXPECT_EQ(Run({"export", "delete", "r0-0", "--force"}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("--yes"));
  Must({"export", "delete", "r0-0", "--force", "--yes"});
  Must({"resource", "demote", "r0"});
  Must({"volume", "outdate", "r0/0"});
  Must({"volume", "detach", "r0/0"});
  Must({"connection", "delete", "r0/1"});
  EXPECT_EQ(Run({"volume", "forget-peer", "r0/0"}), kExitUsage);
  Must({"volume", "delete", "r0/0"});
  Must({"resource", "delete", "r0"});
  EXPECT_EQ(out_, "resource r0 deleted\n");
  Must({"status"});
  EXPECT_EQ(out_, "# No resources are configured here.\n");
}

TEST_F(UmctlTest, JsonIsTheApi) {
  Must({"resource", "create", "r0", "--node-id", "2", "-o", "json"});
  v1::Resource resource;
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(out_, &resource).ok()) << out_;
  EXPECT_EQ(resource.spec().node_id(), 2u);
  EXPECT_EQ(resource.status().role(), v1::Role::Secondary);
  EXPECT_THAT(out_, HasSubstr("\"role\": \"Secondary\""));
  Must({"-o", "json", "status"});
  v1::NodeStatus status;
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(out_, &status).ok());
  Must({"-o", "json", "node", "show"});
  v1::Node node;
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(out_, &node).ok());
  Must({"-o", "json", "resource", "delete", "r0"});
  EXPECT_EQ(out_, "{}\n");
}

// Of the access list, the fencing and the rest: lost in passing they are missed when it is too
// late.
TEST_F(UmctlTest, AnUpdateChangesOnlyWhatItNames) {
  const std::string secret = node_.directory() + "/secret";
  std::ofstream(secret) << "123456789012\n";
  MakeDisk("disk0");
  Must({"resource", "create", "r0", "--node-id", "0", "--strict-flush", "no"});
  Must({"volume", "create", "r0/0", "--on-io-error", "PassOn", "--disk-timeout", "30s"});
  Must({"connection", "create", "r0/1", "--path", "10.0.0.1:7789", "10.0.0.2:7789", "--fencing",
        "ResourceOnly", "--shared-secret-file", secret, "--c-max-rate", "5000"});
  const std::string target = "iqn.2026-01.example:t";
  Must({"target", "create", target, "--initiator", "iqn.2026-01.example:a", "--chap-user", "u",
        "--chap-secret-file", secret});

  Must({"resource", "update", "r0", "--max-io-depth", "100"});
  Must({"volume", "update", "r0/0", "--al-extents", "100", "--disk-timeout", "0"});
  Must({"connection", "update", "r0/1", "--verify-alg", "crc32c", "--c-min-rate", "100"});
  Must({"target", "update", target, "--alias", "disk"});
  Must({"-o", "json", "resource", "get", "r0"});
  v1::Resource resource;
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(out_, &resource).ok());
  EXPECT_FALSE(resource.spec().options().strict_flush());
  EXPECT_TRUE(resource.spec().options().has_strict_flush());
  EXPECT_EQ(resource.spec().options().max_io_depth(), 100u);
  const v1::DiskOptions& disk = resource.volumes(0).spec().disk();
  EXPECT_EQ(disk.on_io_error(), v1::OnIoError::PassOn);
  EXPECT_EQ(disk.al_extents(), 100u);
  EXPECT_EQ(disk.disk_timeout().seconds(), 0);
  const v1::Connection& connection = resource.connections(0);
  EXPECT_EQ(connection.spec().net().fencing(), v1::Fencing::ResourceOnly);
  EXPECT_EQ(connection.spec().net().verify_alg(), "crc32c");
  EXPECT_TRUE(connection.has_shared_secret());
  EXPECT_EQ(connection.spec().resync().c_max_rate(), 5000u);
  EXPECT_EQ(connection.spec().resync().c_min_rate(), 100u);
  v1::Target shown;
  Must({"-o", "json", "target", "get", target});
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(out_, &shown).ok());
  EXPECT_EQ(shown.spec().alias(), "disk");
  EXPECT_EQ(shown.spec().initiators_size(), 1);
  EXPECT_EQ(shown.spec().chap().user(), "u");

  Must({"target", "update", target, "--initiator", "iqn.2026-01.example:b", "-o", "json"});
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(out_, &shown).ok());
  ASSERT_EQ(shown.spec().initiators_size(), 1);
  EXPECT_EQ(shown.spec().initiators(0), "iqn.2026-01.example:b");
  Must({"target", "update", target, "--reset", "-o", "json"});
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(out_, &shown).ok());
  EXPECT_FALSE(shown.spec().has_chap());
  Must({"connection", "update", "r0/1", "--reset", "-o", "json"});
  v1::Connection fresh;
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(out_, &fresh).ok());
  EXPECT_EQ(fresh.spec().net().fencing(), v1::Fencing::UNSPECIFIED);
}

TEST_F(UmctlTest, ASecretWithoutAUserIsNotPassedOver) {
  const std::string secret = node_.directory() + "/secret";
  std::ofstream(secret) << "123456789012\n";
  EXPECT_EQ(Run({"target", "create", "iqn.2026-01.example:t", "--chap-secret-file", secret}),
            kExitUsage);
  EXPECT_THAT(err_, HasSubstr("chap.user"));
}

TEST_F(UmctlTest, WhatTheDaemonRefusesForNowIsNoSilence) {
  node_.OnReactor([&] { node_.node().BeginStop(); });
  EXPECT_EQ(Run({"resource", "list"}), kExitUnavailable);
  EXPECT_EQ(err_, "umctl: umblockd is stopping: try again in a moment\n");
}

// On a full disk, for instance: a script would go on with half of it.
TEST_F(UmctlTest, OutputThatIsLostIsAFailure) {
  for (const char* verb : {"status", "events"}) {
    std::istringstream in;
    std::ostream nowhere(nullptr);
    std::ostringstream err;
    EXPECT_EQ(RunUmctl({"--socket", socket_, verb}, {in, nowhere, err, false, false}),
              kExitFailure);
    EXPECT_EQ(err.str(), "umctl: the output could not be written\n");
  }
}

TEST_F(UmctlTest, ExitCodes) {
  EXPECT_EQ(Run({"resource", "get", "nope"}), kExitNotFound);
  EXPECT_EQ(err_, "umctl: no resource 'nope'\n");
  EXPECT_EQ(Run({"resource", "create", "r0", "--node-id", "32"}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("32"));
  Must({"resource", "create", "r0", "--node-id", "0"});
  EXPECT_EQ(Run({"resource", "create", "r0", "--node-id", "0"}), kExitConflict);
  Must({"volume", "create", "r0/0"});
  EXPECT_EQ(Run({"resource", "promote", "r0"}), kExitConflict);
  EXPECT_EQ(Run({"wait", "connected", "r0", "--for", "1ms"}), kExitTimeout);
  EXPECT_THAT(err_, HasSubstr("has no connections"));
  EXPECT_EQ(Run({"--socket", "/nowhere/api.sock", "status"}), kExitUnavailable);
  EXPECT_THAT(err_, HasSubstr("/nowhere/api.sock"));
  EXPECT_EQ(Run({}), kExitUsage);
  EXPECT_EQ(Run({"resource"}), kExitUsage);
  EXPECT_EQ(Run({"resource", "frobnicate"}), kExitUsage);
  EXPECT_EQ(Run({"volume", "create", "r0"}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("as in r0/0"));
  EXPECT_EQ(Run({"connection", "create", "r0/1", "--protocol", "D"}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("'D' is none of A, B, C"));
}

TEST_F(UmctlTest, AsksBeforeItDestroys) {
  MakeDisk("disk0");
  Must({"resource", "create", "r0", "--node-id", "0", "--volume", "0:backend=disk0"});
  EXPECT_EQ(Run({"volume", "invalidate", "r0/0"}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("--yes"));
  EXPECT_EQ(Run({"resource", "promote", "r0", "--force"}, "n\n", true), kExitConflict);
  EXPECT_THAT(err_, HasSubstr("[y/N]"));
  EXPECT_THAT(err_, HasSubstr("nothing was done"));
  Must({"status"});
  EXPECT_THAT(out_, HasSubstr("role:Secondary"));
  EXPECT_EQ(Run({"resource", "promote", "r0", "--force"}, "y\n", true), kExitOk);
  EXPECT_EQ(Run({"resource", "demote", "r0"}), kExitOk);
  EXPECT_EQ(Run({"resource", "delete", "r0", "--recursive", "--yes"}), kExitOk);
}

TEST_F(UmctlTest, WaitsWithAProgressBar) {
  Must({"resource", "create", "r0", "--node-id", "0", "--volume", "0", "--peer",
        "1,name=n2,local=10.0.0.1:7789,remote=10.0.0.2:7789"});
  node_.OnReactor([&] {
    node_.engine().resource("r0")->PeerArrives(1);
    node_.engine().resource("r0")->SyncRuns(1, 100 << 20, 75 << 20);
  });
  EXPECT_EQ(Run({"wait", "synced", "r0", "--for", "600ms"}, "", true), kExitTimeout);
  EXPECT_THAT(err_, HasSubstr("r0/0 with n2: [#######                       ] 25.0% 1.0 MiB/s"));
  EXPECT_EQ(Run({"wait", "connected", "r0"}), kExitOk);
  EXPECT_EQ(Run({"wait", "role", "r0", "Secondary"}), kExitOk);
  EXPECT_EQ(Run({"wait", "disk", "r0", "diskless"}), kExitOk);
}

TEST_F(UmctlTest, EventsNow) {
  Must({"resource", "create", "r0", "--node-id", "0"});
  Must({"events", "--now"});
  EXPECT_THAT(out_, HasSubstr("exists resource r0 role:Secondary\n"));
  EXPECT_THAT(out_, HasSubstr("exists -\n"));
  EXPECT_EQ(Run({"events", "--since", "1"}), kExitConflict);
}

TEST_F(UmctlTest, HealthAndVersion) {
  Must({"health"});
  EXPECT_EQ(out_, "serving\n");
  server_->SetServing(false);
  EXPECT_EQ(Run({"health"}), kExitUnavailable);
  Must({"version"});
  EXPECT_EQ(out_, "umctl " UMBLOCK_VERSION "\numblockd " UMBLOCK_VERSION "\n");
  EXPECT_EQ(Run({"--version"}), kExitOk);
  EXPECT_EQ(out_, "umctl " UMBLOCK_VERSION "\n");
}

TEST_F(UmctlTest, HelpAndCompletion) {
  EXPECT_EQ(Run({"--help"}), kExitOk);
  for (const char* noun :
       {"resource", "volume", "metadata", "connection", "backend", "target", "lun", "portal",
        "export", "node", "status", "events", "wait", "health", "version", "completion"}) {
    EXPECT_THAT(out_, HasSubstr(noun));
  }
  EXPECT_THAT(out_, HasSubstr("Exit codes"));
  EXPECT_EQ(Run({"resource", "create", "--help"}), kExitOk);
  EXPECT_THAT(out_, HasSubstr("--peer"));
  EXPECT_THAT(out_, HasSubstr("Examples"));
  EXPECT_EQ(Run({"completion", "bash"}), kExitOk);
  EXPECT_THAT(out_, HasSubstr("complete -F _umctl umctl"));
  EXPECT_THAT(out_, HasSubstr("promote"));
  EXPECT_THAT(out_, Not(HasSubstr("TEXT")));
}

}  // namespace
}  // namespace umblock::ctl
