// Options and log lines of umblockd.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "server/daemon_log.h"
#include "server/daemon_options.h"

namespace umblock::server {
namespace {

using ::testing::HasSubstr;

TEST(DaemonOptions, ReadsFlags) {
  const ParsedOptions parsed =
      ParseDaemonOptions({"--config", "/dev/null", "--state-dir", "/s", "--socket", "/s/a.sock",
                          "--log-format", "json", "--log-level", "debug", "--fuse-dir", "/f",
                          "--metrics", "127.0.0.1:9720", "--lock-memory", "on"});
  ASSERT_TRUE(parsed.options);
  EXPECT_EQ(parsed.options->state_dir, "/s");
  EXPECT_EQ(parsed.options->log_format, LogFormat::kJson);
  EXPECT_EQ(parsed.options->log_level, LogLevel::kDebug);
  EXPECT_EQ(parsed.options->metrics, "127.0.0.1:9720");
  EXPECT_EQ(parsed.options->lock_memory, LockMemory::kOn);
}

TEST(DaemonOptions, RefusesWhatMakesNoSense) {
  const auto code = [](std::vector<std::string> arguments) {
    testing::internal::CaptureStderr();
    const ParsedOptions parsed = ParseDaemonOptions(arguments);
    EXPECT_FALSE(parsed.options);
    EXPECT_FALSE(testing::internal::GetCapturedStderr().empty());
    return parsed.exit_code;
  };
  EXPECT_EQ(code({"--listen", "0.0.0.0:7780"}), 2);
  EXPECT_EQ(code({"--fuse-dir", "relative"}), 2);
  EXPECT_EQ(code({"--max-calls", "0"}), 2);
  EXPECT_EQ(code({"--log-format", "xml"}), 2);
  EXPECT_EQ(code({"--lock-memory", "some"}), 2);
  EXPECT_EQ(code({"--no-such-flag"}), 2);
  EXPECT_EQ(code({"--tls-cert", "/c.pem"}), 2);
}

// Each flag of --help is in docs/configuration.md, and so is its variable.
TEST(DaemonOptions, AreDocumented) {
  std::ifstream file(std::string(UMBLOCK_SOURCE_DIR) + "/docs/configuration.md");
  ASSERT_TRUE(file);
  std::stringstream page;
  page << file.rdbuf();
  std::istringstream help(DaemonHelp());
  int flags = 0;
  for (std::string word; help >> word;) {
    if (!word.starts_with("--") || word == "--)" || word == "--tls-*" || word == "--)") continue;
    const std::string flag = word.substr(0, word.find_first_of(",;.)=* "));
    if (flag == "--") continue;
    EXPECT_THAT(page.str(), HasSubstr("`" + flag)) << flag;
    ++flags;
  }
  EXPECT_GT(flags, 15);
}

TEST(DaemonLog, JsonSplitsPairs) {
  EXPECT_EQ(FormatLogLine(LogFormat::kJson,
                          "resource r0: role changed old=\"Secondary\" new=\"Pri \\ mary\" n=3"),
            ",\"subject\":\"resource r0\",\"message\":\"role changed\",\"old\":\"Secondary\","
            "\"new\":\"Pri \\\\ mary\",\"n\":\"3\"");
  EXPECT_EQ(FormatLogLine(LogFormat::kJson, "plain words"), ",\"message\":\"plain words\"");
  EXPECT_EQ(FormatLogLine(LogFormat::kJson, ""), ",\"message\":\"\"");
  EXPECT_EQ(FormatLogLine(LogFormat::kJson, "\""), ",\"message\":\"\\\"\"");
  EXPECT_EQ(FormatLogLine(LogFormat::kJson, "a: b=\"\""), ",\"message\":\"a:\",\"b\":\"\"");
}

TEST(DaemonLog, OneMessageIsOneLine) {
  EXPECT_EQ(FormatLogLine(LogFormat::kText, "peer said \n\x1b[2J"), "peer said \\x0a\\x1b[2J");
  EXPECT_EQ(FormatLogLine(LogFormat::kJson, "a\nb"), ",\"message\":\"a\\u000ab\"");
}

TEST(DaemonLog, WritesToStderr) {
  testing::internal::CaptureStderr();
  {
    DaemonLog log(LogLevel::kInfo, LogFormat::kJson, "n1");
    log.Debug("not shown");
    log.Info("r0: shown a={}", 1);
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, HasSubstr("\"level\":\"info\",\"node\":\"n1\",\"subject\":\"r0\""));
  EXPECT_THAT(text, Not(HasSubstr("not shown")));
}

}  // namespace
}  // namespace umblock::server
