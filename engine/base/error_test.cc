#include "engine/base/error.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace umblock {
namespace {

Result<int> Fail() { return MakeError(ErrorCode::kNotFound, "no resource '{}'", "r1"); }

Status Outer() {
  UMBLOCK_TRY(Fail());
  return Ok();
}

TEST(ErrorTest, NamesTheCodeAndTheObject) {
  EXPECT_EQ(Fail().error().ToString(), "not_found: no resource 'r1'");
}

TEST(ErrorTest, TryPassesTheErrorOn) { EXPECT_EQ(Outer().error(), Fail().error()); }

TEST(ErrorTest, WithinAddsContextAndKeepsTheCode) {
  Error outer = Fail().error().Within("promote");
  EXPECT_EQ(outer.code(), ErrorCode::kNotFound);
  EXPECT_EQ(outer.message(), "promote: no resource 'r1'");
}

TEST(ErrorTest, ErrnoMapsToACodeAnOperatorCanActOn) {
  EXPECT_EQ(Error::FromErrno(ENOENT, "open /dev/x").code(), ErrorCode::kNotFound);
  EXPECT_EQ(Error::FromErrno(ENOSPC, "write").code(), ErrorCode::kResourceExhausted);
  EXPECT_EQ(Error::FromErrno(EADDRINUSE, "bind").code(), ErrorCode::kFailedPrecondition);
  EXPECT_EQ(Error::FromErrno(ENOENT, "open /dev/x").message(),
            "open /dev/x: No such file or directory");
}

}  // namespace
}  // namespace umblock
