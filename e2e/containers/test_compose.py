"""The compose cluster: driven by umctl, used over iSCSI, watched by Prometheus."""

import json
import pathlib
import socket
import sys
import urllib.parse
import urllib.request

import pytest
from harness.docker import IMAGE, ComposeCluster, Docker, compose_commands
from harness.node import ROOT
from harness.shell import run, wait_until

TARGET = "iqn.2026-01.org.umblock:r0"
SIZE = 64 << 20


@pytest.fixture(scope="module")
def docker():
    made = Docker()
    made.start()
    try:
        made.build_images()
        yield made
    finally:
        made.stop()


@pytest.fixture(params=compose_commands(), ids=lambda command: "-".join(command))
def compose(docker, cleanup, request):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cluster = ComposeCluster(docker, request.param, port)
    cleanup.add(cluster.down)
    cluster.up()
    return cluster


def make_resource(compose):
    """A replicated volume behind a LUN, on both nodes."""
    for node_id, (name, address) in enumerate(compose.ADDRESSES.items()):
        peer, peer_address = next(other for other in compose.ADDRESSES.items() if other[0] != name)
        compose.umctl(name, "backend", "create", "disk0", "--path", "/var/lib/umblock/disks/disk0.img",
                      "--size", str(SIZE), "--create")
        compose.umctl(name, "resource", "create", "r0", "--node-id", str(node_id))
        compose.umctl(name, "volume", "create", "r0/0")
        compose.umctl(name, "metadata", "create", "r0/0", "--backend", "disk0")
        compose.umctl(name, "volume", "attach", "r0/0", "--backend", "disk0")
        compose.umctl(name, "connection", "create", f"r0/{1 - node_id}", "--peer-name", peer, "--path", f"{address}:7789", f"{peer_address}:7789")
        compose.umctl(name, "portal", "create", "0.0.0.0:3260")
        compose.umctl(name, "target", "create", TARGET)
        compose.umctl(name, "lun", "create", TARGET, "0", "--volume", "r0/0")
    for node_id, name in enumerate(compose.ADDRESSES):
        compose.umctl(name, "connection", "connect", f"r0/{1 - node_id}")
    for name in compose.ADDRESSES:
        wait_connected(compose, name)
    compose.umctl("alpha", "volume", "new-current-uuid", "r0/0", "--clear-bitmap")


def wait_connected(compose, name):
    def connected():
        resource = compose.json(name, "resource", "show", "r0")
        return resource["connections"][0]["status"].get("state") == "Connected"
    wait_until(connected, f"{name} is connected", 60, 0.5)


def url(compose, name):
    return f"iscsi://{compose.ADDRESSES[name]}/{TARGET}/0"


def query(compose, expression):
    address = (f"http://127.0.0.1:{compose.prometheus_port}/api/v1/query?"
               + urllib.parse.urlencode({"query": expression}))
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)["data"]["result"]


def test_cluster_replicates_and_is_scraped(compose, workdir):
    make_resource(compose)
    compose.umctl("alpha", "resource", "promote", "r0")
    image = workdir / "random.img"
    size = 32 << 20
    with open("/dev/urandom", "rb") as random:
        image.write_bytes(random.read(size))
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, url(compose, "alpha"))
    run("qemu-io", "-f", "raw", "-c", f"write -P 0x5a {size} 4M", "-c", "flush",
        "-c", f"read -P 0x5a {size} 4M", url(compose, "alpha"))
    compose.umctl("alpha", "resource", "demote", "r0")

    # The other node has the same.
    compose.umctl("beta", "resource", "promote", "r0")
    back = workdir / "back.img"
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", url(compose, "beta"), back)
    with open(image, "rb") as sent, open(back, "rb") as received:
        while block := sent.read(1 << 20):
            assert received.read(len(block)) == block
    run("qemu-io", "-f", "raw", "-c", f"read -P 0x5a {size} 4M", url(compose, "beta"))

    # Prometheus saw both, and what they did.
    wait_until(lambda: sorted(row["metric"]["node"] for row in query(compose, "umblock_up == 1"))
               == ["alpha", "beta"], "both nodes are scraped", 30, 0.5)
    wait_until(lambda: any(float(row["value"][1]) >= size
                           for row in query(compose, "umblock_volume_written_bytes_total")),
               "the written bytes are in Prometheus", 30, 0.5)

    # A container that is stopped and started again finds its way back.
    compose.compose("restart", "alpha")
    compose.wait_healthy("alpha")
    wait_connected(compose, "alpha")


def test_a_denied_io_uring_is_explained(docker, workdir):
    """Under a profile that denies io_uring the daemon does not start, and says what to change."""
    profile = pathlib.Path(__file__).with_name("deny-io-uring.json")
    ended = docker.run("run", "--rm", "--security-opt", f"seccomp={profile}", IMAGE, check=False, timeout=60)
    said = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "io_uring" in said and "seccomp" in said and "docker/seccomp.json" in said


def test_runs_without_privileges_under_the_shipped_profile(docker):
    profile = ROOT / "docker" / "seccomp.json"
    ended = docker.run("run", "--rm", "--cap-drop", "ALL", "--read-only", "--tmpfs", "/run/umblock:uid=990",
                       "--security-opt", "no-new-privileges", "--security-opt", f"seccomp={profile}",
                       "--entrypoint", "bash", IMAGE, "-c",
                       "id -u; umblockd --state-dir /var/lib/umblock & for i in $(seq 100); do "
                       "umctl node show && break; sleep 0.1; done; grep CapEff /proc/$!/status; kill $!; wait $!",
                       timeout=60)
    assert ended.stdout.startswith("990\n")
    assert "CapEff:\t0000000000000000" in ended.stdout


def test_the_shipped_profile_is_what_its_script_writes():
    run(sys.executable, ROOT / "docker" / "make-seccomp.py", "--check")
