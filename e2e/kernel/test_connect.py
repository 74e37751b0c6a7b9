"""Connecting and the first synchronization, in both directions."""

import os

from harness.node import MIB
from harness.shell import wait_until


def test_umblock_declares_the_disks_equal(pair):
    pair.resource(sync="u")
    assert pair.received() == 0
    assert not any(pair.finish())


def test_the_kernel_declares_the_disks_equal(pair):
    pair.resource(sync="k")
    assert pair.received() == 0
    assert not any(pair.finish())


def test_first_sync_from_umblock(pair):
    pair.resource()
    pair.promote("u", force=True)
    data = os.urandom(5 * MIB)
    pair.write("u", 3 * MIB, data)
    pair.wait_in_sync()
    pair.demote("u")
    area = pair.finish()
    assert area[3 * MIB:8 * MIB] == data


def test_first_sync_from_the_kernel(pair):
    pair.resource()
    pair.promote("k", force=True)
    data = os.urandom(MIB)
    pair.write("k", 3 * MIB, data)
    pair.wait_in_sync()
    assert pair.received() >= pair.size()
    pair.demote("k")
    area = pair.finish()
    assert area[3 * MIB:4 * MIB] == data


def test_first_sync_from_a_primary_that_was_alone(pair):
    """Data is written before the peer is there at all."""
    pair.resource(connect=False)
    pair.promote("k", force=True)
    data = os.urandom(MIB)
    pair.write("k", 8 * MIB, data)
    pair.connect_umblock()
    pair.wait_in_sync()
    pair.demote("k")
    assert pair.finish()[8 * MIB:9 * MIB] == data


def test_a_shared_secret_lets_in(pair):
    pair.resource(secret="between the two", sync="u")
    pair.finish()


def test_a_wrong_secret_does_not(pair):
    pair.resource(secret="between the two", connect=False)
    pair.k.drbdadm("net-options", "--shared-secret=another", "r0")
    pair.expect_complaint("Authentication of peer failed")
    pair.expect_complaint("connection shut down by peer")
    pair.connect_umblock()
    wait_until(lambda: pair.connection_state() in ("StandAlone", None), "umblock gives up", 60)
    assert "authent" in pair.connection()["status"]["lastError"].lower()
    pair.k.wait_state("StandAlone", "Connecting")
