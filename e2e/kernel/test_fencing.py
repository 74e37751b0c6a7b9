"""Fencing between umblock and a kernel: writes that wait, and who is outdated when somebody leaves."""

import os
import subprocess

import pytest
from harness.shell import wait_until

CUT = ["PingAck did not arrive in time", "failed to send PingAck in time", "sending time expired, ko = ",
       "dtt_send_page: .* sent=-", "peer failed", "meta connection shut down by peer"]


@pytest.fixture
def fenced(pair):
    """umblock Primary with stonith; its fence-peer ends with the code that is in the file."""
    pair.u.stop()
    pair.u.options = ["--allow-handlers"]
    pair.u.start()
    # A kernel that does not fence is not let go by a Primary that does.
    pair.resource(sync="u", net=("--fencing", "ResourceAndStonith"),
                  kernel_net={"fencing": "resource-and-stonith"})
    code = pair.directory / "code"
    handler = pair.directory / "fence-peer"
    handler.write_text(f"#!/bin/sh\nexit $(cat {code})\n")
    handler.chmod(0o755)
    pair.u.umctl("resource", "handlers", "r0", "--fence-peer", handler)
    pair.promote("u")
    return pair, code


def cut_under_load(pair):
    """Direct writes of 1 MiB, in the middle of which the network is gone."""
    pair.may_complain(*CUT)
    writer = subprocess.Popen(["dd", "if=/dev/urandom", f"of={pair.export}", "bs=64K", "count=320",
                               "oflag=direct", "conv=notrunc,fsync", "status=none"])
    pair.cleanup.add(writer.kill)
    wait_until(lambda: int(pair.volume()["statistics"].get("writeBytes", 0)) > 1 << 20, "it is written", 30)
    pair.u.namespace.cut()
    return writer


def test_held_writes_are_sent_again_to_a_kernel(fenced):
    pair, code = fenced
    code.write_text("1\n")
    writer = cut_under_load(pair)
    before = pair.volume()["currentUuid"]
    wait_until(lambda: pair.shown()["status"]["suspended"] == "fencing", "I/O is suspended", 60)
    wait_until(lambda: "the peer is not fenced" in pair.u.log.read_text(), "fence-peer has failed", 30)
    assert writer.poll() is None
    pair.u.namespace.mend()
    assert writer.wait(120) == 0
    pair.wait_in_sync()
    assert pair.volume()["currentUuid"] == before
    assert "replication Off -> WFBitMapS" not in pair.u.log.read_text()
    assert pair.shown()["status"]["suspended"] == "no"
    pair.demote("u")
    pair.finish()


def test_a_fenced_kernel_is_resynchronised(fenced):
    pair, code = fenced
    code.write_text("4\n")
    writer = cut_under_load(pair)
    assert writer.wait(120) == 0
    wait_until(lambda: pair.peer_volume()["peerDisk"] == "Outdated", "the kernel is fenced", 60)
    assert "suspended-fencing no -> yes" in pair.u.log.read_text()
    pair.u.namespace.mend()
    pair.wait_connected()
    pair.wait_in_sync()
    pair.demote("u")
    pair.finish()


def test_a_kernel_that_leaves_outdates_itself(fenced):
    pair, code = fenced
    code.write_text("1\n")
    pair.disconnect("k")
    assert pair.peer_volume()["peerDisk"] == "Outdated"
    assert pair.shown()["status"]["suspended"] == "no"
    pair.write("u", 0, os.urandom(65536))
    pair.connect()
    pair.wait_in_sync()
    pair.demote("u")
    pair.finish()


def test_umblock_outdates_itself_when_it_leaves_a_kernel_that_fences(pair):
    pair.resource(sync="k", kernel_net={"fencing": "resource-and-stonith"})
    pair.promote("k")
    pair.expect_complaint("Refusing to be Primary while peer is not outdated")
    pair.disconnect("u")
    assert pair.volume()["disk"] == "Outdated"
    pair.write("k", 0, os.urandom(65536))
    pair.connect()
    pair.wait_in_sync()
    pair.demote("k")
    pair.finish()
