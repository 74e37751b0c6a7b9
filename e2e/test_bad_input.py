"""What cannot work is refused with a reason, loses nothing, and leaves the daemon standing."""

import os
import shutil

import pytest
from harness.shell import run


@pytest.fixture
def node(cluster):
    return cluster.a


@pytest.fixture(scope="module")
def node_with_volume(shared_cluster):
    """A volume r0/0 without a disk. Nothing that is refused changes it."""
    node = shared_cluster.a
    node.umctl("resource", "create", "r0", "--node-id", "0")
    node.umctl("volume", "create", "r0/0")
    return node


def alive(node):
    assert node.process.poll() is None
    node.umctl("node", "show")


@pytest.mark.parametrize("arguments, says", [
    (("resource", "show", "nope"), ["nope"]),
    (("resource", "promote", "nope"), ["nope"]),
    (("resource", "create", "../etc", "--node-id", "0"), ["../etc"]),
    (("resource", "create", "r1", "--node-id", "32"), ["32"]),
    (("backend", "create", "b", "--path", "relative/path", "--size", "1MiB", "--create"), ["relative/path"]),
    (("backend", "create", "b", "--path", "/nonexistent/disk.img"), ["/nonexistent/disk.img"]),
    (("backend", "create", "b", "--path", "/dev/null"), ["/dev/null"]),
    (("volume", "create", "nope/0"), ["nope"]),
    (("volume", "show", "r0/7"), ["r0/7"]),
    (("volume", "create", "r0/65535"), ["65535"]),
    (("volume", "attach", "r0/0", "--backend", "nope"), ["nope"]),
    (("connection", "create", "r0/0", "--peer-name", "x",
      "--path", "10.77.0.1:7789", "10.77.0.2:7789"), []),
    (("connection", "create", "r0/2", "--peer-name", "x",
      "--path", "not-an-address", "10.77.0.2:7789"), ["not-an-address"]),
    (("export", "create", "a/b", "--volume", "r0/0"), ["a/b"]),
    (("export", "create", "x", "--volume", "r0/9"), ["r0/9"]),
    (("export", "delete", "nope"), ["nope"]),
    (("target", "create", "not-an-iqn"), ["not-an-iqn"]),
    (("portal", "create", "1.2.3.4:99999"), ["1.2.3.4:99999"]),
])
def test_refused_with_the_name_of_what_is_wrong(node_with_volume, arguments, says):
    node = node_with_volume
    before = node.json("status")
    message = node.refused(*arguments)
    for word in says:
        assert word in message
    assert "internal" not in message.lower()
    after = node.json("status")
    assert [len(after.get(noun, [])) for noun in ("resources", "backends", "exports", "targets", "portals")] \
        == [len(before.get(noun, [])) for noun in ("resources", "backends", "exports", "targets", "portals")]
    alive(node)


def test_a_disk_without_metadata_and_one_of_another_volume_are_not_attached(cluster):
    cluster.resource(size=64 << 20, connect=False)
    node = cluster.a
    node.umctl("backend", "create", "blank", "--path", node.disks / "blank.img", "--size", "64MiB", "--create")
    node.umctl("volume", "create", "r0/1")
    assert "metadata" in node.refused("volume", "attach", "r0/1", "--backend", "blank")
    # The disk of r0/0 belongs to node 0; as node 1's it is refused.
    copy = cluster.b.disks / "copy.img"
    shutil.copy(node.disks / "r0-disk.img", copy)
    cluster.b.umctl("backend", "create", "copy", "--path", copy)
    cluster.b.umctl("volume", "create", "r0/1")
    assert "node" in cluster.b.refused("volume", "attach", "r0/1", "--backend", "copy")
    # The disks of two volumes of one node, taken for each other.
    node.umctl("metadata", "create", "r0/1", "--backend", "blank")
    node.umctl("volume", "attach", "r0/1", "--backend", "blank")
    node.umctl("volume", "detach", "r0/1")
    node.umctl("volume", "detach", "r0/0")
    refusal = node.refused("volume", "attach", "r0/1", "--backend", "r0-disk")
    assert "another disk" in refusal and "r0/1" in refusal
    node.umctl("volume", "attach", "r0/0", "--backend", "r0-disk")
    node.umctl("volume", "attach", "r0/1", "--backend", "blank")
    alive(cluster.a)
    alive(cluster.b)


def test_metadata_is_not_written_over_a_file_system(node):
    path = node.disks / "data.img"
    with open(path, "wb") as disk:
        disk.truncate(64 << 20)
    run("mkfs.ext4", "-q", "-F", path)
    before = path.read_bytes()
    node.umctl("backend", "create", "data", "--path", path)
    node.umctl("resource", "create", "r0", "--node-id", "0")
    node.umctl("volume", "create", "r0/0")
    assert "ext" in node.refused("metadata", "create", "r0/0", "--backend", "data")
    assert path.read_bytes() == before


def test_a_backing_file_on_an_own_export_is_refused(cluster):
    cluster.resource(size=64 << 20, connect=False)
    path = cluster.a.exports / "r0-0"
    message = cluster.a.refused("backend", "create", "snake", "--path", path)
    assert "export" in message
    alive(cluster.a)


def test_a_full_file_system_is_an_error_not_an_end(cluster, cleanup, workdir):
    """The Primary's disk is thin and its file system full: the volume goes on with the peer."""
    small = workdir / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=24m", "none", small)
    cleanup.add(run, "umount", "-l", small)
    cleanup.add(cluster.a.tear_down)
    cluster.resource(size=128 << 20, where={cluster.a: small, cluster.b: cluster.b.disks})
    cluster.promote(cluster.a)
    block = os.urandom(1 << 20)
    with open(cluster.a.exports / "r0-0", "r+b", buffering=0) as disk:
        for _ in range(40):
            assert disk.write(block) == len(block)
        os.fsync(disk.fileno())
        disk.seek(39 << 20)
        assert disk.read(len(block)) == block
    assert cluster.volume(cluster.a)["status"]["disk"] != "UpToDate"
    cluster.demote(cluster.a)
    alive(cluster.a)
    alive(cluster.b)


def test_a_backend_that_vanished_is_a_problem_that_is_told(cluster):
    cluster.resource(size=64 << 20, connect=False)
    cluster.a.stop()
    disk = cluster.a.disks / "r0-disk.img"
    disk.rename(disk.with_suffix(".away"))
    cluster.a.start()
    problems = cluster.a.json("node", "show").get("problems", [])
    assert any("r0-disk" in problem["object"] for problem in problems)
    disk.with_suffix(".away").rename(disk)
    cluster.a.stop()
    cluster.a.start()
    assert cluster.volume(cluster.a)["status"]["disk"] not in ("Diskless", None)
