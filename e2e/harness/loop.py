"""A file system on an exported volume: loop device, mkfs, mount."""

import hashlib
import os
import pathlib

from .shell import output, run


class FileSystem:
    """An export's loop device and, while mounted, its file system."""

    def __init__(self, export_path, mountpoint):
        self.export_path = str(export_path)
        self.mountpoint = pathlib.Path(mountpoint)
        self.device = None

    def attach(self):
        self.device = output("losetup", "--find", "--show", self.export_path)

    def make(self):
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.device)

    def mount(self):
        self.mountpoint.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "ext4", self.device, self.mountpoint)

    def grow(self):
        """The export has grown: loop device and mounted file system follow."""
        run("losetup", "--set-capacity", self.device)
        grown = run("resize2fs", self.device, check=False)
        if "Permission denied to resize" in grown.stderr:
            # ext4 wants CAP_SYS_RESOURCE for it while it is mounted, which containers may lack.
            self.unmount()
            run("fsck.ext4", "-f", "-y", self.device)
            run("resize2fs", self.device)
            self.mount()
        else:
            assert grown.returncode == 0, grown.stderr

    def unmount(self):
        run("umount", self.mountpoint)

    def detach(self):
        run("losetup", "-d", self.device)
        self.device = None

    def check(self):
        """fsck finds nothing to complain about."""
        run("fsck.ext4", "-f", "-n", self.device)

    def tear_down(self):
        """Whatever state it is in."""
        if os.path.ismount(self.mountpoint):
            run("umount", "-l", self.mountpoint)
        if self.device is not None:
            run("losetup", "-d", self.device, check=False)
            self.device = None


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def tree_digests(root):
    """SHA-256 of every regular file below `root`, by relative path."""
    root = pathlib.Path(root)
    return {str(path.relative_to(root)): sha256(path)
            for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()}
