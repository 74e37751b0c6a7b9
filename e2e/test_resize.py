"""Volumes that get another size while they are used, and disks that grow while nobody looks."""

import os

from harness.drbdmeta import copy_of, drbdmeta
from harness.node import MIB
from harness.shell import wait_until


def size_of(cluster, node):
    return int(cluster.volume(node)["status"]["sizeBytes"])


def grow_backends(cluster, size):
    for node in cluster.nodes:
        node.umctl("backend", "resize", "r0-disk", "--size", size)


def equal_areas(cluster):
    area_a, area_b = cluster.data_areas()
    assert area_a == area_b
    return area_a


def test_an_ext4_grows_while_it_is_mounted(cluster):
    cluster.resource(size=64 * MIB)
    cluster.promote(cluster.a)
    file_system = cluster.file_system(cluster.a)
    file_system.attach()
    file_system.make()
    file_system.mount()
    (file_system.mountpoint / "before").write_bytes(os.urandom(20 * MIB))
    before = size_of(cluster, cluster.a)
    grow_backends(cluster, 200 * MIB)
    assert size_of(cluster, cluster.a) == before
    cluster.a.umctl("volume", "resize", "r0/0")
    after = size_of(cluster, cluster.a)
    assert 199 * MIB < after < 200 * MIB
    wait_until(lambda: size_of(cluster, cluster.b) == after, "the peer follows")
    assert (cluster.a.exports / "r0-0").stat().st_size == after
    file_system.grow()
    room = os.statvfs(file_system.mountpoint)
    assert room.f_frsize * room.f_bavail > 100 * MIB
    (file_system.mountpoint / "after").write_bytes(os.urandom(90 * MIB))
    cluster.wait_in_sync()
    file_system.unmount()
    file_system.check()
    file_system.detach()
    # On the other node it is all there; what is asked for there is done here.
    cluster.demote(cluster.a)
    cluster.promote(cluster.b)
    grow_backends(cluster, 220 * MIB)
    cluster.b.umctl("volume", "resize", "r0/0", "--size", 210 * MIB)
    other = cluster.file_system(cluster.b)
    other.attach()
    other.mount()
    assert (other.mountpoint / "after").stat().st_size == 90 * MIB
    other.grow()
    other.unmount()
    other.check()
    other.detach()
    cluster.wait_in_sync()
    cluster.demote(cluster.b)
    assert len(equal_areas(cluster)) == 210 * MIB
    # Both keep it over a restart, and drbdmeta knows its way about.
    for node in cluster.nodes:
        assert node.stop() == 0
        image = copy_of(cluster.disk(node), cluster.directory / f"{node.name}.img")
        assert f"la-size-sect {210 * MIB // 512};" in drbdmeta(image, "dump-md")
    for node in cluster.nodes:
        node.start()
    cluster.wait_in_sync()
    assert size_of(cluster, cluster.a) == size_of(cluster, cluster.b) == 210 * MIB


def test_files_that_grew_while_the_daemons_were_down(cluster):
    cluster.resource(size=64 * MIB)
    cluster.promote(cluster.a)
    with open(cluster.a.exports / "r0-0", "r+b", buffering=0) as export:
        export.write(b"kept" * 1024)
        os.fsync(export.fileno())
    cluster.demote(cluster.a)
    # umctl has had them take their files as they are.
    for node in cluster.nodes:
        node.umctl("backend", "resize", "r0-disk")
        assert node.stop() == 0
        os.truncate(cluster.disk(node), 100 * MIB)
        with open(cluster.disk(node), "r+b") as disk:
            disk.seek(80 * MIB)
            disk.write(node.name.encode() * 1000)
    for node in cluster.nodes:
        node.start()
    cluster.wait_in_sync()
    wait_until(lambda: all(size_of(cluster, node) > 99 * MIB for node in cluster.nodes), "both grow")
    wait_until(lambda: all(cluster.out_of_sync(node) == 0 for node in cluster.nodes), "all is synced")
    cluster.wait_in_sync()
    assert equal_areas(cluster).startswith(b"kept" * 1024)


def test_what_cannot_be_is_refused_with_the_reason(cluster):
    cluster.resource(size=64 * MIB)
    before = size_of(cluster, cluster.a)
    assert "make that larger" in cluster.a.refused("volume", "resize", "r0/0", "--size", 128 * MIB)
    assert "would be lost" in cluster.a.refused("volume", "resize", "r0/0", "--size", 32 * MIB)
    assert "become larger" in cluster.a.refused("backend", "resize", "r0-disk", "--size", 32 * MIB)
    cluster.a.umctl("backend", "resize", "r0-disk", "--size", 128 * MIB)
    assert "least of all nodes" in cluster.a.refused("volume", "resize", "r0/0", "--size", 96 * MIB)
    cluster.a.umctl("volume", "resize", "r0/0")
    assert size_of(cluster, cluster.a) == before
    cluster.disconnect()
    assert "is away" in cluster.a.refused("volume", "resize", "r0/0", "--size", 96 * MIB)
    cluster.connect()
    cluster.wait_in_sync()
    cluster.a.umctl("volume", "resize", "r0/0", "--size", 32 * MIB, "--shrink", "--yes")
    wait_until(lambda: size_of(cluster, cluster.b) == 32 * MIB, "the peer follows")
    cluster.wait_in_sync()
