"""scripts/demo.sh does what it says and leaves nothing behind, also when it is interrupted."""

import os
import pathlib
import signal
import subprocess

from harness.node import ROOT
from harness.shell import output, wait_until

DEMO = ROOT / "scripts" / "demo.sh"


def start(log):
    def as_from_a_terminal():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setsid()
    with open(log, "w") as out:
        return subprocess.Popen([DEMO], stdout=out, stderr=out, preexec_fn=as_from_a_terminal)


def nothing_is_left_of(pid):
    name = f"umb{pid}-"
    return (name not in pathlib.Path("/proc/mounts").read_text()
            and name not in output("losetup", "--list", "--output", "BACK-FILE")
            and name not in output("ip", "netns", "list")
            and not list(pathlib.Path("/var/tmp").glob(f"{name}*")))


def test_the_demo_runs_and_cleans_up(workdir):
    demo = start(workdir / "log")
    status = demo.wait(300)
    said = (workdir / "log").read_text()
    assert status == 0, said
    for words in ["built on alpha: Lua", "is open by fuse r0-0", "files are the same", "runs on beta: Lua",
                  "the same binary"]:
        assert words in said
    assert nothing_is_left_of(demo.pid)


def test_an_interrupted_demo_cleans_up(workdir):
    log = workdir / "log"
    demo = start(log)
    wait_until(lambda: "tar -xf" in log.read_text(), "the demo builds", 60)
    os.killpg(demo.pid, signal.SIGINT)
    assert demo.wait(60) == 130
    assert "interrupted" in log.read_text()
    assert nothing_is_left_of(demo.pid)
