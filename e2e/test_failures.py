"""Nodes die and come back; what was written stays."""

import os
import subprocess
import sys

import pytest
from harness import drbdmeta, software
from harness.loop import tree_digests
from harness.shell import wait_until

# As few as can be: what is resynced after a crash is then much less than the volume.
HOT_EXTENTS = 67
FEW_EXTENTS = ("--al-extents", HOT_EXTENTS)
EXTENT = 4 << 20

# Writes numbered 4 KiB blocks with O_DSYNC until it cannot, and prints each number that was
# acknowledged.
WRITER = r"""
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_DSYNC)
blocks = int(sys.argv[2])
n = 0
while True:
    try:
        os.pwrite(fd, (b"%015d\n" % n) * 256, (n % blocks) * 4096)
    except OSError:
        break
    os.write(1, b"%d\n" % n)
    n += 1
"""


def test_peer_killed_during_the_build_is_resynced(cluster):
    cluster.resource(size=1 << 30, disk=FEW_EXTENTS)
    cluster.promote(cluster.a)
    file_system = cluster.file_system(cluster.a)
    file_system.attach()
    file_system.make()
    file_system.mount()
    tree = software.unpack(file_system.mountpoint)
    build = subprocess.Popen(["make", "-j2", "linux"], cwd=tree, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    wait_until(lambda: (tree / "src" / "lapi.o").exists(), "the build has begun", 60)
    cluster.b.kill()
    assert build.wait(300) == 0
    os.sync()
    before = tree_digests(tree)
    missed = cluster.out_of_sync(cluster.a)
    assert missed > 0
    cluster.b.start()
    cluster.wait_in_sync()
    # What it missed was copied, and what it was writing when it died; not the whole volume.
    assert missed <= cluster.received(cluster.b) <= missed + HOT_EXTENTS * EXTENT
    file_system.unmount()
    file_system.detach()
    cluster.demote(cluster.a)
    area_a, area_b = cluster.data_areas()
    assert area_a == area_b

    cluster.promote(cluster.b)
    file_system = cluster.file_system(cluster.b)
    file_system.attach()
    file_system.check()
    file_system.mount()
    assert tree_digests(tree) == before and software.works(tree)
    file_system.unmount()
    file_system.detach()
    cluster.demote(cluster.b)


def test_primary_killed_under_write_load_comes_back(cluster, workdir):
    cluster.resource(size=512 << 20, disk=FEW_EXTENTS)
    cluster.promote(cluster.a)
    blocks = (256 << 20) // 4096
    writer = subprocess.Popen([sys.executable, "-c", WRITER, cluster.a.exports / "r0-0", str(blocks)],
                              stdout=subprocess.PIPE)
    for _ in range(500):
        assert writer.stdout.readline()
    cluster.a.kill()
    acknowledged = max([499, *(int(line) for line in writer.stdout.read().split())])
    writer.wait(30)
    # What is to be resynced, as Debian's tool sees it.
    copy = drbdmeta.copy_of(cluster.disk(cluster.a), workdir / "copy.img")
    drbdmeta.apply_activity_log(copy)
    marked = drbdmeta.out_of_sync_bytes(copy)
    assert 0 < marked <= HOT_EXTENTS * EXTENT

    cluster.a.start()
    cluster.wait_in_sync()
    assert cluster.role(cluster.a) == "Secondary"
    # Everything acknowledged is there, on both nodes; the areas are equal.
    area_a, area_b = cluster.data_areas()
    assert area_a == area_b
    for n in range(max(0, acknowledged - blocks + 1), acknowledged + 1):
        at = (n % blocks) * 4096
        assert area_a[at:at + 15] in (b"%015d" % n, b"%015d" % (n + blocks))
    copied = max(cluster.received(cluster.a), cluster.received(cluster.b))
    assert copied == marked
    cluster.promote(cluster.a)
    cluster.demote(cluster.a)


def test_other_node_takes_over_when_the_primary_died(cluster):
    cluster.resource(size=64 << 20)
    cluster.promote(cluster.a)
    disk = os.open(cluster.a.exports / "r0-0", os.O_RDWR)
    os.write(disk, b"acknowledged" * 1024)
    os.fsync(disk)
    cluster.a.kill()
    with pytest.raises(OSError):
        os.close(disk)  # its daemon is gone
    wait_until(lambda: cluster.connection(cluster.b)["status"].get("state") != "Connected",
               "beta sees that alpha is gone", 60)
    cluster.promote(cluster.b)
    with open(cluster.b.exports / "r0-0", "r+b", buffering=0) as other:
        assert other.read(12) == b"acknowledged"
        other.seek(0)
        other.write(b"goes on here" * 1024)
        os.fsync(other.fileno())
    cluster.demote(cluster.b)
    cluster.a.start()
    cluster.wait_in_sync()
    area_a, area_b = cluster.data_areas()
    assert area_a == area_b and area_a.startswith(b"goes on here")


def test_cut_network_is_mended_and_resynced(cluster):
    cluster.resource(size=64 << 20)
    cluster.promote(cluster.a)
    cluster.a.namespace.cut()
    with open(cluster.a.exports / "r0-0", "r+b", buffering=0) as disk:
        disk.write(b"cut" * 65536)
        os.fsync(disk.fileno())
    cluster.a.namespace.mend()
    cluster.wait_in_sync()
    cluster.demote(cluster.a)
    area_a, area_b = cluster.data_areas()
    assert area_a == area_b and area_a.startswith(b"cut" * 65536)


def test_restarted_daemon_is_back_where_it_was(cluster):
    cluster.resource(size=64 << 20)
    before = cluster.b.json("resource", "show", "r0")["spec"]
    assert cluster.b.stop() == 0
    assert not os.path.ismount(cluster.b.exports)
    cluster.b.start()
    cluster.wait_in_sync()
    assert cluster.b.json("resource", "show", "r0")["spec"] == before
    assert [export["spec"]["name"] for export in cluster.b.json("export", "list")["exports"]] == ["r0-0"]
    cluster.promote(cluster.b)
    with open(cluster.b.exports / "r0-0", "r+b", buffering=0) as disk:
        disk.write(b"again" * 4096)
    cluster.demote(cluster.b)
