"""lossyfs (e2e/tools): a directory whose unflushed writes a kill takes away."""

import os
import pathlib
import signal
import subprocess

from .shell import run, wait_until


class LossyDirectory:
    def __init__(self, program, backing, mountpoint, survive, seed):
        self.program = program
        self.backing = pathlib.Path(backing)
        self.mountpoint = pathlib.Path(mountpoint)
        self.options = [f"--survive={survive}", f"--seed={seed}"]
        self.process = None

    def start(self):
        self.backing.mkdir(parents=True, exist_ok=True)
        self.mountpoint.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [self.program, *self.options, self.backing, self.mountpoint],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: os.path.ismount(self.mountpoint), "lossyfs is mounted")

    def kill(self):
        """The power is gone; come back with start()."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        run("umount", "-l", self.mountpoint)
        self.process = None

    def tear_down(self):
        if self.process is not None:
            self.kill()
