"""A live scrape has what docs/metrics.md says, nothing else, and in the units it says."""

import mmap
import os
import re
import subprocess
import time

import pytest
from harness.metrics import Scrape, documented
from harness.node import METRICS, MIB, ROOT
from harness.shell import run, wait_until

TARGET = "iqn.2026-01.com.example:r0"
WRITTEN = 3 * MIB


@pytest.fixture
def busy(cluster):
    """A cluster that has one of each thing, in use: an open export and a session on the LUN."""
    for node in cluster.nodes:
        node.stop()
        node.metrics = True
        node.start()
    cluster.resource(size=64 * MIB)
    for node in cluster.nodes:
        node.umctl("portal", "create", "0.0.0.0:3260")
        node.umctl("target", "create", TARGET)
        node.umctl("lun", "create", TARGET, "0", "--volume", "r0/0")
    cluster.promote(cluster.a)
    session = subprocess.Popen(
        cluster.a.namespace.command("qemu-io", "-f", "raw", f"iscsi://{cluster.a.namespace.address}/{TARGET}/0"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    cluster.cleanup.add(session.communicate, "quit\n", timeout=30)
    for command, answer in [("write", "wrote"), ("read", "read")]:
        # One at a time: qemu-io does not look at a second line that it has read already.
        session.stdin.write(f"{command} -P 0x5a 0 {WRITTEN}\n")
        session.stdin.flush()
        while f"{answer} {WRITTEN}" not in (line := session.stdout.readline()):
            assert line, "qemu-io ended"
    with open(cluster.a.exports / "r0-0", "r+b", buffering=0) as export:
        # On a page's boundary: FUSE splits others in the middle of a block, which is then written twice.
        with mmap.mmap(-1, MIB) as aligned:
            assert export.write(aligned) == MIB
        os.fsync(export.fileno())
        yield cluster


def scrape(node):
    return Scrape(run(*node.namespace.command("curl", "-fsS", f"http://{METRICS}/metrics")).stdout)


def test_every_documented_metric_is_there_and_no_other(busy):
    page = documented()
    for node in busy.nodes:
        live = scrape(node)
        ours = {name: kind for name, kind in live.types.items() if name.startswith("umblock_")}
        missing = set(page) - set(ours)
        if node is busy.b:  # nobody is logged in there
            missing = {name for name in missing if not name.startswith("umblock_session_")}
        assert not missing and not set(ours) - set(page)
        for name, kind in ours.items():
            entry = page[name]
            assert kind == entry.kind, name
            for labels, _ in live.samples[name]:
                assert set(labels) == entry.labels, name
            assert live.help[name], name


def test_values_are_in_the_unit_of_their_name(busy):
    live = scrape(busy.a)
    assert live.one("umblock_up") == 1
    assert abs(time.time() - live.one("umblock_start_time_seconds")) < 3600
    size = int(busy.volume(busy.a)["status"]["sizeBytes"])
    assert live.one("umblock_volume_size_bytes") == size
    assert live.one("umblock_backend_size_bytes") == 64 * MIB
    assert live.one("umblock_lun_written_bytes_total") == WRITTEN
    assert live.one("umblock_lun_read_bytes_total") >= WRITTEN
    assert live.one("umblock_export_written_bytes_total") == MIB
    assert live.one("umblock_volume_written_bytes_total") == WRITTEN + MIB
    assert live.one("umblock_peer_volume_sent_bytes_total") == WRITTEN + MIB
    assert live.one("umblock_volume_disk_written_bytes_total") >= WRITTEN + MIB
    assert scrape(busy.b).one("umblock_peer_volume_received_bytes_total") == WRITTEN + MIB
    assert live.one("umblock_session_received_bytes_total") >= WRITTEN
    # A state is one series per value, one of which is 1.
    for name, state in [("umblock_resource_role", "Primary"), ("umblock_volume_disk_state", "UpToDate"),
                        ("umblock_connection_state", "Connected"), ("umblock_connection_peer_role", "Secondary"),
                        ("umblock_peer_volume_replication_state", "Established")]:
        assert [labels["state"] for labels, value in live.samples[name] if value == 1] == [state], name
        assert len(live.samples[name]) > 1
    # A histogram counts every request, in seconds: all of it took less than the daemon's life.
    for kind in ["read", "write", "flush"]:
        name = f"umblock_volume_{kind}_latency_seconds"
        count = live.one(f"{name}_count")
        assert count == live.one(f"umblock_volume_{kind}_requests_total") > 0
        buckets = live.samples[f"{name}_bucket"]
        assert [float(labels["le"]) for labels, _ in buckets][:2] == [1e-6, 2e-6]
        assert buckets[-1][0]["le"] == "+Inf" and buckets[-1][1] == count
        # None of the requests, of which few ran at a time, took longer than all of this.
        life = time.time() - live.one("umblock_start_time_seconds")
        assert 1e-6 * count < live.one(f"{name}_sum") < count * life


def test_out_of_sync_bytes_are_what_the_peer_lacks(busy):
    before = scrape(busy.a)
    assert before.one("umblock_peer_volume_out_of_sync_bytes") == 0
    assert before.one("umblock_peer_volume_resync_done_ratio") == 1
    busy.b.kill()
    wait_until(lambda: scrape(busy.a).one("umblock_connection_state", state="Connected") == 0, "the peer is missed")
    with open(busy.a.exports / "r0-0", "r+b", buffering=0) as export:
        export.seek(16 * MIB)
        export.write(os.urandom(MIB))
    assert scrape(busy.a).one("umblock_peer_volume_out_of_sync_bytes") >= MIB
    busy.b.start()
    busy.wait_in_sync()
    assert scrape(busy.a).one("umblock_peer_volume_out_of_sync_bytes") == 0
    assert MIB <= scrape(busy.b).one("umblock_peer_volume_received_bytes_total") <= 64 * MIB


def test_the_dashboard_shows_what_there_is():
    page = documented()
    names = set(re.findall(r"\bumblock_\w+", (ROOT / "dashboards" / "umblock.json").read_text()))
    assert len(names) > 10
    for name in names:
        histogram = re.sub("_(bucket|sum|count)$", "", name)
        assert name in page or page[histogram].kind == "histogram", name
