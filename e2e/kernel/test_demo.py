"""The main job with a kernel as the other node: software is built on one, moved, and built on the other."""

from harness import software
from harness.kernel_node import LARGE
from harness.loop import tree_digests

MOUNT = "mkdir -p /run/mnt; mount /dev/drbd0 /run/mnt"
TREE = f"/run/mnt/{software.DIRECTORY}"


def digests_in_the_kernel(pair):
    lines = pair.k.run(f"cd {TREE} && find . -type f -print0 | xargs -0 sha256sum", timeout=300).splitlines()
    return {line.split("  ./")[1]: line.split()[0] for line in lines}


def test_build_move_compare_rebuild(pair):
    pair.resource(size=LARGE, sync="k")
    pair.promote("k")
    pair.k.run("mkfs.ext4 -q /dev/drbd0")
    pair.demote("k")

    pair.promote("u")
    file_system = pair.file_system()
    file_system.attach()
    file_system.check()
    file_system.mount()
    tree = software.unpack(file_system.mountpoint)
    software.build(tree)
    assert software.works(tree)
    before = tree_digests(tree)
    file_system.unmount()
    file_system.detach()
    pair.demote("u")

    pair.promote("k")
    pair.k.run(f"fsck.ext4 -f -n /dev/drbd0; {MOUNT}", timeout=300)
    assert digests_in_the_kernel(pair) == before
    run_it = f"{TREE}/src/lua -e '{software.SCRIPT}'"
    assert pair.k.run(run_it).strip() == software.ANSWER
    pair.k.run(f"cd {TREE}/src && make clean && make generic CC=tcc AR='tcc -ar rcs' RANLIB=true", timeout=600)
    assert pair.k.run(run_it).strip() == software.ANSWER
    after = digests_in_the_kernel(pair)
    assert after["src/lua"] != before["src/lua"]  # another compiler
    pair.k.run("umount /run/mnt")
    pair.demote("k")

    pair.promote("u")
    file_system.attach()
    file_system.check()
    file_system.mount()
    assert tree_digests(tree) == after
    file_system.unmount()
    file_system.detach()
    pair.demote("u")
    pair.finish()
