"""The compose cluster: driven by umctl, used over iSCSI, watched by Prometheus."""

import json
import os
import pathlib
import re
import socket
import sys
import urllib.parse
import urllib.request

import pytest
from harness.docker import COMPILED_IMAGE, IMAGE, PROMETHEUS_IMAGE, ComposeCluster, Docker, compose_commands
from harness.node import MIB, ROOT
from harness.shell import run, wait_until

TARGET = "iqn.2026-01.com.example:r0"
SIZE = 64 * MIB
IMAGE_SIZE = 32 * MIB  # of what the tests write from the volume's start


@pytest.fixture(scope="module")
def docker():
    made = Docker()
    try:
        made.start()
        made.build_images()
        yield made
        made.remove_images()
    finally:
        made.stop()


@pytest.fixture(scope="module", params=compose_commands(), ids=lambda found: found[0])
def compose(docker, request):
    """The cluster with a replicated volume behind a LUN on both nodes, in sync, both Secondary."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cluster = ComposeCluster(docker, request.param[1], port)
    try:
        cluster.up()
        make_resource(cluster)
        yield cluster
    finally:
        cluster.down()


def make_resource(compose):
    for node_id, (name, address) in enumerate(compose.ADDRESSES.items()):
        peer = compose.peer_of(name)
        for arguments in [
            ("backend", "create", "disk0", "--path", "/var/lib/umblock/disks/disk0.img", "--size", str(SIZE), "--create"),
            ("resource", "create", "r0", "--node-id", str(node_id)),
            ("volume", "create", "r0/0"),
            ("metadata", "create", "r0/0", "--backend", "disk0"),
            ("volume", "attach", "r0/0", "--backend", "disk0"),
            ("connection", "create", f"r0/{1 - node_id}", "--peer-name", peer,
             "--path", f"{address}:7789", f"{compose.ADDRESSES[peer]}:7789"),
            ("connection", "connect", f"r0/{1 - node_id}"),
            ("portal", "create", "0.0.0.0:3260"),
            ("target", "create", TARGET),
            ("lun", "create", TARGET, "0", "--volume", "r0/0"),
        ]:
            compose.umctl(name, *arguments)
    wait_until(lambda: all(compose.json(name, "resource", "show", "r0")["connections"][0]["status"].get("state") == "Connected"
                           for name in compose.ADDRESSES), "the nodes are connected", 60, 0.3)
    compose.umctl("alpha", "volume", "new-current-uuid", "r0/0", "--clear-bitmap")
    compose.wait_in_sync()


def url(compose, name):
    return f"iscsi://{compose.ADDRESSES[name]}/{TARGET}/0"


def qemu_io(where, *commands):
    run("qemu-io", "-f", "raw", *[word for command in commands for word in ("-c", command)], where)


def read_back(where, path):
    run("qemu-img", "dd", "-f", "raw", "-O", "raw", f"if={where}", f"of={path}", "bs=1M", f"count={IMAGE_SIZE // MIB}")
    return path.read_bytes()


def query(compose, expression):
    address = (f"http://127.0.0.1:{compose.prometheus_port}/api/v1/query?"
               + urllib.parse.urlencode({"query": expression}))
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)["data"]["result"]


def wait_scraped(compose, expression, expected):
    """Until Prometheus has for each node what `expected` says of it."""
    def scraped():
        return {row["metric"]["node"]: float(row["value"][1]) for row in query(compose, expression)}
    wait_until(lambda: scraped() == expected, f"{expression} is {expected}", 30, 0.5)


def test_data_follows_the_primary_and_is_scraped(compose, workdir):
    alpha, beta = url(compose, "alpha"), url(compose, "beta")
    image = workdir / "random.img"
    image.write_bytes(os.urandom(IMAGE_SIZE))
    compose.umctl("alpha", "resource", "promote", "r0")
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, alpha)
    qemu_io(alpha, f"write -P 0x5a {IMAGE_SIZE} 4M", "flush", f"read -P 0x5a {IMAGE_SIZE} 4M")
    wait_scraped(compose, "umblock_up", {"alpha": 1, "beta": 1})
    written = IMAGE_SIZE + 4 * MIB
    wait_scraped(compose, "umblock_volume_written_bytes_total", {"alpha": written, "beta": 0})
    wait_scraped(compose, "umblock_peer_volume_received_bytes_total", {"alpha": 0, "beta": written})
    wait_scraped(compose, 'umblock_resource_role{state="Primary"}', {"alpha": 1, "beta": 0})

    # The other node has the same, and only one is Primary.
    assert "Primary" in compose.umctl("beta", "resource", "promote", "r0", check=False).stderr
    compose.umctl("alpha", "resource", "demote", "r0")
    compose.umctl("beta", "resource", "promote", "r0")
    assert read_back(beta, workdir / "back.img") == image.read_bytes()
    qemu_io(beta, f"read -P 0x5a {IMAGE_SIZE} 4M")
    wait_scraped(compose, 'umblock_resource_role{state="Primary"}', {"alpha": 0, "beta": 1})
    compose.umctl("beta", "resource", "demote", "r0")


def test_a_new_container_on_the_old_volume_catches_up(compose, workdir):
    compose.umctl("beta", "resource", "promote", "r0")
    compose.compose("stop", "alpha")
    assert compose.docker.run("inspect", "-f", "{{.State.ExitCode}}", compose.container("alpha")).stdout == "0\n"
    compose.compose("rm", "-f", "alpha")
    qemu_io(url(compose, "beta"), "write -P 0x77 0 2M", "flush")
    compose.compose("up", "-d", "alpha")
    compose.wait_healthy("alpha")
    compose.wait_in_sync()
    compose.umctl("beta", "resource", "demote", "r0")
    compose.umctl("alpha", "resource", "promote", "r0")
    qemu_io(url(compose, "alpha"), "read -P 0x77 0 2M")
    compose.umctl("alpha", "resource", "demote", "r0")


def test_nodes_run_without_privileges_under_the_shipped_profile(compose):
    for name in compose.ADDRESSES:
        status = compose.docker.run("exec", compose.container(name), "cat", "/proc/1/status").stdout
        has = dict(re.findall(r"^(\w+):\s+(.*)$", status, re.M))
        assert has["Name"] == "umblockd"
        assert has["Uid"].split() == ["990"] * 4
        assert int(has["CapEff"], 16) == int(has["CapPrm"], 16) == int(has["CapBnd"], 16) == 0
        assert has["NoNewPrivs"] == "1" and has["Seccomp"] == "2"
        filters = [option for option in compose.inspect(name)["HostConfig"]["SecurityOpt"] if option.startswith("seccomp")]
        profile = re.split("[=:]", filters[0], maxsplit=1)[1]
        assert json.loads(profile) == json.loads((ROOT / "docker" / "seccomp.json").read_text())


def test_promtool_has_nothing_to_say_about_the_metrics(compose):
    for name, address in compose.ADDRESSES.items():
        with urllib.request.urlopen(f"http://{address}:9720/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert "umblock_up 1" in text
        ended = compose.docker.run("run", "-i", "--rm", "--network", "none", "--entrypoint", "promtool", PROMETHEUS_IMAGE,
                                   "check", "metrics", input=text, check=False)
        assert ended.returncode == 0 and not ended.stdout + ended.stderr, name


def test_a_denied_io_uring_is_explained(docker):
    """Under a profile that denies io_uring the daemon does not start, and says what to change."""
    profile = pathlib.Path(__file__).with_name("deny-io-uring.json")
    ended = docker.run("run", "--rm", "--network", "none", "--security-opt", f"seccomp={profile}", IMAGE,
                       check=False, timeout=60)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1
    assert "cannot start" in said and "io_uring is not permitted" in said
    assert "seccomp profile" in said and "--security-opt seccomp=" in said and "docker/seccomp.json" in said
    assert "kernel.io_uring_disabled=0" in said


def show_node(docker, image):
    """Starts the daemon of an image without any privilege and asks it who it is."""
    profile = ROOT / "docker" / "seccomp.json"
    ended = docker.run("run", "--rm", "--network", "none", "--cap-drop", "ALL", "--read-only",
                       "--tmpfs", "/run/umblock:uid=990", "--security-opt", "no-new-privileges",
                       "--security-opt", f"seccomp={profile}", "--entrypoint", "bash", image, "-c",
                       "umblockd --state-dir /var/lib/umblock & for i in $(seq 100); do "
                       "umctl node show && break; sleep 0.1; done; kill $!; wait $! && id -un", timeout=60)
    assert "protocols" in ended.stdout and ended.stdout.endswith("umblock\n")


def test_the_image_needs_no_writable_root(docker):
    show_node(docker, IMAGE)


def test_the_image_that_compiles_inside_runs(docker):
    """The Dockerfile's default target: what it compiled is what the daemon of this tree would be."""
    docker.build(COMPILED_IMAGE, ROOT, ROOT / "docker" / "Dockerfile", timeout=2400)
    try:
        show_node(docker, COMPILED_IMAGE)
        versions = [docker.run("run", "--rm", "--network", "none", "--entrypoint", program, image, "--version").stdout
                    for program in ["umblockd", "umctl"] for image in [IMAGE, COMPILED_IMAGE]]
        assert versions[0] == versions[1] and versions[2] == versions[3] and all(versions)
    finally:
        docker.run("image", "rm", COMPILED_IMAGE, check=False)


def test_the_shipped_profile_is_what_its_script_writes():
    run(sys.executable, ROOT / "docker" / "make-seccomp.py", "--check")
