"""bench/run measures what it says: every peer answers every workload. No number is judged here."""

import json
import sys

from harness.node import BINARIES, ROOT
from harness.shell import run

PEERS = {"backend", "lun", "tgtd", "replicated-a", "replicated-c"}


def test_every_peer_is_measured_beside_the_others(tmp_path):
    report = tmp_path / "bench.json"
    shown = run(sys.executable, ROOT / "bench" / "run", "--build", BINARIES, "--rounds", "1", "--seconds", "0.2",
                "--only", "4k rand.* qd1|128k seqwrite", "--json", report, timeout=240).stdout
    results = json.loads(report.read_text())["results"]
    assert len(results) == 3
    for workload, peers in results.items():
        assert set(peers) == PEERS, workload
        for name, measured in peers.items():
            assert measured["iops"] > 0, (workload, name)
            assert f"{name} " in shown
    for name in PEERS:
        # The kernel counts in ticks of 10 ms: a short run on a busy machine may see none.
        assert any(peers[name]["cpu_us"] > 0 for peers in results.values()), name
