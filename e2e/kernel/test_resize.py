"""Volumes that grow beside a kernel: either side asks, either side is Primary."""

import pytest

from harness.kernel_node import LARGE
from harness.kernel_pair import NAME
from harness.node import MIB
from harness.shell import wait_until

BEFORE = 64 * MIB


def resize(pair, who, size, assume_clean=False):
    if who == "u":
        flags = ["--assume-clean"] if assume_clean else []
        pair.u.umctl("volume", "resize", f"{NAME}/0", "--size", size, *flags)
    else:
        flags = ["--assume-clean"] if assume_clean else []
        pair.k.drbdadm("--", f"--size={size // 1024}K", *flags, "resize", f"{NAME}/0")


def both_have(pair, size):
    wait_until(lambda: pair.size() == size and pair.k.size() == size, f"both have {size} bytes")


def small(pair, **parameters):
    """Both have room for more than the volume takes."""
    pair.resource(sync="u", size=LARGE, kernel_disk={"size": f"{BEFORE // 1024}K"}, **parameters)
    both_have(pair, BEFORE)


@pytest.mark.parametrize("primary", ["u", "k"])
@pytest.mark.parametrize("asks", ["u", "k"])
def test_grows_under_load(pair, asks, primary):
    small(pair)
    pair.promote(primary)
    load = pair.load(primary)
    resize(pair, asks, 128 * MIB)
    both_have(pair, 128 * MIB)
    load.stop()
    pair.write(primary, 127 * MIB, b"at the new end" * 1000)
    pair.wait_in_sync()
    # And again, right away.
    resize(pair, asks, 160 * MIB)
    both_have(pair, 160 * MIB)
    pair.wait_in_sync()
    pair.demote(primary)
    pair.promote(pair.other(primary))
    assert pair.read(pair.other(primary), 127 * MIB, 14) == b"at the new end"
    pair.demote(pair.other(primary))
    pair.finish()


@pytest.mark.parametrize("asks", ["u", "k"])
def test_grows_without_a_primary_and_without_a_sync(pair, asks):
    small(pair)
    resize(pair, asks, 128 * MIB, assume_clean=True)
    both_have(pair, 128 * MIB)
    pair.wait_in_sync()
    assert pair.received() == 0
    resize(pair, asks, 160 * MIB)
    both_have(pair, 160 * MIB)
    pair.wait_in_sync()
    pair.finish()


@pytest.mark.parametrize("asks", ["u", "k"])
def test_the_metadata_of_umblock_moves(pair, asks):
    """umblock's backend is too small at first."""
    pair.may_complain("Considerable difference in lower level device sizes")
    small(pair, umblock_size=80 * MIB)
    pair.promote("k")
    pair.u.umctl("backend", "resize", "data", "--size", 200 * MIB)
    resize(pair, asks, 192 * MIB)
    both_have(pair, 192 * MIB)
    pair.wait_in_sync()
    pair.demote("k")
    pair.finish()


def test_what_umblock_has_no_room_for_is_not_done(pair):
    pair.may_complain("Considerable difference in lower level device sizes")
    pair.expect_complaint("Requested disk size is too big")
    small(pair, umblock_size=80 * MIB)
    resize(pair, "k", 79 * MIB)
    both_have(pair, 79 * MIB)
    pair.wait_in_sync()
    pair.k.run(f"drbdadm -- --size={256 * 1024}K resize {NAME}/0 || true")
    # The kernel complains, and takes what there is.
    wait_until(lambda: pair.size() == pair.k.size(), "both have the same size")
    assert 79 * MIB < pair.size() < 80 * MIB
    pair.wait_in_sync()
    pair.finish()


@pytest.mark.parametrize("asks", ["u", "k"])
def test_shrinks_when_told_to(pair, asks):
    small(pair)
    if asks == "u":
        pair.u.umctl("volume", "resize", f"{NAME}/0", "--size", 32 * MIB, "--shrink", "--yes")
    else:
        # drbdadm waits in vain for the size that its configuration says, and fails when it has done it.
        pair.k.run(f"drbdadm -- --size={32 * 1024}K resize {NAME}/0 || true")
    both_have(pair, 32 * MIB)
    pair.wait_in_sync()
    pair.finish()
