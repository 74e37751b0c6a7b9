"""Docker for the container tests: the daemon that runs, or one of our own for the time of the tests."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

from .node import ROOT
from .shell import output, run, wait_until

IMAGE = "umblock-e2e"
PROMETHEUS_IMAGE = "umblock-prometheus-e2e"
COMPOSE_DIRECTORY = ROOT / "compose" / "two-node"


class Docker:
    def __init__(self):
        self.env = dict(os.environ, DOCKER_BUILDKIT="0")
        self.daemon = None
        self.directory = None

    def start(self):
        if self.run("info", check=False).returncode == 0:
            return
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="umb-docker-", dir="/var/tmp"))
        socket = f"unix://{self.directory}/docker.sock"
        with open(self.directory / "log", "w") as log:
            self.daemon = subprocess.Popen(
                ["dockerd", "--data-root", self.directory / "data", "--exec-root", self.directory / "exec",
                 "--pidfile", self.directory / "pid", "-H", socket], stdout=log, stderr=log)
        self.env["DOCKER_HOST"] = socket
        wait_until(lambda: self.run("info", check=False).returncode == 0, "dockerd answers", 60, 0.2)

    def stop(self):
        if self.daemon is None:
            return
        self.daemon.terminate()
        self.daemon.wait(60)
        run("ip", "link", "del", "docker0", check=False)
        shutil.rmtree(self.directory)

    def run(self, *arguments, **kwargs):
        return run("docker", *arguments, env=self.env, **kwargs)

    def has_image(self, name):
        return self.run("image", "inspect", name, check=False).returncode == 0

    def build_images(self):
        """From the binaries of the release build; the stage that compiles is for users."""
        run(ROOT / "docker" / "make-base-image.sh", env=self.env, timeout=600)
        self.run("build", "-q", "-f", ROOT / "docker" / "Dockerfile", "--target", "prebuilt", "-t", IMAGE,
                 ROOT, timeout=900)
        self.run("build", "-q", "-f", COMPOSE_DIRECTORY / "Dockerfile.prometheus", "-t", PROMETHEUS_IMAGE,
                 COMPOSE_DIRECTORY, timeout=900)


def compose_commands():
    """The compose implementations of this machine: docker-compose 1.29, `docker compose`, or both."""
    found = []
    if shutil.which("docker-compose"):
        found.append(("docker-compose",))
    if shutil.which("docker") and run("docker", "compose", "version", check=False).returncode == 0:
        found.append(("docker", "compose"))
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
                        COMPOSE_PROJECT_NAME=f"umb{os.getpid()}")

    def compose(self, *arguments, check=True):
        # From its own directory: the seccomp profile's path is relative to it.
        return run(*self.command, "-f", "compose.yaml", *arguments, cwd=COMPOSE_DIRECTORY, env=self.env,
                   check=check)

    def container(self, service):
        return output(*self.command, "-f", "compose.yaml", "ps", "-q", service, cwd=COMPOSE_DIRECTORY,
                      env=self.env)

    def up(self):
        self.compose("up", "-d")
        for service in ["alpha", "beta", "prometheus"]:
            self.wait_healthy(service)

    def down(self):
        self.compose("down", "-v", "--remove-orphans")

    def wait_healthy(self, service):
        def healthy():
            state = json.loads(self.docker.run("inspect", self.container(service)).stdout)[0]["State"]
            return state["Status"] == "running" and state.get("Health", {}).get("Status") == "healthy"
        try:
            wait_until(healthy, f"{service} is healthy", 90, 0.5)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.compose('logs', '--tail=60', service, check=False).stdout}")

    def umctl(self, service, *arguments, check=True):
        return self.docker.run("exec", self.container(service), "umctl", *arguments, check=check)

    def json(self, service, *arguments):
        return json.loads(self.umctl(service, "-o", "json", *arguments).stdout)
