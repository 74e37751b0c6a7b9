"""A disk written by umblock goes on in the kernel, and the other way round, with the same metadata."""

import time

import pytest

FEW_EXTENTS = 67
EXTENT = 4 << 20


@pytest.mark.parametrize("external", [False, True], ids=["internal", "external"])
@pytest.mark.parametrize("crashed", [None, "u", "k"])
def test_each_goes_on_with_the_others_disk(pair, external, crashed):
    """drbdadm applies the activity log of a crashed disk with drbdmeta; the kernel insists on that."""
    pair.resource(sync="u", external=external, kernel_disk={"al-extents": FEW_EXTENTS},
                  disk=["--al-extents", FEW_EXTENTS])
    primary = crashed or "u"
    pair.promote(primary)
    load = pair.load(primary)
    if crashed:
        time.sleep(4)  # of load
    if crashed == "u":
        pair.may_complain("connection shut down by peer")
        pair.u.kill()
        load.wait()
        pair.k.take_away()
    elif crashed == "k":
        pair.k.power_cut()
        assert pair.u.stop() == 0
        pair.k.start()
    else:
        load.stop()
        pair.demote(primary)
        pair.wait_in_sync()
        pair.disconnect("u")
        pair.k.take_away()
        assert pair.u.stop() == 0
    pair.exchange_disks()
    pair.wait_in_sync()
    copied = pair.received() + pair.k.peer_device()["received"] * 1024
    assert copied <= FEW_EXTENTS * EXTENT and bool(copied) == bool(crashed)
    for who in ["u", "k"]:
        pair.promote(who)
        pair.load_for(who, 2)
        pair.demote(who)
    pair.finish()
