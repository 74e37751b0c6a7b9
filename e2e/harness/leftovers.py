"""Working directories, and what test runs leave behind that were killed: found by the pid in its name,
and taken away."""

import os
import pathlib
import re
import shutil
import tempfile

from .shell import output, run

PREFIX = "umb"
DIRECTORY = os.environ.get("UMBLOCK_E2E_DIR", "/var/tmp")


def make_workdir(cleanup):
    """A short path: a unix socket's may have 107 bytes."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=DIRECTORY))
    cleanup.add(shutil.rmtree, directory)
    return directory


def owner_is_gone(name):
    """Of a directory or namespace: umbPID-anything."""
    match = re.match(rf"{PREFIX}(\d+)-", name)
    return match is not None and not os.path.exists(f"/proc/{match.group(1)}")


def mounts_below(path):
    """The newest first."""
    lines = pathlib.Path("/proc/mounts").read_text().splitlines()
    return [line.split()[1] for line in reversed(lines) if line.split()[1].startswith(f"{path}/")]


def remove_leftovers(directory):
    dead = [path for path in pathlib.Path(directory).iterdir() if owner_is_gone(path.name)]
    # File systems on exports before the daemons go, exports after that.
    for path in dead:
        for mount in mounts_below(path):
            if not mount.endswith("/exports"):
                run("umount", "-l", mount, check=False)
        for line in output("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").splitlines():
            if f"{path}/" in line:
                run("losetup", "-d", line.split()[0], check=False)
    for line in output("ip", "netns", "list").splitlines():
        name = line.split()[0]
        if owner_is_gone(name):
            for pid in output("ip", "netns", "pids", name, check=False).split():
                run("kill", "-9", pid, check=False)
            run("ip", "netns", "del", name, check=False)
    for path in dead:
        for mount in mounts_below(path):
            run("umount", "-l", mount, check=False)
        if not mounts_below(path):
            shutil.rmtree(path, ignore_errors=True)
