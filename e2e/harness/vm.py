"""A small virtual machine in a network namespace: start, commands in it, power cut."""

import base64
import hashlib
import os
import pathlib
import queue
import signal
import socket
import subprocess
import threading
import time

from .shell import CommandFailed, wait_until

CHANNELS = 4
QEMU = os.environ.get("QEMU", "qemu-system-x86_64")
# Translation instead of KVM works everywhere; its cache would grow to 1 GiB.
ACCELERATOR = os.environ.get("UMBLOCK_VM_ACCEL", "tcg,thread=multi,tb-size=192")


class VmResult:
    def __init__(self, status, stdout, stderr):
        self.returncode = status
        self.stdout = stdout
        self.stderr = stderr


class Channel:
    """A virtio-serial port of the VM, see e2e/kernel/guest/agent."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        wait_until(lambda: self.try_connect(path), f"{path} is there")
        self.buffer = b""

    def try_connect(self, path):
        try:
            self.socket.connect(str(path))
            return True
        except OSError:
            return False

    def run(self, script, timeout):
        deadline = time.monotonic() + timeout
        self.socket.settimeout(timeout)
        self.socket.sendall(base64.b64encode(script.encode()) + b"\n")
        while b"\n" not in self.buffer:
            self.receive(deadline)
        line, self.buffer = self.buffer.split(b"\n", 1)
        status, out, err = [int(number) for number in line.split()]
        while len(self.buffer) < out + err:
            self.receive(deadline)
        return VmResult(status, self.buffer[:out].decode(errors="replace"), self.take(out, out + err))

    def take(self, begin, end):
        text, self.buffer = self.buffer[begin:end], self.buffer[end:]
        return text.decode(errors="replace")

    def receive(self, deadline):
        self.socket.settimeout(max(0.1, deadline - time.monotonic()))
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the VM has ended")
        self.buffer += data


class Vm:
    def __init__(self, name, namespace, tap, address, image, directory, disks, share, memory=512):
        self.name = name
        self.namespace = namespace
        self.tap = tap
        self.address = address
        self.image = image
        self.directory = pathlib.Path(directory)
        self.disks = disks  # raw files: /dev/vdb, /dev/vdc ...
        self.share = share  # a host directory, /mnt in the VM
        self.memory = memory
        self.process = None
        self.channels = None
        self.directory.mkdir(parents=True, exist_ok=True)

    @property
    def console(self):
        return self.directory / "console.log"

    def start(self, timeout=240):
        self.console.write_bytes(b"")
        digest = hashlib.md5(self.name.encode()).hexdigest()
        mac = f"52:54:00:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"
        command = [QEMU, "-name", self.name, "-machine", "pc,usb=off", "-accel", ACCELERATOR, "-cpu", "max",
                   "-m", self.memory, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                   "-kernel", self.image.kernel, "-initrd", self.image.initramfs, "-append",
                   "console=ttyS0 loglevel=4 panic=-1 mitigations=off tsc=reliable no_timer_check net.ifnames=0 "
                   f"log_buf_len=4M guest_name={self.name} guest_address={self.address}/24",
                   "-serial", f"file:{self.console}",
                   "-drive", f"file={self.image.root},if=none,id=root,format=raw,readonly=on",
                   "-device", "virtio-blk-pci,drive=root",
                   "-netdev", f"tap,id=net,ifname={self.tap},script=no,downscript=no,vnet_hdr=off",
                   "-device", f"virtio-net-pci,netdev=net,mac={mac},romfile=",
                   "-fsdev", f"local,id=share,path={self.share},security_model=none,readonly=on",
                   "-device", "virtio-9p-pci,fsdev=share,mount_tag=share",
                   "-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
        for index, disk in enumerate(self.disks):
            command += ["-drive", f"file={disk},if=none,id=disk{index},format=raw,cache=writeback,discard=unmap",
                        "-device", f"virtio-blk-pci,drive=disk{index},event_idx=off"]
        for index in range(CHANNELS):
            path = self.channel_path(index)
            path.unlink(missing_ok=True)
            command += ["-chardev", f"socket,id=command{index},path={path},server=on,wait=off",
                        "-device", f"virtserialport,chardev=command{index},name=command.{index}"]
        with open(self.directory / "qemu.log", "w") as log:
            self.process = subprocess.Popen(self.namespace.command(*command), stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        wait_until(self.is_ready, f"VM {self.name} is ready, see {self.console}", timeout, 0.2)
        self.channels = queue.Queue()
        for index in range(CHANNELS):
            self.channels.put(Channel(self.channel_path(index)))

    def channel_path(self, index):
        return self.directory / f"c{index}"

    def is_ready(self):
        assert self.process.poll() is None, (self.directory / "qemu.log").read_text()
        return f"guest {self.name} is ready" in self.console.read_text(errors="replace")

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def try_run(self, script, timeout=120):
        """Runs a bash script. One that does not end takes a channel with it."""
        channel = self.channels.get(timeout=timeout)
        result = channel.run(script, timeout)
        self.channels.put(channel)
        return result

    def run(self, script, timeout=120):
        """The same for scripts that have to succeed; returns what they print."""
        result = self.try_run(script, timeout)
        if result.returncode != 0:
            raise CommandFailed(f"in {self.name}: {script}: status {result.returncode}\n"
                                f"{result.stdout[-3000:]}{result.stderr[-3000:]}")
        return result.stdout

    def background(self, script, timeout=600):
        return Background(self, script, timeout)

    def power_cut(self):
        """What the disks have acknowledged stays: it is in this machine's page cache."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def tear_down(self):
        if self.running:
            self.power_cut()


class Background:
    """A script that runs in the VM meanwhile."""

    def __init__(self, vm, script, timeout):
        self.result = None
        self.problem = None
        self.thread = threading.Thread(target=self.work, args=(vm, script, timeout), daemon=True)
        self.thread.start()

    def work(self, vm, script, timeout):
        try:
            self.result = vm.try_run(script, timeout)
        except (OSError, queue.Empty) as problem:
            self.problem = problem

    def running(self):
        return self.thread.is_alive()

    def wait(self, timeout=600):
        self.thread.join(timeout)
        assert not self.thread.is_alive(), "the VM does not end its work"
        return self.result

    def succeed(self, timeout=600):
        result = self.wait(timeout)
        assert result is not None, f"no answer: {self.problem}"
        assert result.returncode == 0, f"status {result.returncode}\n{result.stdout[-3000:]}{result.stderr[-3000:]}"
        return result.stdout
