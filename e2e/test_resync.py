"""What is copied when nodes meet: all, only what changed, or nothing; and who decides."""

import os

from harness.node import MIB
from harness.shell import wait_until


def write(node, offset, data, name="r0"):
    with open(node.exports / f"{name}-0", "r+b", buffering=0) as disk:
        disk.seek(offset)
        assert disk.write(data) == len(data)
        os.fsync(disk.fileno())


def equal_areas(cluster):
    area_a, area_b = cluster.data_areas()
    assert area_a == area_b
    return area_a


def test_first_data_is_copied_whole(cluster):
    """Nobody declared the disks equal: the one that is promoted by force has the data."""
    cluster.resource(size=64 * MIB, skip_sync=False)
    for node in cluster.nodes:
        assert "force" in node.refused("resource", "promote", "r0")
    cluster.promote(cluster.a, "r0", "--force", "--yes")
    write(cluster.a, 5 * MIB, b"written while it syncs" * 1000)
    cluster.a.umctl("wait", "synced", "r0", "--for", "60s")
    cluster.wait_in_sync()
    size = int(cluster.volume(cluster.a)["status"]["sizeBytes"])
    assert cluster.received(cluster.b) >= size
    cluster.demote(cluster.a)
    assert equal_areas(cluster)[5 * MIB:].startswith(b"written while it syncs")


def test_only_what_changed_is_copied(cluster):
    cluster.resource(size=256 * MIB)
    cluster.promote(cluster.a)
    cluster.disconnect()
    outdated = cluster.volume(cluster.b)["status"]
    assert outdated["disk"] == "Outdated" and "Primary exists" in outdated["diskReason"]
    assert "UpToDate" in cluster.b.refused("resource", "promote", "r0")
    for offset in [0, 100 * MIB, 200 * MIB]:
        write(cluster.a, offset, os.urandom(64 << 10))
    assert cluster.out_of_sync(cluster.a) == 3 * (64 << 10)
    cluster.connect()
    cluster.wait_in_sync()
    assert cluster.received(cluster.b) == 3 * (64 << 10)
    cluster.demote(cluster.a)
    equal_areas(cluster)


def test_restarts_copy_nothing(cluster):
    """Both daemons are stopped and started again, in turn and together."""
    cluster.resource(size=64 * MIB)
    cluster.promote(cluster.a)
    write(cluster.a, 0, b"kept" * 4096)
    cluster.demote(cluster.a)
    for stopped in [[cluster.a], [cluster.b], [cluster.a, cluster.b]]:
        for node in stopped:
            assert node.stop() == 0
        for node in stopped:
            node.start()
        cluster.wait_in_sync()
        assert cluster.received(cluster.a) == cluster.received(cluster.b) == 0
    assert equal_areas(cluster).startswith(b"kept" * 4096)


def test_an_invalidated_disk_is_fetched_again(cluster):
    cluster.resource(size=64 * MIB)
    assert "--yes" in cluster.b.refused("volume", "invalidate", "r0/0")
    with open(cluster.disk(cluster.a), "r+b") as disk:
        disk.write(b"behind the node's back")
    cluster.b.umctl("volume", "invalidate", "r0/0", "--yes")
    wait_until(lambda: cluster.received(cluster.b) > 0, "the sync runs")
    cluster.wait_in_sync()
    assert equal_areas(cluster).startswith(b"behind the node's back")


def test_split_brain_is_told_and_resolved_by_giving_up_one_side(cluster):
    cluster.resource(size=64 * MIB)
    cluster.disconnect()
    for node, data in [(cluster.a, b"alpha"), (cluster.b, b"beta!")]:
        # Neither is Primary, so neither is outdated by the disconnect.
        cluster.promote(node)
        write(node, 0, data * 1024)
        cluster.demote(node)
    for node in cluster.nodes:
        node.umctl("connection", "connect", f"r0/{cluster.peer_of(node).node_id}")
    for node in cluster.nodes:
        wait_until(lambda node=node: cluster.connection(node)["status"].get("state") in (None, "StandAlone"),
                   f"{node.name} gives up", 30)
        assert "split" in cluster.connection(node)["status"]["lastError"].lower()
    cluster.b.umctl("connection", "connect", "r0/0", "--discard-my-data", "--yes")
    cluster.a.umctl("connection", "connect", "r0/1")
    cluster.wait_in_sync()
    assert equal_areas(cluster).startswith(b"alpha" * 1024)


def change_behind(cluster, node, offset, data):
    """On the disk of a node, of which its daemon knows nothing."""
    with open(cluster.disk(node), "r+b", buffering=0) as disk:
        disk.seek(offset)
        disk.write(data)
        os.fsync(disk.fileno())


def verify_of(cluster, node):
    return cluster.connection(node)["volumes"][0].get("verify", {})


def verified(cluster, node, *options):
    node.umctl("connection", "verify", f"r0/{cluster.peer_of(node).node_id}", *options)
    return wait_until(lambda: verify_of(cluster, node).get("complete") and verify_of(cluster, node),
                      "the verify is over", 60, 0.1)


def test_a_verify_finds_what_changed_behind_the_daemons_back(cluster):
    cluster.resource(size=64 * MIB, net=["--verify-alg", "crc32c"])
    cluster.promote(cluster.a)
    write(cluster.a, 0, os.urandom(MIB))
    assert "differentBytes" not in verified(cluster, cluster.b)
    change_behind(cluster, cluster.b, 20 * MIB, os.urandom(4096))
    assert "differentBytes" not in verified(cluster, cluster.a, "--start", "0", "--stop", "20MiB")
    found = verified(cluster, cluster.a)
    assert found["start"] == str(20 * MIB) and found["differentBytes"] == "4096"
    assert found["firstDifferent"] == str(20 * MIB)
    assert cluster.out_of_sync(cluster.a) == cluster.out_of_sync(cluster.b) == 4096
    assert verify_of(cluster, cluster.b)["differentBytes"] == "4096"
    assert "different:4096" in cluster.a.umctl("status", "r0").stdout
    # The next resync mends it, and copies no more than that and what was written.
    cluster.disconnect()
    write(cluster.a, 40 * MIB, b"new" * 1000)
    cluster.connect()
    cluster.wait_in_sync()
    assert cluster.received(cluster.b) == 2 * 4096
    assert "differentBytes" not in verified(cluster, cluster.b, "--start", "0")
    cluster.demote(cluster.a)
    equal_areas(cluster)


def test_a_verify_is_refused_with_a_reason(cluster):
    cluster.resource(size=64 * MIB)
    assert "verify_alg" in cluster.a.refused("connection", "verify", f"r0/{cluster.b.node_id}")
    cluster.disconnect()
    assert "connect it first" in cluster.a.refused("connection", "verify", f"r0/{cluster.b.node_id}")
