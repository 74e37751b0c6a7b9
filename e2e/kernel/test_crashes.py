"""One of the two dies under load and comes back."""

import time

import pytest
from harness.shell import wait_until


def up_again(pair):
    pair.k.start()
    pair.k.restore_configuration()
    pair.k.drbdadm("up", "r0")


@pytest.mark.parametrize("primary", ["u", "k"])
def test_the_kernels_power_is_cut(pair, primary):
    pair.resource(sync="u", kernel_disk={"al-extents": 67})
    pair.promote(primary)
    load = pair.load(primary)
    time.sleep(4)  # of load
    pair.k.power_cut()
    up_again(pair)
    pair.wait_connected()
    if primary == "u":
        load.stop()
    pair.wait_in_sync()
    pair.promote(primary)
    pair.demote(primary)
    pair.finish()


@pytest.mark.parametrize("primary", ["u", "k"])
def test_umblockd_is_killed(pair, primary):
    pair.resource(sync="u", disk=["--al-extents", "67"])
    pair.promote(primary)
    load = pair.load(primary)
    time.sleep(4)  # of load
    pair.may_complain("connection shut down by peer")
    pair.u.kill()
    if primary == "u":
        assert load.wait() != 0
    time.sleep(2)
    pair.u.start()
    pair.wait_connected()
    if primary == "k":
        load.stop()
    pair.wait_in_sync()
    pair.promote(primary)
    pair.demote(primary)
    pair.finish()


def test_the_kernel_takes_over_from_a_dead_umblockd(pair):
    pair.resource(sync="u")
    pair.promote("u")
    pair.write("u", 0, b"before" * 4096)
    pair.may_complain("connection shut down by peer")
    pair.u.kill()
    pair.k.wait_state("Connecting")
    pair.promote("k")
    assert pair.read("k", 0, 6) == b"before"
    pair.write("k", 0, b"after!" * 4096)
    pair.demote("k")
    pair.u.start()
    pair.wait_in_sync()
    assert pair.finish().startswith(b"after!" * 4096)


def test_umblock_takes_over_from_a_dead_kernel(pair):
    pair.resource(sync="k")
    pair.promote("k")
    pair.write("k", 0, b"before" * 4096)
    pair.k.power_cut()
    wait_until(lambda: pair.connection_state() != "Connected", "umblock notices", 60)
    pair.promote("u")
    assert pair.read("u", 0, 6) == b"before"
    pair.write("u", 0, b"after!" * 4096)
    pair.demote("u")
    up_again(pair)
    pair.wait_in_sync()
    assert pair.finish().startswith(b"after!" * 4096)


def test_a_frozen_kernel_is_given_up_and_comes_back(pair):
    pair.resource(sync="u")
    pair.promote("u")
    load = pair.load("u")
    time.sleep(2)  # of load
    pair.may_complain("connection shut down by peer", "PingAck did not arrive in time", "failed to send PingAck")
    pair.k.vm.freeze()
    time.sleep(15)  # longer than umblock's timeout
    pair.k.vm.thaw()
    pair.wait_connected()
    load.stop()
    pair.wait_in_sync()
    pair.demote("u")
    pair.finish()
