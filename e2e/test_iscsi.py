"""A replicated volume as a LUN, used by qemu's initiator, which moves with the Primary."""

import os
import subprocess

from harness.node import MIB
from harness.shell import CommandFailed, run

TARGET = "iqn.2026-01.com.example:r0"


def url(node):
    return f"iscsi://{node.namespace.address}/{TARGET}/0"


def initiator(cluster, *command, **kwargs):
    """Runs where both nodes can be reached."""
    return run(*cluster.a.namespace.command(*command), **kwargs)


def lun_on_both(cluster, size=64 * MIB):
    cluster.resource(size=size)
    for node in cluster.nodes:
        node.umctl("portal", "create", "0.0.0.0:3260")
        node.umctl("target", "create", TARGET)
        node.umctl("lun", "create", TARGET, "0", "--volume", "r0/0")


def test_a_lun_follows_its_volume(cluster, workdir):
    lun_on_both(cluster)
    image, back = workdir / "image", workdir / "back"
    image.write_bytes(os.urandom(16 * MIB))
    cluster.promote(cluster.a)
    initiator(cluster, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, url(cluster.a))
    initiator(cluster, "qemu-io", "-f", "raw", "-c", "discard 20M 4M", "-c", "write -z 32M 1M",
              "-c", "write -P 0x5a 33M 1M", "-c", "flush", url(cluster.a))
    cluster.demote(cluster.a)
    cluster.promote(cluster.b)
    initiator(cluster, "qemu-img", "dd", "-f", "raw", "-O", "raw", f"if={url(cluster.b)}", f"of={back}",
              "bs=1M", "count=16")
    assert back.read_bytes() == image.read_bytes()
    initiator(cluster, "qemu-io", "-r", "-f", "raw", "-c", "read -P 0 32M 1M", "-c", "read -P 0x5a 33M 1M",
              url(cluster.b))
    # The Secondary's LUN is there, and not ready.
    refused = initiator(cluster, "qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", url(cluster.a), check=False)
    assert refused.returncode != 0 and "NOT READY" in refused.stderr
    cluster.demote(cluster.b)
    area_a, area_b = cluster.data_areas()
    assert area_a == area_b and area_a.startswith(image.read_bytes())


def test_a_session_holds_the_primary_and_is_named(cluster):
    lun_on_both(cluster)
    cluster.promote(cluster.a)
    session = subprocess.Popen(
        cluster.a.namespace.command("qemu-io", "-f", "raw", url(cluster.a)), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        session.stdin.write("read 0 4k\n")
        session.stdin.flush()
        assert "read 4096" in session.stdout.readline()
        message = cluster.a.refused("resource", "demote", "r0")
        assert "iscsi" in message and "iqn.2008-11.org.linux-kvm" in message
    finally:
        session.communicate("quit\n", timeout=30)
    cluster.demote(cluster.a)


def test_targets_come_back_with_the_daemon(cluster):
    lun_on_both(cluster)
    assert cluster.a.stop() == 0
    cluster.a.start()
    cluster.wait_in_sync()
    cluster.promote(cluster.a)
    initiator(cluster, "qemu-io", "-f", "raw", "-c", "write -P 7 0 64k", "-c", "read -P 7 0 64k", url(cluster.a))
    cluster.demote(cluster.a)
    # What is in use is not deleted without --force; the rest goes in order.
    for arguments in [("lun", "delete", TARGET, "0"), ("target", "delete", TARGET),
                      ("portal", "delete", "0.0.0.0:3260")]:
        cluster.a.umctl(*arguments)
    try:
        initiator(cluster, "iscsi-ls", f"iscsi://{cluster.a.namespace.address}", timeout=20)
        raise AssertionError("the portal still answers")
    except CommandFailed:
        pass
