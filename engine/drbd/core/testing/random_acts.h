// RandomActs: two nodes, an application that writes and flushes on the Primary, and an
// administrator who does what umctl can do at moments that chance picks, while links, disks and
// nodes fail. All that happens follows from a mode and a seed.
//
// What must hold (INV-1, INV-3, INV-10): disks that are UpToDate on both sides are equal; what was
// acknowledged (after a power cut: flushed) is there; every request ends; when the faults are over,
// both find together again, by themselves or by the way out of docs/operations.md: if nothing that
// is in reach is known to be current, the administrator chooses.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/drbd/core/testing/bench.h"

namespace umblock::drbd::testing {

class RandomActs {
 public:
  // Beside writes, flushes, attach, detach, connect, disconnect, cut links, paused resyncs.
  enum Mode : uint32_t {
    kPowerCuts = 1,  // crashes (kCrashes) may lose the disk's cache
    kDiskErrors = 2,
    kSuspends = 4,
    kInvalidates = 8,
    kCrashes = 16,
    kRoles = 32,  // the Primary changes sides
  };

  // With `trace` all that is done goes to stderr.
  RandomActs(uint32_t mode, uint64_t seed, bool trace = false);

  // Once. Empty, or what is wrong.
  std::string Run(int acts = 60);
  // True if the administrator had to choose whose data to go on with.
  bool needed_choice() const { return needed_choice_; }

 private:
  // The values written to a block, one after the other. What must be there is one of those from
  // a floor on: the last that was acknowledged, or flushed.
  struct Block {
    std::vector<uint8_t> values{0};
    size_t acknowledged = 0;
    size_t stable = 0;
    bool busy = false;
  };
  struct Write {
    FrontIo* io;
    uint64_t block;
    size_t index;  // in Block::values
    bool taken = false;
  };
  struct Flush {
    FrontIo* io;
    std::map<uint64_t, size_t> covers;  // per block what was acknowledged before
    bool taken = false;
  };

  bool Has(Mode what) const { return (mode_ & what) != 0; }
  uint64_t Below(uint64_t n) { return random_.Below(n); }
  bool Up(int i) { return bench_.node(i).running(); }
  bool IsPrimary(int i) { return Up(i) && bench_.status(i).role == Role::kPrimary; }
  void Note(const std::string& text);

  void Act();
  void ActOnLink(uint64_t what, int node);
  void ActOnDisk(uint64_t what, int node);
  void SubmitWrites();
  void SubmitFlush();
  void Crash(int node);
  void Boot(int node);
  void ChangeRoles();
  void BreakDisk(int node);
  // An act whose end matters; false if it did not end, or failed.
  bool Finish(int node, const char* what, Task<Status> task);

  void Collect();           // the answers that have come
  void ForgetUnanswered();  // of a Primary that has crashed: may have happened or not
  bool AllAnswered();
  void Wrong(const std::string& what);

  void Heal();
  bool Settles();
  void TakeTheWayOut();
  int NodeWithMost();
  size_t Missing(int node, std::string* which);
  bool AtRest();
  void CheckData(const char* when);

  uint32_t mode_;
  SimRandom random_;
  Bench bench_;
  std::map<uint64_t, Block> blocks_;
  std::vector<Write> writes_;
  std::vector<Flush> flushes_;
  uint8_t next_value_ = 1;
  int primary_ = 0;
  bool power_was_cut_ = false;
  bool needed_choice_ = false;
  bool trace_;
  std::string wrong_;
};

}  // namespace umblock::drbd::testing
