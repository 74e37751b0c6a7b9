#include "sim/runner.h"

#include <fmt/core.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <map>

#include "engine/base/assert.h"
#include "sim/result_io.h"

namespace umblock::sim {
namespace {

// A seed that runs in a child process.
struct Child {
  uint64_t seed = 0;
  bool again = false;  // the second run of it
  int result_fd = -1;
  int stderr_fd = -1;
};

std::string ReadAll(int fd) {
  std::string text;
  char buffer[65536];
  lseek(fd, 0, SEEK_SET);
  while (true) {
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n <= 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  close(fd);
  return text;
}

void WriteAll(int fd, const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n <= 0) _exit(3);
    done += static_cast<size_t>(n);
  }
}

// Failures begin with what kind they are; numbers and names follow.
bool SameKind(const std::string& a, const std::string& b) {
  constexpr size_t kBegin = 24;
  return a.compare(0, kBegin, b, 0, kBegin) == 0;
}

class Runner {
 public:
  Runner(const RunnerOptions& options, const ReplicaFactory& factory)
      : options_(options), factory_(factory) {}

  int Run();

 private:
  pid_t Spawn(const RunOptions& run, Child* child);
  RunResult Collect(const Child& child, int wait_status);
  RunResult RunOne(const RunOptions& run);
  void Finished(const Child& child, const RunResult& result);
  void ReportFailure(uint64_t seed, RunResult result);
  std::vector<size_t> Shrink(uint64_t seed, const RunResult& failed);
  std::string ReplayCommand(uint64_t seed, const std::vector<size_t>& without) const;
  int ReportCoverage();

  const RunnerOptions& options_;
  const ReplicaFactory& factory_;
  std::map<pid_t, Child> children_;
  std::map<uint64_t, uint64_t> hashes_;
  Coverage coverage_;
  uint64_t runs_ = 0;
  uint64_t events_ = 0;
  uint64_t writes_ = 0;
  int failures_ = 0;
};

pid_t Runner::Spawn(const RunOptions& run, Child* child) {
  child->seed = run.seed;
  child->result_fd = memfd_create("result", 0);
  child->stderr_fd = memfd_create("stderr", 0);
  std::fflush(nullptr);
  const pid_t pid = fork();
  UMBLOCK_ASSERT(pid >= 0, "fork for a seed");
  if (pid != 0) return pid;
  alarm(static_cast<unsigned>(options_.seconds_per_seed));
  if (!run.verbose) dup2(child->stderr_fd, 2);
  const RunResult result = RunSeed(run, factory_);
  WriteAll(child->result_fd, EncodeResult(result));
  std::fflush(nullptr);
  _exit(0);
}

RunResult Runner::Collect(const Child& child, int wait_status) {
  const std::string encoded = ReadAll(child.result_fd);
  const std::string said = ReadAll(child.stderr_fd);
  if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0) return DecodeResult(encoded);
  RunResult result;
  if (WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGALRM) {
    result.failure = fmt::format("still running after {} s", options_.seconds_per_seed);
  } else if (WIFSIGNALED(wait_status)) {
    result.failure = fmt::format("died of signal {}", WTERMSIG(wait_status));
  } else {
    result.failure = fmt::format("exit status {}", WEXITSTATUS(wait_status));
  }
  if (!said.empty()) result.failure += ", saying:\n" + said.substr(0, 6000);
  RunOptions run = options_.run;
  run.seed = child.seed;
  result.schedule = DescribeSchedule(run);
  return result;
}

RunResult Runner::RunOne(const RunOptions& run) {
  Child child;
  const pid_t pid = Spawn(run, &child);
  int status = 0;
  waitpid(pid, &status, 0);
  return Collect(child, status);
}

int Runner::Run() {
  uint64_t next = options_.first_seed;
  bool next_again = false;
  while (true) {
    const bool enough = options_.stop_at_failure && failures_ != 0;
    while (!enough && next <= options_.last_seed &&
           children_.size() < static_cast<size_t>(options_.jobs)) {
      RunOptions run = options_.run;
      run.seed = next;
      Child child;
      child.again = next_again;
      const pid_t pid = Spawn(run, &child);
      children_.emplace(pid, child);
      if (options_.twice && !next_again) {
        next_again = true;
      } else {
        next_again = false;
        ++next;
      }
    }
    if (children_.empty()) break;
    int status = 0;
    const pid_t pid = waitpid(-1, &status, 0);
    auto found = children_.find(pid);
    if (found == children_.end()) continue;
    const Child child = found->second;
    children_.erase(found);
    Finished(child, Collect(child, status));
  }
  return failures_ + ReportCoverage();
}

