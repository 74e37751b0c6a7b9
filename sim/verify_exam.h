// VerifyExam: an online verify of two disks at rest, of which the harness knows where they differ.
//
// The application is told to stop. Once nothing is under way some blocks on the Secondary's disk
// are changed behind its back, or none, and a verify of a range around them runs, started by either
// node. It must find exactly these, and both nodes must know. Then the operator mends it as the
// manual says: disconnect, let the Primary write, connect. When both call their disks equal again
// the blocks must be mended.
//
// Whatever comes in between before they are found (a crash, a lost link) ends the examination, and
// the blocks are put back: nobody could know of them. Until they are mended the node is `suspect`:
// not one to promote.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "sim/cluster.h"

namespace umblock::sim {

class VerifyExam {
 public:
  explicit VerifyExam(Cluster& cluster);

  void Request();  // as soon as the application rests; nothing happens if one is going on
  bool wants_rest() const { return stage_ == Stage::kRequested || stage_ == Stage::kVerifying; }
  bool going_on() const { return stage_ != Stage::kIdle; }
  // The application rests; `quiet`: nothing is under way, and both disks are called equal.
  void AtRest(bool quiet);
  void Tick();
  void OnCrash();
  void End();  // the faults are over: what is not found yet is not looked for

 private:
  enum class Stage : uint8_t { kIdle, kRequested, kVerifying, kFound, kApart, kMending };
  struct Planted {
    uint64_t offset;
    std::vector<std::byte> before;
    std::vector<std::byte> after;
  };

  void Begin();
  void Plant(uint64_t start, uint64_t stop);
  void PutBack();
  bool StillThere(const Planted& block);
  void LookAtVerify();
  void CheckFindings(const drbd::VerifyStatus& verify);
  void Reconnect();
  void CheckMended();

  Cluster& cluster_;
  SimWorld& world_;
  SimRandom random_;
  Stage stage_ = Stage::kIdle;
  SimTime since_{};  // in this stage
  int secondary_ = 0;
  int verifier_ = 0;
  std::shared_ptr<Act> act_;
  std::vector<Planted> planted_;
  uint64_t writes_before_ = 0;
};

}  // namespace umblock::sim
