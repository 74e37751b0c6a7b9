"""The disk image, kernel and initramfs that VMs start from: Debian packages of this machine's release,
unpacked without their maintainer scripts. Built once per kernel version and kept in build/cache."""

import hashlib
import os
import pathlib
import re
import shutil
import stat
import subprocess

from .node import ROOT
from .shell import output, run

GUEST = ROOT / "e2e" / "kernel" / "guest"
PACKAGES = ["bash", "coreutils", "util-linux", "mount", "grep", "sed", "gawk", "procps", "kmod", "iproute2",
            "busybox-static", "drbd-utils", "e2fsprogs", "xfsprogs", "fio", "tcc", "libc6-dev", "make"]
# Come as dependencies and are of no use without a package manager or udev.
LEFT_OUT = re.compile(r"(lib)?(python3|perl).*|perl-base|dpkg|debconf|adduser|passwd|tar|lsb-base|udev|"
                      r"sysvinit-utils|init-system-helpers|media-types|libdb5\.3|libsqlite3-0|ucf|"
                      r"sensible-utils|libgdbm.*")
BOOT_MODULES = ["virtio_pci", "virtio_blk", "ext4", "overlay"]
MODULES = [*BOOT_MODULES, "virtio_net", "virtio_console", "virtio_rng", "9p", "9pnet_virtio", "loop", "xfs",
           "libcrc32c", "crc32c_generic", "crc32c_intel", "sha1_generic", "sha256_generic", "md5", "hmac", "tls", "lru_cache"]


class VmImage:
    """Paths of what QEMU needs."""

    def __init__(self, directory):
        self.kernel = directory / "vmlinuz"
        self.initramfs = directory / "initramfs.gz"
        self.root = directory / "root.img"


def image_for(kernel_version):
    recipe = pathlib.Path(__file__).read_bytes() + b"".join(path.read_bytes() for path in sorted(GUEST.iterdir()))
    key = hashlib.sha256(recipe).hexdigest()[:12]
    cache = ROOT / "build" / "cache" / "vm"
    directory = cache / f"{kernel_version}-{key}"
    if not directory.exists():
        for old in cache.glob(f"{kernel_version}-*"):
            shutil.rmtree(old)
        building = cache / f"building.{os.getpid()}"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        ImageBuilder(kernel_version, building, cache / "packages").build()
        building.rename(directory)
    return VmImage(directory)


class ImageBuilder:
    def __init__(self, kernel_version, directory, packages):
        self.version = kernel_version
        self.directory = directory
        self.packages = packages
        self.tree = directory / "tree"
        self.kernel_tree = directory / "kernel-tree"
        self.initramfs_tree = directory / "initramfs-tree"

    def build(self):
        self.fetch()
        self.unpack()
        self.install_modules(self.tree, MODULES)
        self.make_initramfs()
        self.add_own_files()
        self.make_image()
        for tree in [self.tree, self.kernel_tree, self.initramfs_tree]:
            shutil.rmtree(tree)

    def fetch(self):
        """With nothing installed, apt takes every dependency."""
        (self.packages / "partial").mkdir(parents=True, exist_ok=True)
        status = self.packages / "status"
        status.write_text("")
        options = ["-o", f"Dir::State::status={status}", "-o", f"Dir::Cache::archives={self.packages}", "-o",
                   "APT::Install-Recommends=0", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]
        run("apt-get", *options, "-qq", "-y", "--download-only", "install", *PACKAGES)
        kernel = f"linux-image-{self.version}"
        if not list(self.packages.glob(f"{kernel}_*.deb")):
            run("apt-get", "-o", "APT::Sandbox::User=root", "-qq", "download", kernel, cwd=self.packages)

    def unpack(self):
        self.kernel_tree.mkdir()
        for directory in ["bin", "sbin", "lib", "lib64"]:
            (self.tree / "usr" / directory).mkdir(parents=True)
            (self.tree / directory).symlink_to(f"usr/{directory}")
        for package in sorted(self.packages.glob("*.deb")):
            name = package.name.split("_")[0]
            if name == f"linux-image-{self.version}":
                self.extract(package, self.kernel_tree)
            elif not name.startswith("linux-image-") and not LEFT_OUT.fullmatch(name):
                self.extract(package, self.tree, "--exclude=./usr/share/doc", "--exclude=./usr/share/man",
                             "--exclude=./usr/share/locale", "--exclude=./usr/share/zoneinfo")
        run("depmod", "-b", self.kernel_tree, self.version)
        shutil.copy(self.kernel_tree / "boot" / f"vmlinuz-{self.version}", self.directory / "vmlinuz")
        programs = [self.tree / "usr" / "bin", self.tree / "usr" / "sbin"]
        for applet in output(self.tree / "usr" / "bin" / "busybox", "--list").split():
            if not any(os.path.lexists(directory / applet) for directory in programs):
                (programs[0] / applet).symlink_to("busybox")

    @staticmethod
    def extract(package, tree, *options):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
            subprocess.run(["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", tree, *options],
                           stdin=archive.stdout, check=True)

    def install_modules(self, tree, modules):
        """With what they depend on; returns their paths below `tree` in the order to load them."""
        there = tree / "lib" / "modules" / self.version
        there.mkdir(parents=True)
        shown = run("modprobe", "-d", self.kernel_tree, "-S", self.version, "--show-depends", "-a", *modules).stdout
        paths = list(dict.fromkeys(re.findall(r"^insmod (\S+)", shown, re.M)))
        order = ["/" + str(pathlib.Path(path).relative_to(self.kernel_tree)) for path in paths]
        for path, inside in zip(paths, order):
            target = tree / inside[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"]:
            shutil.copy(self.kernel_tree / "lib" / "modules" / self.version / name, there)
        run("depmod", "-b", tree, self.version)
        return order

    def make_initramfs(self):
        tree = self.initramfs_tree
        for directory in ["bin", "dev", "proc", "sys", "lower", "upper", "root"]:
            (tree / directory).mkdir(parents=True)
        order = self.install_modules(tree, BOOT_MODULES)
        (tree / "load-order").write_text("\n".join(order) + "\n")
        shutil.copy(self.tree / "usr" / "bin" / "busybox", tree / "bin")
        shutil.copy(GUEST / "initramfs-init", tree / "init")
        run("sh", "-c", f"find . | cpio --quiet -o -H newc -R 0:0 | gzip -1 > {self.directory}/initramfs.gz", cwd=tree)

    def add_own_files(self):
        etc = self.tree / "etc"
        for directory in ["proc", "sys", "dev", "run", "tmp", "mnt", "root", "etc/guest", "etc/drbd.d", "var/lib/drbd"]:
            (self.tree / directory).mkdir(parents=True, exist_ok=True)
        for program in ["boot", "agent"]:
            shutil.copy(GUEST / program, etc / "guest")
            (etc / "guest" / program).chmod(stat.S_IRWXU)
        shutil.copy(GUEST / "inittab", etc)
        for name, text in {"passwd": "root:x:0:0:root:/root:/bin/bash\n", "group": "root:x:0:\n", "fstab": "",
                           "drbd.conf": 'include "drbd.d/*.res";\n'}.items():
            (etc / name).write_text(text)
        (etc / "drbd.d" / "global_common.conf").unlink(missing_ok=True)
        (etc / "mtab").unlink(missing_ok=True)
        (etc / "mtab").symlink_to("/proc/self/mounts")

    def make_image(self):
        kib = int(output("du", "-sk", self.tree).split()[0])
        run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0", "-d", self.tree,
            self.directory / "root.img", f"{kib * 115 // 100 + 32768}k")
