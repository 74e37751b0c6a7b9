"""What test runs leave behind that were killed: found by the pid in its name, and taken away."""

import os
import pathlib
import re
import shutil

from .shell import output, run

PREFIX = "umb"


def owner_is_gone(name):
    """Of a directory or namespace: umbPID-anything."""
    match = re.match(rf"{PREFIX}(\d+)-", name)
    return match is not None and not os.path.exists(f"/proc/{match.group(1)}")


def remove_leftovers(directory):
    dead = [path for path in pathlib.Path(directory).iterdir() if owner_is_gone(path.name)]
    for path in dead:
        mounts = [line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines()
                  if line.split()[1].startswith(f"{path}/")]
        # File systems on exports first, the exports when their daemon is gone.
        for mount in reversed(mounts):
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
        for exports in path.glob("*/exports"):
            run("umount", "-l", exports, check=False)
        shutil.rmtree(path, ignore_errors=True)
