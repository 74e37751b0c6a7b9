"""What an operator does on either side while the two are connected."""

import os
import signal
import time

import pytest
from harness.kernel_node import SMALL
from harness.node import MIB
from harness.shell import wait_until


def patterned(pair, who):
    """A connected resource with data of its Primary `who`."""
    pair.resource(sync="u")
    pair.promote(who)
    data = os.urandom(MIB)
    pair.write(who, 4 * MIB, data)
    return data


def test_the_kernel_invalidates_its_disk(pair):
    data = patterned(pair, "u")
    pair.k.drbdadm("invalidate", "r0")
    wait_until(lambda: pair.k.peer_device()["received"] * 1024 >= pair.size(), "all is copied", 90)
    pair.wait_in_sync()
    pair.demote("u")
    assert pair.finish()[4 * MIB:5 * MIB] == data


def test_the_kernel_invalidates_umblocks_disk(pair):
    data = patterned(pair, "k")
    pair.k.drbdadm("invalidate-remote", "r0")
    wait_until(lambda: pair.received() >= pair.size(), "all is copied", 90)
    pair.wait_in_sync()
    pair.demote("k")
    assert pair.finish()[4 * MIB:5 * MIB] == data


def test_umblock_invalidates_its_disk(pair):
    data = patterned(pair, "k")
    pair.u.umctl("volume", "invalidate", "r0/0", "--yes")
    wait_until(lambda: pair.received() >= pair.size(), "all is copied", 90)
    pair.wait_in_sync()
    pair.demote("k")
    assert pair.finish()[4 * MIB:5 * MIB] == data


def test_a_kernel_primary_without_disk_reads_and_writes_through_umblock(pair):
    data = patterned(pair, "k")
    pair.k.drbdadm("detach", "r0")
    assert pair.read("k", 4 * MIB, MIB) == data
    more = os.urandom(MIB)
    pair.write("k", 6 * MIB, more)
    pair.load_for("k", 3)
    pair.write("k", 6 * MIB, more)
    assert pair.read("k", 6 * MIB, MIB) == more
    pair.k.drbdadm("attach", "r0")
    pair.wait_in_sync()
    pair.demote("k")
    assert pair.finish()[6 * MIB:7 * MIB] == more


def test_an_umblock_primary_without_disk_reads_and_writes_through_the_kernel(pair):
    data = patterned(pair, "u")
    pair.u.umctl("volume", "detach", "r0/0")
    assert pair.read("u", 4 * MIB, MIB) == data
    pair.load_for("u", 2)
    more = os.urandom(MIB)
    pair.write("u", 6 * MIB, more)
    assert pair.read("u", 6 * MIB, MIB) == more
    pair.u.umctl("volume", "attach", "r0/0", "--backend", "data")
    pair.wait_in_sync()
    pair.demote("u")
    assert pair.finish()[6 * MIB:7 * MIB] == more


@pytest.mark.parametrize("who", ["u", "k"])
def test_a_secondary_detaches_under_load_and_comes_back(pair, who):
    primary = pair.other(who)
    pair.resource(sync="u")
    pair.promote(primary)
    load = pair.load(primary)
    for _ in range(2):
        time.sleep(3)  # of load
        if who == "k":
            pair.k.drbdadm("detach", "r0")
            wait_until(lambda: pair.peer_volume()["peerDisk"] == "Diskless", "umblock sees it")
            time.sleep(2)
            pair.k.drbdadm("attach", "r0")
        else:
            pair.u.umctl("volume", "detach", "r0/0")
            wait_until(lambda: pair.k.peer_device()["peer-disk-state"] == "Diskless", "the kernel sees it")
            time.sleep(2)
            pair.u.umctl("volume", "attach", "r0/0", "--backend", "data")
        wait_until(lambda: pair.volume()["disk"] == "UpToDate" and pair.k.disk_state() == "UpToDate",
                   "the disk is good again", 120, 0.3)
    load.stop()
    pair.wait_in_sync()
    pair.demote(primary)
    pair.finish()


