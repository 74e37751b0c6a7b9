"""Writes, flushes and discards of a Primary reach the other node, whatever the protocol."""

import pytest
from harness.kernel_node import LARGE
from harness.loop import tree_digests
from harness.shell import run

# On /dev/drbd0 in the VM.
USE_FILE_SYSTEM = r"""
set -e
mkdir -p /run/mnt
{mkfs} /dev/drbd0
mount /dev/drbd0 /run/mnt
mkdir /run/mnt/tree
cp -r /usr/sbin /run/mnt/tree
sync
rm -r /run/mnt/tree/sbin/[a-l]*
fstrim /run/mnt
cp -r /usr/include/linux /run/mnt/tree
umount /run/mnt
"""


@pytest.mark.parametrize("protocol", ["A", "B", "C"])
@pytest.mark.parametrize("primary", ["u", "k"])
def test_writes_flushes_and_discards(pair, protocol, primary):
    pair.resource(protocol, sync=primary)
    pair.promote(primary)
    pair.load_for(primary, 8)
    pair.demote(primary)
    assert any(pair.finish())


def test_the_kernel_makes_file_systems(pair):
    """With discard, which mkfs does first on the whole device."""
    pair.resource(size=LARGE, sync="k")
    pair.promote("k")
    for _ in range(3):
        for mkfs in ["mkfs.ext4 -q -F", "mkfs.xfs -q -f"]:
            pair.k.run(USE_FILE_SYSTEM.format(mkfs=mkfs), timeout=300)
    pair.demote("k")
    pair.finish()


def test_umblock_makes_file_systems(pair):
    pair.resource(size=LARGE, sync="u")
    pair.promote("u")
    for _ in range(4):
        file_system = pair.file_system()
        file_system.attach()
        run("mkfs.ext4", "-q", "-F", file_system.device)
        file_system.mount()
        run("cp", "-r", "/usr/share/doc", file_system.mountpoint / "tree")
        run("fstrim", file_system.mountpoint)
        digests = tree_digests(file_system.mountpoint / "tree")
        file_system.unmount()
        file_system.detach()
    pair.demote("u")
    # The kernel reads the same through its own volume.
    pair.promote("k")
    sums = pair.k.run("mkdir -p /run/mnt; mount -o ro /dev/drbd0 /run/mnt; cd /run/mnt/tree; "
                      "find . -type f -print0 | xargs -0 sha256sum; cd /; umount /run/mnt", timeout=300)
    theirs = {line.split("  ./")[1]: line.split()[0] for line in sums.splitlines()}
    assert theirs == digests
    pair.demote("k")
    pair.finish()


@pytest.mark.parametrize("primary", ["u", "k"])
def test_writes_with_digests(pair, primary):
    pair.resource(sync=primary, kernel_net={"data-integrity-alg": "sha1"}, net=["--data-integrity-alg", "sha1"])
    pair.promote(primary)
    pair.load_for(primary, 6)
    pair.demote(primary)
    pair.finish()


def test_the_kernel_reads_back_what_it_wrote(pair):
    pair.resource(sync="k")
    pair.promote("k")
    pair.k.run("fio --output-format=terse --name=w --filename=/dev/drbd0 --direct=1 --ioengine=libaio --rw=randwrite "
               "--bsrange=4k-64k --iodepth=16 --fsync=16 --size=32M --verify=crc32c --do_verify=1", timeout=300)
    pair.demote("k")
    pair.finish()
