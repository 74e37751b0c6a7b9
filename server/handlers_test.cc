// Handlers as a client sets them: who may, what is checked, what survives a restart.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "server/handler_files.h"
#include "server/testing/node_fixture.h"

namespace umblock::server {
namespace {

class HandlersTest : public NodeTest {
 protected:
  void SetUp() override {
    NodeTest::SetUp();
    ASSERT_TRUE(MakeResource("r0"));
    program_ = files_.path() + "/fence";
    std::ofstream(program_) << "#!/bin/sh\nexit 4\n";
    chmod(program_.c_str(), 0755);
  }
  void Allow(bool allowed) {
    node_.OnReactor([&] { node_.engine().allow_handlers = allowed; });
  }
  Result<v1::Resource> Set(const std::string& path) {
    v1::SetHandlersRequest request;
    request.set_name("r0");
    request.mutable_handlers()->set_fence_peer(path);
    return node_.Resources(&RM::SetHandlers, request);
  }

  TempDirectory files_;
  std::string program_;
};

TEST_F(HandlersTest, NobodySetsThemUnlessTheDaemonAllowsIt) {
  EXPECT_TRUE(IsError(Set(program_), ErrorCode::kPermissionDenied, "--allow-handlers"));
  v1::CreateResourceRequest create;
  create.mutable_spec()->set_name("r1");
  create.mutable_spec()->mutable_handlers()->set_split_brain(program_);
  EXPECT_TRUE(IsError(node_.Resources(&RM::Create, create), ErrorCode::kPermissionDenied,
                      "--allow-handlers"));
  EXPECT_FALSE(GetResource("r1"));
  EXPECT_TRUE(GetResource("r0")->spec().handlers().fence_peer().empty());
  // To have none is nobody's danger.
  EXPECT_TRUE(Set(""));
}

TEST_F(HandlersTest, AreSetRememberedAndRemoved) {
  Allow(true);
  auto set = Set(program_);
  ASSERT_TRUE(set) << set.error().ToString();
  EXPECT_EQ(set->spec().handlers().fence_peer(), program_);
  EXPECT_EQ(node_.engine().resource("r0")->handlers().path(drbd::Handler::kFencePeer), program_);
  ASSERT_TRUE(node_.Restart());
  EXPECT_EQ(GetResource("r0")->spec().handlers().fence_peer(), program_);
  EXPECT_EQ(node_.engine().resource("r0")->handlers().path(drbd::Handler::kFencePeer), program_);
  // This daemon runs none, and says so.
  std::vector<NodeProblem> problems;
  node_.OnReactor([&] { node_.node().resources().AddProblems(&problems); });
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0].object, "resource r0");
  EXPECT_NE(problems[0].reason.find("--allow-handlers"), std::string::npos);
  ASSERT_TRUE(Set(""));
  EXPECT_TRUE(GetResource("r0")->spec().handlers().fence_peer().empty());
  problems.clear();
  node_.OnReactor([&] { node_.node().resources().AddProblems(&problems); });
  EXPECT_TRUE(problems.empty());
}

TEST_F(HandlersTest, OnlyExecutablesThatAreThere) {
  Allow(true);
  EXPECT_TRUE(IsError(Set("fence"), ErrorCode::kInvalidArgument, "not an absolute path"));
  EXPECT_TRUE(IsError(Set(program_ + " --now"), ErrorCode::kInvalidArgument, "does not exist"));
  EXPECT_TRUE(IsError(Set(files_.path()), ErrorCode::kInvalidArgument, "no regular file"));
  EXPECT_TRUE(IsError(Set(std::string("/bin/sh\0x", 9)), ErrorCode::kInvalidArgument,
                      "not an absolute path"));
  const std::string plain = files_.path() + "/plain";
  std::ofstream(plain) << "x";
  chmod(plain.c_str(), 0600);
  EXPECT_TRUE(IsError(Set(plain), ErrorCode::kInvalidArgument, "not executable"));
  v1::SetHandlersRequest request;
  request.set_name("r0");
  request.mutable_handlers()->set_fence_peer(program_);
  request.mutable_handlers()->mutable_timeout()->set_seconds(4000);
  EXPECT_TRUE(IsError(node_.Resources(&RM::SetHandlers, request), ErrorCode::kInvalidArgument,
                      "handlers.timeout is 4000s: allowed is 1s to 3600s"));
  request.set_name("rx");
  EXPECT_TRUE(IsError(node_.Resources(&RM::SetHandlers, request), ErrorCode::kNotFound, "'rx'"));
  EXPECT_TRUE(GetResource("r0")->spec().handlers().fence_peer().empty());
}

}  // namespace
}  // namespace umblock::server