def test_the_kernel_reads_from_umblock(pair):
    """read-balancing sends reads to the peer though the own disk is good."""
    data = patterned(pair, "k")
    pair.k.drbdadm("disk-options", "--read-balancing=prefer-remote", "r0")
    pair.k.run("echo 3 > /proc/sys/vm/drop_caches")
    before = pair.k.peer_device()["received"]
    assert pair.read("k", 4 * MIB, MIB) == data
    assert pair.k.peer_device()["received"] - before >= 1024
    pair.k.run("fio --output-format=terse --name=w --filename=/dev/drbd0 --direct=1 --ioengine=libaio --rw=randrw "
               "--bsrange=4k-64k --iodepth=16 --size=16M --verify=crc32c --do_verify=1", timeout=300)
    pair.demote("k")
    pair.finish()


def test_a_sync_is_paused_and_goes_on(pair):
    pair.resource(kernel_disk={"resync-rate": "4M"}, rate=4000)
    pair.promote("u", force=True)
    pair.k.drbdadm("pause-sync", "r0")
    wait_until(lambda: "Paused" in pair.k.peer_device()["replication-state"], "it is paused")
    wait_until(lambda: "Paused" in pair.peer_volume()["replication"], "umblock knows")
    pair.write("u", 40 * MIB, b"while paused" * 1024)
    pair.k.drbdadm("resume-sync", "r0")
    pair.k.drbdadm("peer-device-options", "--resync-rate=400M", "r0")
    pair.wait_in_sync()
    pair.demote("u")
    pair.finish()


def test_zeroes_and_odd_sectors(pair):
    pair.resource(sync="k")
    pair.promote("k")
    pair.k.run("dd if=/dev/urandom of=/dev/drbd0 bs=1M count=32 oflag=direct status=none\n"
               "blkdiscard -z -o 1048576 -l 4194304 /dev/drbd0\n"
               "blkdiscard -o 8388608 -l 1048576 /dev/drbd0\n"
               "blkdiscard -z -o 16777216 -l 512 /dev/drbd0\n"
               "for sector in 1 7 8 9 2047 65535; do\n"
               "  dd if=/dev/urandom of=/dev/drbd0 bs=512 seek=$sector count=1 oflag=direct conv=notrunc status=none\n"
               "done\n"
               "dd if=/dev/urandom of=/dev/drbd0 bs=1536 seek=8000 count=7 oflag=direct conv=notrunc status=none\n"
               "sync")
    size = pair.size()
    pair.k.run(f"dd if=/dev/urandom of=/dev/drbd0 bs=512 seek={size // 512 - 1} count=1 oflag=direct status=none")
    pair.demote("k")
    area = pair.finish()
    assert not any(area[MIB:5 * MIB]) and area[-512:] != bytes(512)


@pytest.mark.parametrize("primary", ["u", "k"])
def test_digests_spare_equal_blocks_of_a_sync(pair, primary):
    pair.resource(sync="u", kernel_net={"csums-alg": "crc32c"}, net=["--csums-alg", "crc32c"])
    pair.promote(primary)
    pair.load_for(primary, 2)
    pair.disconnect("u")
    pair.load_for(primary, 2)
    pair.connect()
    pair.wait_in_sync()
    pair.demote(primary)
    pair.finish()


def test_the_protocol_is_changed_while_connected(pair):
    pair.resource("C", sync="k")
    pair.promote("k")
    load = pair.load("k")
    for protocol in ["A", "B", "C"]:
        time.sleep(1)  # of load
        pair.k.drbdadm("net-options", f"--protocol={protocol}", "r0")
    load.stop()
    pair.wait_in_sync()
    pair.demote("k")
    pair.finish()


def test_down_and_up_again(pair):
    """Nothing is copied when nothing has changed."""
    data = patterned(pair, "k")
    pair.demote("k")
    for _ in range(3):
        pair.may_complain("meta connection shut down by peer")
        pair.k.drbdadm("down", "r0")
        wait_until(lambda: pair.connection_state() != "Connected", "umblock sees it")
        pair.k.drbdadm("up", "r0")
        pair.wait_in_sync()
        assert pair.received() == 0
    pair.u.stop()
    pair.u.start()
    pair.wait_in_sync()
    assert pair.finish()[4 * MIB:5 * MIB] == data


@pytest.mark.parametrize("smaller", ["u", "k"])
def test_disks_of_different_size(pair, smaller):
    """The volume has what both have room for."""
    pair.may_complain("Considerable difference in lower level device sizes")
    pair.resource(size=SMALL, umblock_size=SMALL + (-1 if smaller == "u" else 1) * (8 * MIB + 12288))
    pair.promote("k", force=True)
    pair.wait_in_sync()
    pair.load_for("k", 2)
    pair.demote("k")
    area = pair.finish()
    assert abs(len(area) - min(SMALL, SMALL if smaller == "k" else SMALL - 8 * MIB)) < MIB


