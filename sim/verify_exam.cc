#include "sim/verify_exam.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>

namespace umblock::sim {
namespace {

constexpr uint64_t kBlock = 4096;
constexpr uint64_t kMostBlocks = 1024;  // of a range
constexpr Duration kRestBound = 4s;
constexpr Duration kVerifyBound = 60s;
constexpr Duration kApartBound = 3s;
constexpr Duration kAgain = 1s;
constexpr uint64_t kWritesBetween = 3;

}  // namespace

VerifyExam::VerifyExam(Cluster& cluster)
    : cluster_(cluster), world_(cluster.world()), random_(world_.Stream(0x7665726966)) {}

void VerifyExam::Request() {
  if (stage_ != Stage::kIdle || !cluster_.active()) return;
  stage_ = Stage::kRequested;
  since_ = SimTime::max();  // counts from the moment of rest
}

void VerifyExam::AtRest(bool quiet) {
  if (stage_ == Stage::kVerifying) return LookAtVerify();
  since_ = std::min(since_, world_.now());
  if (quiet) {
    Begin();
  } else if (world_.now() - since_ > kRestBound) {
    stage_ = Stage::kIdle;
  }
}

void VerifyExam::Begin() {
  secondary_ = 1 - cluster_.primary();
  verifier_ = random_.OneIn(2) ? secondary_ : 1 - secondary_;
  const uint64_t blocks = cluster_.volume_bytes() / kBlock;
  const uint64_t count = random_.Between(1, kMostBlocks);
  // Half of the time where the application writes most.
  const uint64_t first = random_.OneIn(2) ? 0 : random_.Below(blocks - count);
  if (!random_.OneIn(4)) Plant(first, first + count);
  stage_ = Stage::kVerifying;
  since_ = world_.now();
  act_ = cluster_.Begin(
      verifier_, "verify",
      cluster_.node(verifier_).replica->StartVerify(first * kBlock, (first + count) * kBlock));
}

void VerifyExam::Plant(uint64_t first, uint64_t end) {
  std::set<uint64_t> chosen;
  for (uint64_t i = random_.Between(1, 4); i > 0; --i)
    chosen.insert(random_.Between(first, end - 1));
  SimDisk& disk = *cluster_.node(secondary_).data;
  for (uint64_t block : chosen) {
    Planted planted{block * kBlock, std::vector<std::byte>(kSectorBytes),
                    std::vector<std::byte>(kSectorBytes)};
    planted.offset += random_.Below(kBlock / kSectorBytes) * kSectorBytes;
    disk.ReadNow(planted.offset, planted.before);
    random_.Fill(planted.after);
    disk.WriteNow(planted.offset, planted.after);
    planted_.push_back(std::move(planted));
  }
  cluster_.node(secondary_).suspect = true;
  world_.Log(LogLevel::kInfo, cluster_.node(secondary_).sim->name(),
             fmt::format("{} blocks are changed behind its back", planted_.size()));
}

bool VerifyExam::StillThere(const Planted& block) {
  std::vector<std::byte> now(block.after.size());
  cluster_.node(secondary_).data->ReadNow(block.offset, now);
  return now == block.after;
}

void VerifyExam::PutBack() {
  for (const Planted& block : planted_) {
    if (StillThere(block)) cluster_.node(secondary_).data->WriteNow(block.offset, block.before);
  }
  planted_.clear();
  // Some may have been found all the same, and what is out of sync stays so until it is mended.
  stage_ = Stage::kMending;
  since_ = world_.now();
}

void VerifyExam::OnCrash() {
  if (stage_ == Stage::kRequested) stage_ = Stage::kIdle;
  if (stage_ == Stage::kVerifying) PutBack();
}

void VerifyExam::End() { OnCrash(); }

void VerifyExam::LookAtVerify() {
  const ReplicaState state = cluster_.StateOf(verifier_);
  const ReplicaState peer = cluster_.StateOf(1 - verifier_);
  const bool undisturbed = state.connected() && peer.connected() && state.up_to_date() &&
                           peer.up_to_date() && (!act_->done || act_->status);
  if (!undisturbed) {
    PutBack();
    return;
  }
  if (act_->done && state.verify && !state.verify->running &&
      peer.replication == drbd::ReplicationState::kEstablished) {
    CheckFindings(*state.verify);
    return;
  }
  if (world_.now() - since_ > kVerifyBound) {
    world_.Fail("a verify of two disks at rest does not end: " + cluster_.DescribeState());
  }
}

void VerifyExam::CheckFindings(const drbd::VerifyStatus& verify) {
  if (!verify.complete) return PutBack();  // the link or a disk went, and came back
  cluster_.coverage().Count(Situation::kVerifyEnded);
  const uint64_t expected = planted_.size() * kBlock;
  if (verify.different_bytes != expected || verify.skipped_bytes != 0 ||
      cluster_.StateOf(0).out_of_sync != expected || cluster_.StateOf(1).out_of_sync != expected) {
    world_.Fail(fmt::format(
        "a verify of two disks at rest found {} bytes to differ and skipped {}; {} differ: {}",
        verify.different_bytes, verify.skipped_bytes, expected, cluster_.DescribeState()));
    return;
  }
  stage_ = planted_.empty() ? Stage::kIdle : Stage::kFound;
  since_ = world_.now();
}

void VerifyExam::Tick() {
  if (!planted_.empty()) cluster_.node(secondary_).suspect = true;
  switch (stage_) {
    case Stage::kIdle:
    case Stage::kRequested:
      return;
    case Stage::kVerifying:
      if (!cluster_.draining()) PutBack();
      return;
    case Stage::kFound:
    case Stage::kMending:
      CheckMended();
      return;
    case Stage::kApart:
      Reconnect();
      return;
  }
}

// A link that is lost, or a node, does as well as a disconnect, if the Primary wrote meanwhile.
void VerifyExam::CheckMended() {
  const ReplicaState a = cluster_.StateOf(0), b = cluster_.StateOf(1);
  if (a.in_sync() && b.in_sync()) {
    for (const Planted& block : planted_) {
      if (!StillThere(block)) continue;
      world_.Fail(
          fmt::format("both sides are in sync, and offset {} on {} that a verify found is "
                      "not mended",
                      block.offset, cluster_.node(secondary_).sim->name()));
      return;
    }
    if (!planted_.empty()) cluster_.coverage().Count(Situation::kCorruptionRepaired);
    planted_.clear();
    stage_ = Stage::kIdle;
    return;
  }
  const bool waits = a.connected() && b.connected() && a.up_to_date() && b.up_to_date() &&
                     a.replication == drbd::ReplicationState::kEstablished &&
                     b.replication == drbd::ReplicationState::kEstablished && cluster_.active();
  if (!waits) since_ = world_.now();
  if (stage_ == Stage::kMending && world_.now() - since_ < kAgain) return;
  if (!waits || cluster_.node(secondary_).act != nullptr) return;
  cluster_.StartDisconnect(secondary_);
  writes_before_ = cluster_.writes_acked();
  stage_ = Stage::kApart;
  since_ = world_.now();
}

void VerifyExam::Reconnect() {
  const bool written = !cluster_.StateOf(1 - secondary_).connected() &&
                       cluster_.writes_acked() >= writes_before_ + kWritesBetween;
  if (!written && world_.now() - since_ < kApartBound) return;
  cluster_.node(secondary_).wants_connection = true;
  stage_ = Stage::kMending;
  since_ = world_.now();
}

}  // namespace umblock::sim
