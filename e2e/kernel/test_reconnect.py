"""Disconnects of all kinds, and what is copied afterwards."""

import os
import random
import time

import pytest
from harness.kernel_node import HUGE
from harness.node import MIB
from harness.shell import wait_until

BLOCK = 64 << 10


@pytest.mark.parametrize("primary", ["u", "k"])
@pytest.mark.parametrize("who", ["u", "k"])
def test_only_what_changed_is_copied(pair, primary, who):
    pair.resource(sync="u")
    pair.promote(primary)
    pair.disconnect(who)
    changes = {offset: os.urandom(BLOCK) for offset in [0, 20 * MIB, 40 * MIB]}
    for offset, data in changes.items():
        pair.write(primary, offset, data)
    assert (pair.out_of_sync() if primary == "u" else pair.k.out_of_sync()) == len(changes) * BLOCK
    pair.connect()
    pair.wait_in_sync()
    received = pair.received() if primary == "k" else pair.k.peer_device()["received"] * 1024
    assert received == len(changes) * BLOCK
    pair.demote(primary)
    area = pair.finish()
    for offset, data in changes.items():
        assert area[offset:offset + BLOCK] == data


@pytest.mark.parametrize("primary", ["u", "k"])
def test_scattered_changes_of_a_large_volume(pair, primary):
    """The bitmap takes many packets."""
    pair.resource(size=HUGE, sync="u")
    pair.promote(primary)
    pair.disconnect("u")
    blocks = sorted(random.Random(3).sample(range(pair.size() // 4096), 1500))
    if primary == "u":
        disk = os.open(pair.export, os.O_WRONLY)
        for block in blocks:
            os.pwrite(disk, block.to_bytes(8, "big") * 512, block * 4096)
        os.fsync(disk)
        os.close(disk)
    else:
        pair.k.run("fio --output-format=terse --name=w --filename=/dev/drbd0 --direct=1 --ioengine=libaio --bs=4k "
                   f"--rw=randwrite --iodepth=16 --size={pair.size()} --io_size={len(blocks) * 4096}")
    assert (pair.out_of_sync() if primary == "u" else pair.k.out_of_sync()) == len(blocks) * 4096
    pair.connect()
    pair.wait_in_sync()
    received = pair.received() if primary == "k" else pair.k.peer_device()["received"] * 1024
    assert received == len(blocks) * 4096
    pair.demote(primary)
    pair.finish()


@pytest.mark.parametrize("primary", ["u", "k"])
def test_disconnects_under_load(pair, primary):
    """Each connect starts a resync, while more is written."""
    pair.resource(sync="u")
    pair.promote(primary)
    load = pair.load(primary)
    dice = random.Random(7)
    for _ in range(10):
        time.sleep(dice.random() * 2)  # of load and resync
        pair.disconnect(dice.choice("uk"))
        time.sleep(dice.random())
        pair.connect()
        pair.wait_connected()
    load.stop()
    pair.wait_in_sync()
    pair.demote(primary)
    pair.finish()


@pytest.mark.parametrize("primary", ["u", "k"])
def test_a_cut_network(pair, primary):
    pair.resource(sync="u")
    pair.promote(primary)
    pair.may_complain("PingAck did not arrive in time", "failed to send PingAck in time", "sending time expired, ko = ", "dtt_send_page: .* sent=-", "peer failed")
    load = pair.load(primary)
    time.sleep(2)  # of load
    pair.u.namespace.cut()
    wait_until(lambda: pair.connection_state() != "Connected", "umblock notices", 60)
    time.sleep(2)
    pair.u.namespace.mend()
    pair.wait_connected()
    load.stop()
    pair.wait_in_sync()
    pair.demote(primary)
    pair.finish()


@pytest.mark.parametrize("victim", ["u", "k"])
def test_split_brain_is_detected_and_resolved(pair, victim):
    pair.resource(sync="u")
    pair.disconnect("u")
    for who, data in [("u", b"umblock."), ("k", b"a kernel")]:
        pair.promote(who)
        pair.write(who, 0, data * 512)
        pair.demote(who)
    pair.expect_complaint("Split-Brain detected but unresolved, dropping connection!")
    pair.connect()
    wait_until(lambda: pair.connection_state() in (None, "StandAlone"), "umblock gives up", 60)
    assert "split" in pair.connection()["status"]["lastError"].lower()
    pair.k.wait_state("StandAlone", "Connecting")
    if pair.k.connection_state() != "StandAlone":
        pair.k.drbdadm("disconnect", "r0")
    pair.expect_complaint("Split-Brain detected, manually solved")
    if victim == "u":
        pair.u.umctl("connection", "connect", "r0/1", "--discard-my-data", "--yes")
        pair.k.drbdadm("connect", "r0")
    else:
        pair.k.drbdadm("connect", "--discard-my-data", "r0")
        pair.connect_umblock()
    pair.wait_in_sync()
    assert pair.finish().startswith({"u": b"a kernel", "k": b"umblock."}[victim])