def test_metadata_with_more_slots(pair):
    pair.resource(sync="u", max_peers=7)
    pair.promote("u")
    pair.load_for("u", 2)
    pair.disconnect("k")
    pair.load_for("u", 1)
    pair.connect()
    pair.wait_in_sync()
    pair.demote("u")
    pair.finish()


@pytest.mark.parametrize("primary", ["u", "k"])
def test_unallocated_ranges_of_a_sync(pair, primary):
    """Either side may ask for ranges to be discarded instead of copied (rs-discard-granularity)."""
    pair.resource(kernel_disk={"rs-discard-granularity": 65536}, disk=["--rs-discard-granularity", "64KiB"])
    pair.promote(primary, force=True)
    pair.write(primary, 9 * MIB, os.urandom(MIB))
    pair.wait_in_sync()
    pair.demote(primary)
    pair.finish()


def test_a_congested_kernel_goes_ahead_or_waits(pair):
    pair.resource("A", sync="k", kernel_net={"on-congestion": "pull-ahead", "congestion-fill": "64K",
                                             "congestion-extents": 127, "sndbuf-size": "32k"})
    pair.promote("k")
    load = pair.load("k")
    for _ in range(3):
        os.kill(pair.u.process.pid, signal.SIGSTOP)
        time.sleep(1)
        os.kill(pair.u.process.pid, signal.SIGCONT)
        time.sleep(2)
    load.stop()
    pair.wait_in_sync()
    pair.demote("k")
    pair.finish()


@pytest.mark.parametrize("policy", ["majority", "off"])
def test_a_kernel_with_quorum(pair, policy):
    pair.resource(sync="k", kernel_options={"quorum": policy, "on-no-quorum": "io-error"})
    pair.promote("k")
    pair.load_for("k", 2)
    pair.demote("k")
    pair.promote("u")
    pair.load_for("u", 2)
    pair.demote("u")
    pair.finish()


def test_two_primaries_where_both_allow_them(pair):
    pair.resource(sync="u", kernel_net={"allow-two-primaries": "yes"}, net=["--allow-two-primaries", "yes"])
    pair.promote("u")
    pair.promote("k")
    ours, theirs = os.urandom(MIB), os.urandom(MIB)
    pair.write("u", 8 * MIB, ours)
    pair.write("k", 16 * MIB, theirs)
    assert pair.read("k", 8 * MIB, MIB) == ours
    assert pair.read("u", 16 * MIB, MIB) == theirs
    pair.demote("u")
    pair.demote("k")
    pair.finish()


def test_the_kernels_module_is_unloaded_and_loaded(pair):
    """All it knows comes from its metadata."""
    data = patterned(pair, "k")
    pair.demote("k")
    pair.may_complain("meta connection shut down by peer")
    pair.k.drbdadm("down", "r0")
    pair.k.unload()
    pair.k.load()
    pair.k.drbdadm("up", "r0")
    pair.wait_in_sync()
    assert pair.received() == 0
    assert pair.finish()[4 * MIB:5 * MIB] == data


def test_umblock_holds_requests_back_while_the_kernel_is_frozen(pair):
    """Shorter than what makes it give the kernel up."""
    pair.resource(sync="u")
    pair.promote("u")
    load = pair.load("u")
    for _ in range(2):
        pair.k.vm.freeze()
        time.sleep(2)
        pair.k.vm.thaw()
        time.sleep(2)
    load.stop()
    pair.wait_in_sync()
    pair.demote("u")
    pair.finish()


def test_umblock_goes_ahead_of_a_kernel_and_comes_back(pair):
    pair.resource("A", sync="u", net=["--on-congestion", "PullAhead", "--congestion-fill", 64 << 10,
                                      "--congestion-extents", 127])
    pair.promote("u")
    load = pair.load("u")
    wait_until(lambda: pair.peer_volume()["replication"] == "Ahead", "umblock goes Ahead", 30, 0.01)
    assert pair.peer_volume()["peerDisk"] in ["Consistent", "Outdated", "Inconsistent"]
    time.sleep(8)
    load.stop()
    pair.wait_in_sync()
    pair.demote("u")
    pair.finish()
