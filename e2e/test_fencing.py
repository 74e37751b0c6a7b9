"""Handlers, fencing and disk-timeout for real: who may set programs, what they see, writes that wait, and
a disk that does not answer."""

import signal
import subprocess

import pytest
from harness.lossy import LossyDirectory
from harness.node import LOSSYFS
from harness.shell import wait_until

# Leaves what it was told, and ends when and how the test says.
HANDLER = """#!/bin/sh
env > {directory}/$UMBLOCK_HANDLER.env.new
mv {directory}/$UMBLOCK_HANDLER.env.new {directory}/$UMBLOCK_HANDLER.env
echo "this is $UMBLOCK_HANDLER"
while [ ! -e {directory}/$UMBLOCK_HANDLER.code ]; do sleep 0.05; done
exit $(cat {directory}/$UMBLOCK_HANDLER.code)
"""


class Handlers:
    """One script on a node, for fence-peer and unfence-peer."""

    def __init__(self, node):
        self.directory = node.directory / "handlers"
        self.directory.mkdir()
        self.program = self.directory / "handler"
        self.program.write_text(HANDLER.format(directory=self.directory))
        self.program.chmod(0o755)
        self.ends("unfence-peer", 0)

    def ends(self, name, code):
        (self.directory / f"{name}.code.new").write_text(f"{code}\n")
        (self.directory / f"{name}.code.new").rename(self.directory / f"{name}.code")

    def was_called(self, name):
        return (self.directory / f"{name}.env").exists()

    def environment(self, name):
        lines = (self.directory / f"{name}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)


def restart_with_handlers(cluster):
    for node in cluster.nodes:
        node.stop()
        node.options = ["--allow-handlers"]
        node.start()


@pytest.fixture
def fenced(cluster):
    """r0 with stonith, alpha Primary, and the handlers of each node."""
    restart_with_handlers(cluster)
    cluster.resource(net=("--fencing", "ResourceAndStonith"))
    handlers = {}
    for node in cluster.nodes:
        handlers[node] = Handlers(node)
        node.umctl("resource", "handlers", "r0", "--fence-peer", handlers[node].program,
                   "--unfence-peer", handlers[node].program)
    cluster.promote(cluster.a)
    return handlers


def write(node, count=8):
    return subprocess.Popen(
        ["dd", "if=/dev/urandom", f"of={node.exports}/r0-0", "bs=64K", f"count={count}",
         "oflag=direct", "conv=notrunc,fsync", "status=none"])


def suspended(node):
    return node.json("resource", "show", "r0")["status"]["suspended"]


def peer_disk(cluster, node):
    return cluster.connection(node)["volumes"][0]["peerDisk"]


def test_a_daemon_runs_no_programs_unless_it_is_told_to(cluster):
    cluster.a.umctl("resource", "create", "r0", "--node-id", 0)
    problem = cluster.a.refused("resource", "handlers", "r0", "--fence-peer", "/bin/true")
    assert "--allow-handlers" in problem
    restart_with_handlers(cluster)
    cluster.a.umctl("resource", "handlers", "r0", "--fence-peer", "/bin/true")
    assert "not an absolute path" in cluster.a.refused("resource", "handlers", "r0", "--fence-peer", "true")
    assert "does not exist" in cluster.a.refused("resource", "handlers", "r0", "--fence-peer", "/bin/true; reboot")
    # What was set is there after a restart, and is not run by a daemon that is not told to.
    cluster.a.stop()
    cluster.a.options = []
    cluster.a.start()
    assert cluster.a.json("resource", "show", "r0")["spec"]["handlers"]["fencePeer"] == "/bin/true"
    problems = cluster.a.json("node", "get")["problems"]
    assert any("--allow-handlers" in problem["reason"] for problem in problems)


def test_writes_wait_until_the_peer_is_fenced(cluster, fenced):
    a, b = cluster.nodes
    b.kill()
    wait_until(lambda: fenced[a].was_called("fence-peer"), "fence-peer runs", 60)
    assert suspended(a) == "fencing"
    writer = write(a)
    told = fenced[a].environment("fence-peer")
    assert told["DRBD_RESOURCE"] == "r0"
    assert told["DRBD_PEER_ADDRESS"] == str(b.namespace.address)
    assert told["DRBD_NODE_ID_0"] == "alpha" and told["DRBD_NODE_ID_1"] == "beta"
    assert told["DRBD_LL_DISK"] == "r0-disk"
    assert told["UP_TO_DATE_NODES"] == "0x00000001"
    assert writer.poll() is None
    # Not fenced: nothing goes on.
    fenced[a].ends("fence-peer", 1)
    wait_until(lambda: "the peer is not fenced" in a.log.read_text(), "the failure is logged")
    assert "fence-peer: this is fence-peer" in a.log.read_text()
    assert suspended(a) == "fencing" and writer.poll() is None
    assert "holds writes back" in a.refused("resource", "demote", "r0") or suspended(a) == "fencing"
    a.umctl("resource", "resume-io", "r0")
    assert writer.wait(60) == 0
    assert suspended(a) == "no"
    b.start()
    cluster.wait_in_sync()


def test_a_fenced_peer_is_resynchronised_and_unfenced(cluster, fenced):
    a, b = cluster.nodes
    fenced[a].ends("fence-peer", 4)
    b.kill()
    wait_until(lambda: peer_disk(cluster, a) == "Outdated", "the peer is fenced", 60)
    writer = write(a)
    assert writer.wait(60) == 0
    assert suspended(a) == "no"
    b.start()
    cluster.wait_in_sync()
    for node in cluster.nodes:
        wait_until(lambda node=node: fenced[node].was_called("unfence-peer"), "unfence-peer runs")
    assert fenced[a].environment("unfence-peer")["UP_TO_DATE_NODES"] == "0x00000003"
    cluster.demote(a)
    area_a, area_b = cluster.data_areas()
    assert area_a == area_b


def test_a_node_that_is_left_alone_fences_before_it_takes_over(cluster, fenced):
    a, b = cluster.nodes
    fenced[a].ends("fence-peer", 1)
    fenced[b].ends("fence-peer", 1)
    a.kill()
    wait_until(lambda: cluster.connection(b)["status"]["state"] != "Connected", "the link is lost", 60)
    assert "The fencing policy forbids" in b.refused("resource", "promote", "r0")
    fenced[b].ends("fence-peer", 7)
    cluster.promote(b)
    assert peer_disk(cluster, b) == "Outdated"
    assert write(b).wait(60) == 0
    a.start()
    cluster.wait_in_sync()


def test_a_disk_that_hangs_is_given_up(cluster, cleanup):
    """The process behind alpha's disk is stopped: its requests neither end nor fail."""
    a, b = cluster.nodes
    lossy = LossyDirectory(LOSSYFS, a.directory / "platter", a.directory / "lossy", 100, 1)
    lossy.start()
    cleanup.add(lossy.tear_down)
    cluster.resource(where={a: lossy.mountpoint, b: b.disks}, disk=("--disk-timeout", "2s"))
    cluster.promote(a)
    assert write(a).wait(60) == 0
    lossy.process.send_signal(signal.SIGSTOP)
    try:
        assert write(a).wait(60) == 0
        wait_until(lambda: cluster.volume(a)["status"]["disk"] == "Diskless", "the disk is given up")
        reason = cluster.volume(a)["status"]["diskReason"]
        assert "disk-timeout: backend r0-disk has not answered" in reason
        assert "may still reach it" in a.log.read_text()
        assert "have not come back" in a.refused("volume", "attach", "r0/0")
    finally:
        lossy.process.send_signal(signal.SIGCONT)
    wait_until(lambda: a.umctl("volume", "attach", "r0/0", check=False).returncode == 0, "it is attached again")
    cluster.wait_in_sync()
    cluster.demote(a)
    size = int(cluster.volume(a)["status"]["sizeBytes"])
    with open(lossy.mountpoint / "r0-disk.img", "rb") as one, open(cluster.disk(b), "rb") as other:
        assert one.read(size) == other.read(size)
