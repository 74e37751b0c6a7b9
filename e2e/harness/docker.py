"""Docker for the container tests: the daemon that runs, or one of our own for the time of the tests."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

from .leftovers import PREFIX, mounts_below
from .node import ROOT
from .shell import CommandFailed, output, run, wait_until

IMAGE = "umblock-e2e"
COMPILED_IMAGE = "umblock-e2e-compiled"
PROMETHEUS_IMAGE = "umblock-prometheus-e2e"
COMPOSE_DIRECTORY = ROOT / "compose" / "two-node"


class Docker:
    """A daemon of our own ends with the tests, also when they are killed, and touches neither the machine's
    bridges nor its sysctls, nor its packet filter unless that keeps containers apart. Builds use the
    machine's network then, and compose makes its own bridge."""

    def __init__(self):
        self.env = dict(os.environ)
        if run("docker", "buildx", "version", check=False).returncode != 0:
            self.env["DOCKER_BUILDKIT"] = "0"
        self.daemon = None
        self.directory = None

    def start(self):
        if self.run("info", check=False).returncode == 0:
            return
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-docker-", dir="/var/tmp"))
        # As an earlier docker leaves it; without rules of its own this one could not connect containers.
        drops = "-P FORWARD DROP" in output("iptables", "-S", "FORWARD", check=False)
        socket = f"unix://{self.directory}/docker.sock"
        with open(self.directory / "log", "w") as log:
            self.daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "dockerd", "--data-root", self.directory / "data", "--exec-root", self.directory / "exec",
                 "--pidfile", self.directory / "pid", "-H", socket, "--bridge=none",
                 f"--iptables={json.dumps(drops)}", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"], stdout=log, stderr=log)
        self.env["DOCKER_HOST"] = socket
        wait_until(self.answers, "dockerd answers", 60, 0.2)

    def answers(self):
        log = (self.directory / "log").read_text(errors="replace")[-3000:]
        assert self.daemon.poll() is None, f"dockerd ended:\n{log}"
        return self.run("info", check=False).returncode == 0

    def stop(self):
        if self.daemon is None:
            return
        self.daemon.terminate()
        try:
            self.daemon.wait(60)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
        for mount in mounts_below(self.directory):
            run("umount", "-l", mount, check=False)
        shutil.rmtree(self.directory)

    def run(self, *arguments, **kwargs):
        return run("docker", *arguments, env=self.env, **kwargs)

    def build_images(self):
        """From the binaries of the release build: a minute instead of ten."""
        run(ROOT / "docker" / "make-base-image.sh", env=self.env, timeout=600)
        self.build(IMAGE, ROOT, ROOT / "docker" / "Dockerfile", "--target", "prebuilt")
        self.build(PROMETHEUS_IMAGE, COMPOSE_DIRECTORY, COMPOSE_DIRECTORY / "Dockerfile.prometheus")

    def build(self, image, context, dockerfile, *options, timeout=600):
        network = ["--network", "host"] if self.daemon else []
        self.run("build", "-q", "-f", dockerfile, "-t", image, *network, *options, context, timeout=timeout)

    def remove_images(self):
        """Of a daemon that stays. The base image does too: others may have use for it."""
        if self.daemon is None:
            self.run("image", "rm", IMAGE, PROMETHEUS_IMAGE, check=False)


def compose_commands():
    """Names and commands of this machine's compose: docker-compose 1.29, `docker compose`, or both."""
    found = []
    if shutil.which("docker-compose"):
        found.append(("v1", ("docker-compose",)))
    if shutil.which("docker") and run("docker", "compose", "version", check=False).returncode == 0:
        found.append(("v2", ("docker", "compose")))
    return found


class ComposeCluster:
    """compose/two-node, up."""

    ADDRESSES = {"alpha": "172.30.77.11", "beta": "172.30.77.12"}

    def __init__(self, docker, command, prometheus_port):
        self.docker = docker
        self.command = command
        self.prometheus_port = prometheus_port
        self.env = dict(docker.env, UMBLOCK_IMAGE=IMAGE, UMBLOCK_PROMETHEUS_IMAGE=PROMETHEUS_IMAGE,
                        UMBLOCK_PROMETHEUS_PORT=str(prometheus_port),
                        COMPOSE_PROJECT_NAME=f"{PREFIX}{os.getpid()}")

    def peer_of(self, service):
        return next(other for other in self.ADDRESSES if other != service)

    # -- containers -----------------------------------------------------------------------------

    def compose(self, *arguments, check=True):
        # From its own directory: docker-compose 1.29 finds the seccomp profile from there.
        return run(*self.command, *arguments, cwd=COMPOSE_DIRECTORY, env=self.env, check=check)

    def container(self, service):
        return output(*self.command, "ps", "-a", "-q", service, cwd=COMPOSE_DIRECTORY, env=self.env)

    def inspect(self, service):
        return json.loads(self.docker.run("inspect", self.container(service)).stdout)[0]

    def up(self):
        self.compose("up", "-d")
        for service in [*self.ADDRESSES, "prometheus"]:
            self.wait_healthy(service)

    def down(self):
        self.compose("down", "-v", "--remove-orphans")

    def wait_healthy(self, service):
        def healthy():
            state = self.inspect(service)["State"]
            return state["Status"] == "running" and state.get("Health", {}).get("Status") == "healthy"
        try:
            wait_until(healthy, f"{service} is healthy", 90, 0.5)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.log_tail(service)}")

    def log_tail(self, service):
        return self.compose("logs", "--no-color", "--tail=60", service, check=False).stdout

    # -- umctl ----------------------------------------------------------------------------------

    def umctl(self, service, *arguments, check=True):
        try:
            return self.docker.run("exec", self.container(service), "umctl", *arguments, check=check)
        except CommandFailed as failed:
            raise CommandFailed(f"{failed}\n{self.log_tail(service)}") from None

    def json(self, service, *arguments):
        return json.loads(self.umctl(service, "-o", "json", *arguments).stdout)

    def wait_in_sync(self, name="r0"):
        """Connected, both disks UpToDate as both see them, nothing out of sync."""
        def in_sync(service):
            resource = self.json(service, "resource", "show", name)
            connection = resource["connections"][0]
            peer_disks = connection.get("volumes", [])
            return (connection["status"].get("state") == "Connected" and peer_disks
                    and resource["volumes"][0]["status"].get("disk") == "UpToDate"
                    and peer_disks[0].get("peerDisk") == "UpToDate"
                    and int(peer_disks[0].get("outOfSyncBytes", 0)) == 0)
        for service in self.ADDRESSES:
            wait_until(lambda service=service: in_sync(service), f"{service}: {name} is in sync", 60, 0.3)
