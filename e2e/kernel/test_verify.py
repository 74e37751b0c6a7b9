"""Online verify between umblock and a kernel, started by either, with blocks changed behind both."""

import os

import pytest
from harness.kernel_node import device
from harness.node import MIB
from harness.shell import wait_until

DIGEST = "crc32c"


def change_behind(pair, who, offset, blocks):
    """Other bytes on the disk of `who`, of which DRBD and umblock know nothing."""
    if who == "u":
        with open(pair.u.disks / "data.img", "r+b", buffering=0) as disk:
            disk.seek(offset)
            disk.write(os.urandom(4096 * blocks))
            os.fsync(disk.fileno())
    else:
        pair.k.run(f"dd if=/dev/urandom of={device(pair.k.disk)} bs=4096 seek={offset // 4096} count={blocks} "
                   "oflag=direct conv=notrunc status=none")


def verified(pair, starter, *options):
    """Starts one and waits for its end; what umblock says of it."""
    link = f"r0/{pair.k.node_id}"
    if starter == "u":
        pair.u.umctl("connection", "verify", link, *options)
    else:
        pair.k.drbdadm("verify", "r0")
    def over():
        verify = pair.peer_volume().get("verify", {})
        return (not verify.get("running") and verify.get("complete") and pair.peer_volume()["replication"] == "Established"
                and pair.k.peer_device()["replication-state"] == "Established" and verify)
    return wait_until(over, "the verify is over", 120, 0.2)


@pytest.mark.parametrize("starter, primary", [("u", "u"), ("u", "k"), ("k", "u"), ("k", "k")])
def test_a_verify_finds_what_differs_and_a_resync_mends_it(pair, starter, primary):
    pair.may_complain("Out of sync: start=", "[Oo]nline verify.* found")
    pair.resource(sync="u", kernel_net={"verify-alg": DIGEST}, net=["--verify-alg", DIGEST])
    pair.promote(primary)
    pair.write(primary, 4 * MIB, os.urandom(MIB))
    assert verified(pair, starter).get("differentBytes") is None
    change_behind(pair, "u", 8 * MIB, 1)
    change_behind(pair, "k", 12 * MIB, 2)
    found = verified(pair, starter, *(["--start", "0"] if starter == "u" else []))
    assert found["differentBytes"] == str(3 * 4096)
    assert found["firstDifferent"] == str(8 * MIB) and found["lastDifferentEnd"] == str(12 * MIB + 8192)
    assert int(found["comparedBytes"]) == pair.size()
    assert pair.out_of_sync() == 3 * 4096 and pair.k.out_of_sync() == 3 * 4096
    # What the Primary has is right.
    pair.disconnect("u")
    pair.write(primary, 6 * MIB, os.urandom(MIB))
    pair.connect()
    pair.wait_in_sync()
    assert verified(pair, starter).get("differentBytes") is None
    pair.demote(primary)
    pair.finish()


@pytest.mark.parametrize("by", ["u", "k"])
@pytest.mark.parametrize("target", ["u", "k"])
def test_what_a_verify_has_found_is_mended_without_a_disconnect(pair, by, target):
    """invalidate and invalidate-remote with --reset-bitmap=no, asked for by either side."""
    pair.may_complain("Out of sync: start=", "[Oo]nline verify.* found")
    pair.resource(sync="u", kernel_net={"verify-alg": DIGEST}, net=["--verify-alg", DIGEST])
    source = "k" if target == "u" else "u"
    pair.promote(source)
    pair.write(source, 4 * MIB, os.urandom(MIB))
    change_behind(pair, target, 4 * MIB, 2)
    assert verified(pair, "u")["differentBytes"] == str(2 * 4096)
    if by == "u":
        act = ["volume", "invalidate", "r0/0"] if target == "u" else ["connection", "invalidate-remote", f"r0/{pair.k.node_id}"]
        pair.u.umctl(*act, "--only-marked", "--yes")
    else:
        pair.k.drbdadm("invalidate" if target == "k" else "invalidate-remote", "--reset-bitmap=no", "r0")
    pair.wait_in_sync()
    assert verified(pair, "u", "--start", "0").get("differentBytes") is None
    pair.demote(source)
    pair.finish()


@pytest.mark.parametrize("starter", ["u", "k"])
def test_a_verify_under_load_finds_no_difference(pair, starter):
    pair.resource(sync="u", kernel_net={"verify-alg": DIGEST}, net=["--verify-alg", DIGEST])
    pair.promote("k")
    load = pair.load("k")
    for _ in range(3):
        assert verified(pair, starter).get("differentBytes") is None
    load.stop()
    assert pair.out_of_sync() == 0 and pair.k.out_of_sync() == 0
    pair.demote("k")
    pair.finish()


def test_a_verify_is_stopped(pair):
    pair.resource(sync="u", rate=2000, kernel_net={"verify-alg": DIGEST}, net=["--verify-alg", DIGEST])
    pair.u.umctl("connection", "verify", f"r0/{pair.k.node_id}")
    wait_until(lambda: pair.k.peer_device()["replication-state"] == "VerifyT", "the kernel takes part", 30)
    pair.u.umctl("connection", "stop-verify", f"r0/{pair.k.node_id}")
    wait_until(lambda: pair.k.peer_device()["replication-state"] == "Established", "the kernel knows that it is over", 30)
    verify = pair.peer_volume()["verify"]
    assert not verify.get("running") and not verify.get("complete") and int(verify["position"]) < pair.size()
    pair.finish()
