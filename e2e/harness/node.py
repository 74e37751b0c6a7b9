"""One node: umblockd in its network namespace with its own directories, and umctl for it."""

import json
import os
import pathlib
import signal
import subprocess

from .shell import CommandFailed, run, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARIES = pathlib.Path(os.environ.get("UMBLOCK_BIN", ROOT / "build" / "release"))
UMBLOCKD = BINARIES / "server" / "umblockd"
UMCTL = BINARIES / "ctl" / "umctl"
LOSSYFS = BINARIES / "e2e" / "tools" / "lossyfs"
METRICS = "127.0.0.1:9720"
MIB = 1 << 20


class Node:
    def __init__(self, name, node_id, namespace, directory, metrics=False):
        self.name = name
        self.node_id = node_id
        self.namespace = namespace
        self.directory = pathlib.Path(directory)
        self.disks = self.directory / "disks"
        self.exports = self.directory / "exports"
        self.socket = self.directory / "umblockd.sock"
        self.log = self.directory / "umblockd.log"
        self.metrics = metrics  # served at METRICS
        self.options = []  # more of the daemon's, for the next start
        self.process = None
        for path in [self.disks, self.exports, self.directory / "state"]:
            path.mkdir(parents=True, exist_ok=True)

    # -- the daemon -----------------------------------------------------------------------------

    def start(self, wait=True):
        command = self.namespace.command(
            UMBLOCKD, "--state-dir", self.directory / "state", "--socket", self.socket,
            "--fuse-dir", self.exports, "--node-name", self.name,
            *(["--metrics", METRICS] if self.metrics else []), *self.options)
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        if wait:
            self.wait_ready()

    def wait_ready(self):
        def answers():
            assert self.process.poll() is None, f"umblockd ended:\n{self.log_tail()}"
            return self.umctl("node", "show", check=False).returncode == 0
        wait_until(answers, f"umblockd of {self.name} answers")

    def kill(self):
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def stop(self, timeout=30):
        """An orderly end; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.kill()
        self.process = None
        return status

    def ask_to_stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def await_end(self, patience=20):
        """After ask_to_stop. A daemon that hangs or has crashed fails the test."""
        process, self.process = self.process, None
        try:
            status = process.wait(patience) if process is not None else 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = f"not ended after {patience} s"
        if os.path.ismount(self.exports) or not os.access(self.exports, os.R_OK):
            run("umount", "-l", self.exports, check=False)
        assert status == 0, f"umblockd of {self.name} ended with {status}:\n{self.log_tail()}"

    def tear_down(self):
        self.ask_to_stop()
        self.await_end()

    def log_tail(self, lines=60):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def scrape(self):
        """The metrics as {name with labels: value}; needs `metrics`."""
        text = run(*self.namespace.command("curl", "-sf", f"http://{METRICS}/metrics")).stdout
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    # -- umctl ----------------------------------------------------------------------------------

    def umctl(self, *arguments, check=True, timeout=120):
        try:
            return run(UMCTL, "--socket", self.socket, *arguments, check=check,
                       timeout=timeout)
        except CommandFailed as failed:
            raise CommandFailed(f"{failed}\n--- log of {self.name}:\n{self.log_tail()}") from None

    def refused(self, *arguments):
        """What umctl says about an act that must be refused."""
        result = self.umctl(*arguments, check=False)
        assert result.returncode != 0, f"umctl {arguments} succeeded:\n{result.stdout}"
        return result.stderr

    def json(self, *arguments):
        return json.loads(self.umctl("-o", "json", *arguments).stdout)


def tear_down_all(nodes):
    """Together, because each takes its time."""
    for node in nodes:
        node.ask_to_stop()
    problems = []
    for node in nodes:
        try:
            node.await_end()
        except AssertionError as problem:
            problems.append(str(problem))
    assert not problems, "\n".join(problems)
