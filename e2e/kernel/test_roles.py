"""Who is Primary, and who may not be."""

import os

import pytest
from harness.node import MIB


def test_the_role_moves_back_and_forth(pair):
    pair.resource(sync="u")
    expected = bytearray(MIB)
    for turn in range(6):
        who = "uk"[turn % 2]
        pair.promote(who)
        assert pair.read(who, 0, MIB) == bytes(expected)
        data = os.urandom(32 << 10)
        expected[turn * (64 << 10):turn * (64 << 10) + len(data)] = data
        pair.write(who, turn * (64 << 10), data)
        pair.demote(who)
    assert pair.finish()[:MIB] == bytes(expected)


@pytest.mark.parametrize("primary", ["u", "k"])
def test_a_second_primary_is_refused_with_its_reason(pair, primary):
    pair.resource(sync="u")
    pair.promote(primary)
    if primary == "u":
        reason = pair.k.refused("primary", "r0")
        assert "Multiple primaries not allowed" in reason
    else:
        reason = pair.u.refused("resource", "promote", "r0")
        assert "Primary" in reason
    # It goes on as before.
    pair.write(primary, 0, b"goes on " * 512)
    pair.demote(primary)
    pair.promote(pair.other(primary))
    pair.demote(pair.other(primary))
    assert pair.finish().startswith(b"goes on " * 512)


def test_an_open_device_keeps_the_role(pair):
    """The kernel's Primary may not be demoted while it is mounted; umblock may not take over."""
    pair.resource(sync="k")
    pair.promote("k")
    pair.k.run("mkfs.ext4 -q /dev/drbd0; mkdir -p /run/mnt; mount /dev/drbd0 /run/mnt")
    assert "held open" in pair.k.refused("secondary", "r0")
    assert "Primary" in pair.u.refused("resource", "promote", "r0")
    pair.k.run("umount /run/mnt")
    pair.demote("k")
    pair.promote("u")
    pair.demote("u")
    pair.finish()
