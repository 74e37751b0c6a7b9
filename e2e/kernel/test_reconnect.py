"""Disconnects of all kinds, and what is copied afterwards."""

import os
import time

import pytest
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
def test_disconnects_under_load(pair, primary):
    """Each connect starts a resync, while more is written."""
    pair.resource(sync="u")
    pair.promote(primary)
    load = pair.load(primary)
    for cycle in range(6):
        time.sleep(1)  # of load, with and without the peer
        pair.disconnect("uk"[cycle % 2])
        time.sleep(1)
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
    pair.may_complain("PingAck did not arrive in time")
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
    pair.k.drbdadm("disconnect", "r0")
    if victim == "u":
        pair.u.umctl("connection", "connect", "r0/1", "--discard-my-data", "--yes")
        pair.k.drbdadm("connect", "r0")
    else:
        pair.k.drbdadm("connect", "--discard-my-data", "r0")
        pair.connect_umblock()
    pair.wait_in_sync()
    assert pair.finish().startswith({"u": b"a kernel", "k": b"umblock."}[victim])
