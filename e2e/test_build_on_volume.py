"""The main job: real software is built on a replicated volume, and the other node has it."""

from harness import software
from harness.loop import sha256, tree_digests


def test_build_move_compare_rebuild(cluster):
    cluster.resource(size=256 << 20)
    cluster.promote(cluster.a)
    on_a = cluster.file_system(cluster.a)
    on_a.attach()
    on_a.make()
    on_a.mount()
    tree = software.unpack(on_a.mountpoint)
    software.build(tree)
    assert software.works(tree)
    before = tree_digests(tree)
    binary = sha256(software.interpreter(tree))
    on_a.unmount()
    on_a.check()
    on_a.detach()
    cluster.demote(cluster.a)

    cluster.promote(cluster.b)
    on_b = cluster.file_system(cluster.b)
    on_b.attach()
    on_b.check()
    on_b.mount()
    assert tree_digests(tree) == before
    assert software.works(tree)
    software.clean(tree)
    assert not software.interpreter(tree).exists()
    software.build(tree)
    assert sha256(software.interpreter(tree)) == binary
    assert tree_digests(tree) == before
    on_b.unmount()
    on_b.check()
    on_b.detach()
    cluster.demote(cluster.b)
    area_a, area_b = cluster.data_areas()
    assert area_a == area_b


def test_an_open_volume_is_not_demoted_and_says_who_holds_it(cluster):
    cluster.resource(size=64 << 20)
    cluster.promote(cluster.a)
    file_system = cluster.file_system(cluster.a)
    file_system.attach()
    message = cluster.a.refused("resource", "demote", "r0")
    assert "fuse r0-0 pid" in message and "losetup" in message
    assert cluster.role(cluster.a) == "Primary"
    file_system.detach()
    cluster.demote(cluster.a)


def test_a_secondary_is_not_opened_for_writing(cluster):
    cluster.resource(size=64 << 20)
    cluster.promote(cluster.a)
    try:
        open(cluster.b.exports / "r0-0", "r+b").close()
        raise AssertionError("a Secondary was opened for writing")
    except OSError as error:
        assert error.errno in (11, 30)  # EAGAIN, EROFS
    message = cluster.b.refused("resource", "promote", "r0")
    assert "Primary" in message
    # It goes on as before.
    cluster.demote(cluster.a)
    cluster.promote(cluster.b)
    open(cluster.b.exports / "r0-0", "r+b").close()
    cluster.demote(cluster.b)
