"""What the nodes say is checked against what can be seen without them: bytes on the wire, bytes on
the disks."""

import os

import pytest
from harness.cluster import PORT

WRITTEN = 24 << 20


def write_and_check(cluster):
    """Writes on a, then: that many bytes arrived at b's replication port, and both disks hold the
    same data area."""
    data = os.urandom(1 << 20)
    with open(cluster.a.exports / "r0-0", "r+b", buffering=0) as disk:
        for _ in range(WRITTEN // len(data)):
            disk.write(data)
        os.fsync(disk.fileno())
    arrived = cluster.b.namespace.received_bytes_on_port(PORT)
    cluster.demote(cluster.a)
    area_a, area_b = cluster.data_areas()
    assert area_a.startswith(data)
    assert arrived >= WRITTEN, f"only {arrived} bytes arrived"
    assert area_a == area_b


def test_bytes_cross_the_wire_and_disks_are_equal(cluster):
    cluster.resource(size=64 << 20)
    cluster.promote(cluster.a)
    write_and_check(cluster)


def test_the_check_notices_when_nothing_is_replicated(cluster):
    cluster.resource(size=64 << 20)
    cluster.disconnect()
    cluster.promote(cluster.a, "r0")
    with pytest.raises(AssertionError, match="only 0 bytes arrived"):
        write_and_check(cluster)


def test_metrics_agree_with_what_was_written(cluster):
    cluster.a.stop()
    cluster.a.metrics = True
    cluster.a.start()
    cluster.resource(size=64 << 20)
    cluster.promote(cluster.a)
    with open(cluster.a.exports / "r0-0", "r+b", buffering=0) as disk:
        disk.write(os.urandom(1 << 19))
        os.fsync(disk.fileno())
    metrics = cluster.a.scrape()
    volume = 'resource="r0",volume="0"'
    assert metrics[f"umblock_volume_written_bytes_total{{{volume}}}"] == 1 << 19
    assert metrics["umblock_up"] == 1
