#include "server/config_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "server/config_keeper.h"
#include "server/testing/test_node.h"

namespace umblock::server {
namespace {

using ::testing::HasSubstr;

StoredState SmallState(uint64_t generation, const std::string& secret) {
  StoredState state;
  state.config.set_generation(generation);
  v1::BackendSpec* backend = state.config.add_backends();
  backend->set_name("disk0");
  backend->set_path("/disks/" + std::to_string(generation));
  auto* resource = state.config.add_resources();
  resource->mutable_spec()->set_name("r0");
  auto* volume = resource->add_volumes();
  volume->mutable_spec()->set_resource("r0");
  volume->mutable_spec()->set_backend("disk0");
  volume->set_attach(true);
  auto* connection = resource->add_connections();
  connection->mutable_spec()->set_resource("r0");
  connection->mutable_spec()->set_peer_node_id(1);
  connection->set_shared_secret_key(PutSecret(state, "connection r0/1", secret));
  return state;
}

void WriteFile(const std::string& path, const std::string& text, mode_t mode = 0600) {
  std::ofstream(path) << text;
  ASSERT_EQ(::chmod(path.c_str(), mode), 0);
}

mode_t ModeOf(const std::string& path) {
  struct stat info = {};
  EXPECT_EQ(::stat(path.c_str(), &info), 0);
  return info.st_mode & 07777;
}

// Otherwise nothing would come up at the next start.
TEST(ConfigKeeper, StoresNothingThatTheNextStartWouldRefuse) {
  TempDirectory directory;
  ConfigStore store(directory.path());
  ASSERT_TRUE(store.Save(SmallState(7, "hush")));
  MemoryLog log;
  ThreadReactor reactor(&log);
  ConfigKeeper keeper(reactor, &store, SmallState(7, "hush"));
  const auto commit = [&](std::function<void(StoredState&)> change) {
    return reactor.RunTask<Status>([&] { return keeper.Commit(change); });
  };
  Status refused = commit(
      [](StoredState& state) { FindVolume(state, "r0", 0)->mutable_spec()->clear_backend(); });
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::kFailedPrecondition);
  EXPECT_THAT(refused.error().message(), HasSubstr("volume r0/0 is to be attached"));
  EXPECT_EQ(keeper.config().generation(), 7u);
  EXPECT_TRUE(commit([](StoredState& state) {
    FindVolume(state, "r0", 0)->mutable_spec()->clear_backend();
    FindVolume(state, "r0", 0)->set_attach(false);
  }));
  EXPECT_TRUE(ConfigStore(directory.path()).Load());
}

TEST(ConfigStore, StartsEmptyAndRemembers) {
  TempDirectory directory;
  {
    ConfigStore store(directory.path());
    auto empty = store.Load();
    ASSERT_TRUE(empty) << empty.error().ToString();
    EXPECT_EQ(empty->config.generation(), 0u);
    ASSERT_TRUE(store.Save(SmallState(7, "hush")));
  }
  ConfigStore again(directory.path());
  auto loaded = again.Load();
  ASSERT_TRUE(loaded) << loaded.error().ToString();
  EXPECT_EQ(loaded->config.generation(), 7u);
  EXPECT_EQ(loaded->config.backends(0).path(), "/disks/7");
  EXPECT_EQ(loaded->secrets.values().at("connection r0/1@7"), "hush");
  EXPECT_EQ(ModeOf(again.secrets_path()), 0600u);
  EXPECT_EQ(ModeOf(again.config_path()), 0640u);
}

TEST(ConfigStore, SecretsAreNotInTheConfiguration) {
  TempDirectory directory;
  ConfigStore store(directory.path());
  ASSERT_TRUE(store.Save(SmallState(1, "hush-hush")));
  auto text = ReadSmallFile(store.config_path(), 1 << 20);
  ASSERT_TRUE(text);
  EXPECT_THAT(*text, Not(HasSubstr("hush-hush")));
}

TEST(ConfigStore, DropsSecretsThatNothingRefersTo) {
  TempDirectory directory;
  ConfigStore store(directory.path());
  ASSERT_TRUE(store.Save(SmallState(1, "first")));
  ASSERT_TRUE(store.Save(SmallState(2, "second")));
  ASSERT_TRUE(store.Save(SmallState(3, "third")));
  auto text = ReadSmallFile(store.secrets_path(), 1 << 20);
  EXPECT_THAT(*text, Not(HasSubstr("first")));
  EXPECT_THAT(*text, HasSubstr("third"));
}

// Both files, every step, every way to end there: what is loaded afterwards is one of the two
// states, complete with its secret, and a Save that said Ok is not lost.
TEST(ConfigStore, EveryFaultPointLeavesOldOrNew) {
  for (const FileFault kind : {FileFault::kError, FileFault::kCrash}) {
    for (const char* file : {"config.json", "secrets.json"}) {
      for (int step = 0; step < kFileSteps; ++step) {
        SCOPED_TRACE(fmt::format("{} step {} {}", file, step, static_cast<int>(kind)));
        TempDirectory directory;
        bool armed = false;
        ConfigStore store(directory.path(), [&](const std::string& path, FileStep at) {
          const bool here = armed && path.ends_with(file) && static_cast<int>(at) == step;
          return here ? kind : FileFault::kNone;
        });
        ASSERT_TRUE(store.Save(SmallState(1, "one")));
        armed = true;
        Status saved = store.Save(SmallState(2, "two"));
        EXPECT_FALSE(saved);
        ConfigStore after(directory.path());
        auto loaded = after.Load();
        ASSERT_TRUE(loaded) << loaded.error().ToString();
        const uint64_t generation = loaded->config.generation();
        ASSERT_TRUE(generation == 1 || generation == 2);
        // An error that was reported means: nothing changed.
        if (kind == FileFault::kError) EXPECT_EQ(generation, 1u);
        EXPECT_EQ(loaded->secrets.values().at(fmt::format("connection r0/1@{}", generation)),
                  generation == 1 ? "one" : "two");
        // And the next save works.
        ASSERT_TRUE(after.Save(SmallState(3, "three")));
        EXPECT_EQ(ConfigStore(directory.path()).Load()->config.generation(), 3u);
      }
    }
  }
}

TEST(ConfigStore, KeepsThePreviousGeneration) {
  TempDirectory directory;
  ConfigStore store(directory.path());
  ASSERT_TRUE(store.Save(SmallState(1, "x")));
  ASSERT_TRUE(store.Save(SmallState(2, "x")));
  auto previous = ReadSmallFile(store.config_path() + ".previous", 1 << 20);
  ASSERT_TRUE(previous);
  EXPECT_THAT(*previous, HasSubstr("/disks/1"));
}

TEST(ConfigStore, RefusesDamageAndSaysWhatToDo) {
  TempDirectory directory;
  ConfigStore store(directory.path());
  ASSERT_TRUE(store.Save(SmallState(1, "x")));
  const std::string good = *ReadSmallFile(store.config_path(), 1 << 20);
  const auto refused = [&](const std::string& text) {
    WriteFile(store.config_path(), text);
    auto loaded = ConfigStore(directory.path()).Load();
    EXPECT_FALSE(loaded) << text;
    if (loaded) return Error(ErrorCode::kInternal, "loaded");
    EXPECT_EQ(loaded.error().code(), ErrorCode::kDataLoss);
    return loaded.error();
  };
  EXPECT_THAT(refused(good.substr(0, good.size() / 2)).message(), HasSubstr(".previous"));
  EXPECT_THAT(refused("").message(), HasSubstr("config.json"));
  EXPECT_THAT(refused("{\"format_version\": 2}").message(), HasSubstr("format version 2"));
  EXPECT_THAT(refused("{\"format_version\": 1, \"surprise\": 1}").message(), HasSubstr("surprise"));
  EXPECT_THAT(refused("{}").message(), HasSubstr("format version 0"));
}

TEST(ConfigStore, RefusesWhatDoesNotFitTogether) {
  const auto refused = [](auto damage) -> std::string {
    StoredState state = SmallState(1, "x");
    damage(state);
    Status valid = ValidateStoredState(state);
    EXPECT_FALSE(valid);
    return valid ? std::string() : valid.error().message();
  };
  EXPECT_THAT(refused([](StoredState& s) { *s.config.add_backends() = s.config.backends(0); }),
              HasSubstr("backend 'disk0' occurs twice"));
  EXPECT_THAT(refused([](StoredState& s) { s.config.clear_backends(); }),
              HasSubstr("refers to backend 'disk0', which is not there"));
  EXPECT_THAT(refused([](StoredState& s) { s.secrets.mutable_values()->clear(); }),
              HasSubstr("secret 'connection r0/1@1' is missing"));
  EXPECT_THAT(refused([](StoredState& s) {
                s.config.mutable_resources(0)->mutable_spec()->set_node_id(1);
              }),
              HasSubstr("itself as peer"));
  EXPECT_THAT(refused([](StoredState& s) { s.config.add_exports()->set_name("e"); }),
              HasSubstr("which is not there"));
  EXPECT_THAT(refused([](StoredState& s) {
                s.config.mutable_resources(0)->mutable_spec()->set_name("bad name");
              }),
              HasSubstr("a name is"));
}

TEST(ConfigStore, RefusesAMissingConfigurationWithAPreviousOne) {
  TempDirectory directory;
  ConfigStore store(directory.path());
  ASSERT_TRUE(store.Save(SmallState(1, "x")));
  ASSERT_TRUE(store.Save(SmallState(2, "x")));
  std::filesystem::remove(store.config_path());
  auto loaded = ConfigStore(directory.path()).Load();
  ASSERT_FALSE(loaded);
  EXPECT_THAT(loaded.error().message(), HasSubstr("rename it to restore"));
}

TEST(ConfigStore, RefusesSecretsThatOthersCanRead) {
  TempDirectory directory;
  ConfigStore store(directory.path());
  ASSERT_TRUE(store.Save(SmallState(1, "x")));
  ASSERT_EQ(::chmod(store.secrets_path().c_str(), 0644), 0);
  auto loaded = ConfigStore(directory.path()).Load();
  ASSERT_FALSE(loaded);
  EXPECT_THAT(loaded.error().message(), HasSubstr("0600"));
}

TEST(ConfigStore, OneDaemonPerDirectory) {
  TempDirectory directory;
  ConfigStore first(directory.path());
  ASSERT_TRUE(first.Lock());
  {
    ConfigStore second(directory.path());
    Status locked = second.Lock();
    ASSERT_FALSE(locked);
    EXPECT_EQ(locked.error().code(), ErrorCode::kFailedPrecondition);
    EXPECT_THAT(locked.error().message(), HasSubstr(std::to_string(::getpid())));
  }
  // The one that was refused has not taken the lock away.
  EXPECT_FALSE(ConfigStore(directory.path()).Lock());
}

TEST(ConfigStore, SaysWhyADirectoryCannotBeUsed) {
  ConfigStore store("/proc/no-such-place/state");
  Status locked = store.Lock();
  ASSERT_FALSE(locked);
  EXPECT_THAT(locked.error().message(), HasSubstr("/proc/no-such-place/state"));
}

}  // namespace
}  // namespace umblock::server