void Runner::Finished(const Child& child, const RunResult& result) {
  ++runs_;
  events_ += result.events;
  writes_ += result.counts.writes;
  if (!child.again) coverage_.Add(result.coverage);
  if (!result.ok) {
    if (!child.again || !options_.twice) ReportFailure(child.seed, result);
    return;
  }
  auto [known, fresh] = hashes_.try_emplace(child.seed, result.hash);
  if (!fresh && known->second != result.hash) {
    ++failures_;
    fmt::print("seed {} FAILED: two runs differ: hashes {:016x} and {:016x}\n", child.seed,
               known->second, result.hash);
  }
  if (options_.first_seed == options_.last_seed) {
    fmt::print(
        "seed {}: hash {:016x}, {} events, {:.1f} s simulated, {} reads, {} writes, {} "
        "flushes, {} zeroes, {} errors\n",
        child.seed, result.hash, result.events, static_cast<double>(result.simulated.count()) / 1e9,
        result.counts.reads, result.counts.writes, result.counts.flushes, result.counts.zeroes,
        result.counts.errors);
    for (const std::string& line : result.schedule) fmt::print("  {}\n", line);
  }
}

std::vector<size_t> Runner::Shrink(uint64_t seed, const RunResult& failed) {
  RunOptions run = options_.run;
  run.seed = seed;
  run.verbose = false;
  for (size_t i = failed.schedule.size(); i-- > 0;) {
    std::vector<size_t> tried = run.without;
    tried.push_back(i);
    std::swap(run.without, tried);
    const RunResult smaller = RunOne(run);
    if (smaller.ok || !SameKind(smaller.failure, failed.failure)) std::swap(run.without, tried);
  }
  return run.without;
}

std::string Runner::ReplayCommand(uint64_t seed, const std::vector<size_t>& without) const {
  const RunOptions& run = options_.run;
  std::string command = fmt::format("umblock_sim --seed {} --volume-size {}M --al-extents {}", seed,
                                    run.volume_bytes >> 20, run.al_extents);
  if (run.protocol) {
    command += fmt::format(" --protocol {}", " ABC"[static_cast<int>(*run.protocol)]);
  }
  if (run.full_sync) command += " --full-sync";
  if (run.repertoire) command += " --repertoire";
  if (run.calm) command += " --calm";
  if (!without.empty()) command += fmt::format(" --without {}", fmt::join(without, ","));
  return command;
}

void Runner::ReportFailure(uint64_t seed, RunResult result) {
  ++failures_;
  fmt::print("seed {} FAILED: {}\n", seed, result.failure);
  std::vector<size_t> without = options_.run.without;
  if (options_.shrink && !options_.run.calm) {
    without = Shrink(seed, result);
    if (without.size() > options_.run.without.size()) {
      RunOptions run = options_.run;
      run.seed = seed;
      run.without = without;
      run.verbose = false;
      RunResult smaller = RunOne(run);
      if (!smaller.ok) {
        fmt::print("with fewer faults: {}\n", smaller.failure);
        result.log = smaller.log;
      }
    }
  }
  for (size_t i = 0; i < result.schedule.size(); ++i) {
    const bool left_out = std::find(without.begin(), without.end(), i) != without.end();
    if (!left_out) fmt::print("  {}\n", result.schedule[i]);
  }
  const size_t tail = result.log.size() > 30 ? result.log.size() - 30 : 0;
  for (size_t i = tail; i < result.log.size(); ++i) fmt::print("  | {}\n", result.log[i]);
  fmt::print("  replay: {} --verbose\n", ReplayCommand(seed, without));
  std::fflush(stdout);
}

int Runner::ReportCoverage() {
  if (options_.first_seed == options_.last_seed && !options_.require_coverage) return 0;
  fmt::print("{} runs, {} failed; {} events, {} writes\n", runs_, failures_, events_, writes_);
  int missing = 0;
  for (size_t i = 0; i < kSituations; ++i) {
    const bool required = options_.require_coverage && IsRequired(i, options_.run.repertoire);
    const bool short_of = required && coverage_.counts[i] < kRequiredTimes;
    fmt::print("  {:6} {}{}\n", coverage_.counts[i], SituationName(i),
               short_of ? fmt::format("  FAILED: fewer than {}", kRequiredTimes) : "");
    missing += short_of;
  }
  return missing;
}

}  // namespace

int RunSeeds(const RunnerOptions& options, const ReplicaFactory& factory) {
  return Runner(options, factory).Run();
}

}  // namespace umblock::sim
