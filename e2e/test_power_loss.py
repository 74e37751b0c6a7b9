"""fsync means it: both nodes lose power at once, on disks that forget what was not flushed."""

import hashlib
import os
import subprocess
import sys

import pytest
from harness.lossy import LossyDirectory
from harness.node import LOSSYFS

# Writes files of random size, fsyncs each, renames it to its digest, fsyncs the directory, and only
# then prints the name.
WRITER = r"""
import hashlib, os, random, sys
directory = sys.argv[1]
random.seed(int(sys.argv[2]))
handle = os.open(directory, os.O_RDONLY)
while True:
    data = random.randbytes(random.randrange(1, 200000))
    name = hashlib.sha256(data).hexdigest()
    try:
        with open(f"{directory}/new", "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{directory}/new", f"{directory}/{name}")
        os.fsync(handle)
    except OSError:
        break
    os.write(1, name.encode() + b"\n")
"""


def write_until_the_power_goes(cluster, cleanup, survive):
    """The names of the files that were durable when both nodes lost power; the disks are back, the
    daemons are not."""
    lossy = {}
    for node in cluster.nodes:
        lossy[node] = LossyDirectory(LOSSYFS, node.directory / "platter", node.directory / "lossy",
                                     survive, seed=node.node_id + 1)
        lossy[node].start()
        cleanup.add(lossy[node].tear_down)
        cleanup.add(node.tear_down)  # before its disk goes
    cluster.resource(size=256 << 20, where={node: lossy[node].mountpoint for node in cluster.nodes})
    cluster.promote(cluster.a)
    file_system = cluster.file_system(cluster.a)
    file_system.attach()
    file_system.make()
    file_system.mount()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, file_system.mountpoint, str(survive)],
                              stdout=subprocess.PIPE, text=True)
    cleanup.add(writer.kill)
    durable = [writer.stdout.readline().strip() for _ in range(60)]
    assert all(durable)

    # The power goes: daemons and disk caches, as fast as signals can be sent.
    for process in [cluster.a.process, cluster.b.process, lossy[cluster.a].process,
                    lossy[cluster.b].process]:
        process.kill()
    for node in cluster.nodes:
        node.process.wait()
        node.process = None
    file_system.tear_down()
    durable += writer.stdout.read().split()
    writer.wait(60)
    for node in cluster.nodes:
        lossy[node].kill()
        lossy[node].start()
    return durable


def expect_files(cluster, node, names):
    """On the Primary `node`: each file is there, with what its name says."""
    file_system = cluster.file_system(node)
    file_system.attach()
    file_system.mount()  # replays the journal
    for name in names:
        content = (file_system.mountpoint / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == name
    file_system.unmount()
    file_system.check()
    file_system.detach()


@pytest.mark.parametrize("survive", [0, 50])
def test_fsynced_files_survive_power_loss_of_both_nodes(cluster, cleanup, survive):
    durable = write_until_the_power_goes(cluster, cleanup, survive)
    for node in cluster.nodes:
        node.start()
    cluster.wait_in_sync()
    for node in [cluster.a, cluster.b]:
        cluster.promote(node)
        expect_files(cluster, node, durable)
        cluster.demote(node)


@pytest.mark.parametrize("survive", [0, 50])
def test_fsynced_files_are_on_the_other_node_alone(cluster, cleanup, survive):
    """The Primary never comes back: what it answered to fsync the other disk has by itself."""
    durable = write_until_the_power_goes(cluster, cleanup, survive)
    cluster.b.start()
    cluster.promote(cluster.b)
    expect_files(cluster, cluster.b, durable)


def test_the_lossy_file_system_forgets(workdir, cleanup):
    """The instrument itself: without fsync data is gone, with it data stays."""
    lossy = LossyDirectory(LOSSYFS, workdir / "platter", workdir / "lossy", 0, 1)
    lossy.start()
    cleanup.add(lossy.tear_down)
    handle = os.open(lossy.mountpoint / "disk", os.O_RDWR | os.O_CREAT)
    os.pwrite(handle, b"flushed", 0)
    os.fsync(handle)
    os.pwrite(handle, b"forgotten", 8192)
    assert os.pread(handle, 9, 8192) == b"forgotten"
    lossy.kill()
    with pytest.raises(OSError):
        os.close(handle)  # its file system is gone
    lossy.start()
    contents = (lossy.mountpoint / "disk").read_bytes()
    assert contents.startswith(b"flushed") and b"forgotten" not in contents
