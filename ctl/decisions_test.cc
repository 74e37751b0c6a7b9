// What umctl shows of handshake decisions and refused changes, word for word, against
// testdata/decisions.golden. UMBLOCK_UPDATE_GOLDEN=1 writes the file anew: read the difference.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>
#include <vector>

#include "ctl/session.h"
#include "ctl/views.h"
#include "engine/drbd/state/refusal.h"
#include "engine/drbd/state/resource_state_fixture.h"
#include "engine/drbd/state/sync_pair_fixture.h"
#include "server/convert.h"
#include "umblock/v1/node.pb.h"

namespace umblock::ctl {
namespace {

using namespace drbd::testing;  // NOLINT(google-build-using-namespace)
using drbd::AfterSplitBrain;
using drbd::DiskState;
using drbd::FencingPolicy;
using drbd::ResourceState;
using drbd::Role;
namespace wire = drbd::wire;

struct Handshake {
  const char* name;
  std::function<void(Pair&)> set_up;
  Pair (*from)() = Equal;
};

const std::vector<Handshake>& Handshakes() {
  static const std::vector<Handshake> kAll = {
      {"equal data", [](Pair&) {}},
      {"two new disks",
       [](Pair& p) {
         p.a.set.Load(drbd::kUuidJustCreated);
         p.b.set.Load(drbd::kUuidJustCreated);
         p.a.disk = p.b.disk = DiskState::kInconsistent;
       }},
      {"a new disk at the peer",
       [](Pair& p) {
         p.b.set.Load(drbd::kUuidJustCreated);
         p.b.disk = DiskState::kInconsistent;
       }},
      {"a new disk here",
       [](Pair& p) {
         p.a.set.Load(drbd::kUuidJustCreated);
         p.a.disk = DiskState::kInconsistent;
       }},
      {"this node wrote while the peer was away", [](Pair&) {}, OneWrote},
      {"the peer wrote while this node was away",
       [](Pair& p) {
         p.a.set.Load(kA);
         p.b.set.Load(kB);
         p.b.set.LoadBitmap(0, {kA, 0});
         p.b.bits = 7;
       }},
      {"the bitmap of a third node is used",
       [](Pair& p) {
         p.a.set.LoadBitmap(2, {kA, 0});
         p.b.set.Load(kA);
       }},
      {"a crashed Primary, protocol C",
       [](Pair& p) {
         p.a.flags |= wire::kUuidFlagCrashedPrimary;
         p.b.flags |= wire::kUuidFlagReconnect;
       }},
      {"a crashed Primary, protocol A",
       [](Pair& p) {
         p.protocol = drbd::ReplicationProtocol::kA;
         p.a.flags |= wire::kUuidFlagCrashedPrimary;
         p.b.flags |= wire::kUuidFlagReconnect;
       }},
      {"both lost power, the peer is Primary again",
       [](Pair& p) {
         p.a.flags |= wire::kUuidFlagCrashedPrimary;
         p.b.role = Role::kPrimary;
       }},
      {"a worse disk here",
       [](Pair& p) {
         p.a.flags |= wire::kUuidFlagCrashedPrimary;
         p.a.disk = DiskState::kOutdated;
       }},
      {"unrelated data",
       [](Pair& p) {
         p.a.set.Load(kA);
         p.b.set.Load(kB);
       }},
      {"split brain", [](Pair&) {}, SplitBrain},
      {"split brain, histories only", [](Pair&) {}, Diverged},
      {"split brain, discard-my-data here",
       [](Pair& p) { p.a.flags |= wire::kUuidFlagDiscardMyData; }, SplitBrain},
      {"split brain, discard-least-changes",
       [](Pair& p) { SetPolicies(p, AfterSplitBrain::kDiscardLeastChanges); }, SplitBrain},
      {"split brain, only the peer has quorum",
       [](Pair& p) {
         p.quorum_enabled = true;
         p.a.quorum = false;
       },
       SplitBrain},
      {"this Primary would be the target",
       [](Pair& p) {
         p.a.set.Load(kA);
         p.a.role = Role::kPrimary;
         p.b.set.Load(kB);
         p.b.set.LoadBitmap(0, {kA, 0});
         p.b.bits = 7;
       }},
      {"the missed end of a resync, an old peer",
       [](Pair& p) {
         p.a.source_missed_end = p.b.peer_missed_end = true;
         p.version = 123;
       }},
      {"a dry run", [](Pair& p) { p.a.policies.dry_run = true; }, OneWrote},
  };
  return kAll;
}

struct Refused {
  const char* name;
  const char* act;
  std::function<void(ResourceState&)> now;
  std::function<void(ResourceState&)> change;
  int peers = 1;
};

void Cut(ResourceState& s) {
  s.peer(1).connection = Conn::kConnecting;
  s.peer(1).role = Role::kUnknown;
  Dev(s).repl = Repl::kOff;
  Dev(s).disk = Disk::kUnknown;
}
void Outdate(ResourceState& s) { Vol(s).disk = Disk::kOutdated; }
auto Replicate(Repl repl) {
  return [repl](ResourceState& s) { Dev(s).repl = repl; };
}

const std::vector<Refused>& Refusals() {
  static const std::vector<Refused> kAll = {
      {"a second Primary", "promote", [](ResourceState& s) { s.peer(1).role = Role::kPrimary; },
       Promote},
      {"a Primary without good data", "promote",
       [](ResourceState& s) {
         Cut(s);
         Vol(s).disk = Disk::kInconsistent;
       },
       Promote},
      {"a Primary with old data", "promote",
       [](ResourceState& s) {
         Cut(s);
         Vol(s).disk = Disk::kOutdated;
       },
       Promote},
      {"a Primary while the peer is not fenced", "promote",
       [](ResourceState& s) {
         Cut(s);
         s.peer(1).fencing = FencingPolicy::kResourceOnly;
       },
       Promote},
      {"a Primary without quorum", "promote",
       [](ResourceState& s) {
         s.quorum.quorum = drbd::kQuorumMajority;
         s = Change(s, SetConnection(1, Conn::kTimeout), kHard).state;
         s = Change(s, SetConnection(2, Conn::kTimeout), kHard).state;
       },
       Promote, 2},
      {"a change during a handshake", "promote",
       [](ResourceState& s) {
         Cut(s);
         Dev(s).handshake_running = true;
       },
       Promote},
      {"the last good disk of a Primary", "detach a disk of",
       [](ResourceState& s) {
         Cut(s);
         s.role = Role::kPrimary;
         Vol(s).read_write_openers = 1;
       },
       [](ResourceState& s) { Vol(s).disk = Disk::kDetaching; }},
      {"the last data of a reader", "disconnect",
       [](ResourceState& s) {
         Vol(s).disk = Disk::kDiskless;
         Vol(s).read_only_openers = 1;
       },
       SetConnection(1, Conn::kDisconnecting)},
      {"a disconnect of what has none", "disconnect",
       [](ResourceState& s) {
         Cut(s);
         s.peer(1).connection = Conn::kStandAlone;
       },
       SetConnection(1, Conn::kDisconnecting)},
      {"outdating beside a Primary", "outdate",
       [](ResourceState& s) { s.peer(1).role = Role::kPrimary; },
       [](ResourceState& s) {
         Outdate(s);
         Dev(s).peer_stable = false;
       }},
      {"outdating what is worse", "outdate",
       [](ResourceState& s) {
         Cut(s);
         Vol(s).disk = Disk::kInconsistent;
       },
       Outdate},
      {"a verify without an algorithm", "verify data of", [](ResourceState&) {},
       Replicate(Repl::kVerifyS)},
      {"a verify during a resync", "verify data of",
       [](ResourceState& s) {
         s.peer(1).has_verify_alg = true;
         Dev(s).repl = Repl::kSyncSource;
         Dev(s).disk = Disk::kInconsistent;
       },
       Replicate(Repl::kVerifyS)},
  };
  return kAll;
}

std::string Shown() {
  std::string text;
  for (const Handshake& each : Handshakes()) {
    Pair pair = each.from();
    each.set_up(pair);
    drbd::ResourceStatus status;
    status.name = "r0";
    drbd::ConnectionStatus& link = status.connections.emplace_back();
    link.peer_node_id = 1;
    link.peer_name = "n1";
    drbd::PeerVolumeStatus& volume = link.volumes.emplace_back();
    volume.handshake = pair.ReportA();
    v1::NodeStatus node;
    v1::Resource* resource = node.add_resources();
    resource->mutable_spec()->set_name("r0");
    v1::Connection* connection = resource->add_connections();
    connection->mutable_spec()->set_resource("r0");
    connection->mutable_spec()->set_peer_node_id(1);
    connection->mutable_spec()->set_peer_name("n1");
    server::FillConnectionStatus("r0", link, connection);
    const std::string all = RenderStatus(node, {.verbose = true});
    const size_t from = all.find("        handshake: ");
    text += fmt::format("## {}\n\n{}\n", each.name,
                        from == std::string::npos ? "nothing\n" : all.substr(from));
  }
  for (const Refused& each : Refusals()) {
    ResourceState now = Healthy(each.peers);
    each.now(now);
    ResourceState next = now;
    each.change(next);
    (void)drbd::Sanitize(now, next, {});
    const drbd::StateCheck check = drbd::CheckTransition(now, next, {});
    if (check) {
      text += fmt::format("## {}\n\nnot refused\n\n", each.name);
      continue;
    }
    const Error error = drbd::RefusalError(each.act, "r0", check.error(), now);
    text += fmt::format("## {}\n\numctl: {}\nexit code {}\n\n", each.name, error.message(),
                        static_cast<int>(ExitCodeOf(error.code())));
  }
  return text;
}

TEST(Decisions, AreShownWordForWord) {
  ASSERT_GE(Handshakes().size() + Refusals().size(), 25U);
  const std::string path = UMBLOCK_SOURCE_DIR "/ctl/testdata/decisions.golden";
  const std::string shown = Shown();
  if (std::getenv("UMBLOCK_UPDATE_GOLDEN") != nullptr) std::ofstream(path) << shown;
  std::stringstream golden;
  golden << std::ifstream(path).rdbuf();
  EXPECT_EQ(shown, golden.str());
  EXPECT_EQ(shown.find("not refused"), std::string::npos);
  EXPECT_EQ(shown.find("\nnothing\n"), std::string::npos);
}

// Whoever is refused something, or left unconnected, reads what to do.
TEST(Decisions, EachRefusalNamesAWayOut) {
  for (const Handshake& each : Handshakes()) {
    Pair pair = each.from();
    each.set_up(pair);
    const drbd::HandshakeReport report = pair.ReportA();
    EXPECT_EQ(report.verdict == "proceed", report.way_out.empty()) << each.name;
  }
}

}  // namespace
}  // namespace umblock::ctl
