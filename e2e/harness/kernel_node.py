"""A node whose DRBD is the Linux kernel's: one resource in a VM, driven with drbdadm."""

import json
import pathlib
import re

from .node import MIB, ROOT
from .shell import CommandFailed, wait_until

PORT = 7789
SMALL, LARGE, HUGE = 64 * MIB, 512 * MIB, 8192 * MIB
DISK_SIZES = [SMALL, LARGE, 16 * MIB, HUGE]  # of the VM's disks
METADATA_DISK = 2  # when it is external
ALLOWED = ROOT / "e2e" / "kernel" / "kernel_log_allowed.txt"


def allowed_messages():
    """Patterns; the reasons are for readers."""
    lines = [line for line in ALLOWED.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [re.compile(line.rsplit("  # ", 1)[0].strip()) for line in lines]


def device(index):
    return f"/dev/vd{'bcde'[index]}"


class KernelNode:
    def __init__(self, vm, node_id):
        self.vm = vm
        self.name = vm.name
        self.node_id = node_id
        self.address = vm.address
        self.disk = 0  # which of the VM's disks has the data
        self.configuration = ""
        self.log = ""  # what the kernel said in this test

    # -- the VM -----------------------------------------------------------------------------------

    def start(self):
        self.vm.start()
        self.load()
        self.vm.run("echo 3 > /proc/sys/kernel/printk; dmesg -C")

    def load(self):
        self.vm.run("modprobe -a lru_cache libcrc32c sha1 sha256 md5 hmac crc32c tls\n"
                    "for module in handshake drbd drbd_transport_tcp; do\n"
                    "  [ -e /mnt/$module.ko ] || continue\n"
                    "  options=; [ $module = drbd ] && options=usermode_helper=disabled\n"
                    "  insmod /mnt/$module.ko $options || exit 1\n"
                    "done")

    def unload(self):
        self.vm.run("rmmod drbd_transport_tcp; rmmod drbd; [ ! -d /sys/module/handshake ] || rmmod handshake")

    def power_cut(self):
        self.collect_log()
        self.vm.power_cut()

    def version(self):
        return self.vm.run("cat /sys/module/drbd/version").strip()

    def run(self, script, timeout=120):
        return self.vm.run(script, timeout)

    def drbdadm(self, *arguments, timeout=120):
        command = "drbdadm " + " ".join(str(argument) for argument in arguments)
        result = self.vm.try_run(command, timeout)
        if result.returncode != 0 and "did not terminate within" in result.stderr:
            # A slow VM: the kernel goes on with it, but drbdadm does not go on to what else was to be done.
            result = self.vm.try_run("sleep 5; drbdadm adjust r0" if "up" in arguments else "true", timeout)
        if result.returncode != 0:
            raise CommandFailed(f"in {self.name}: {command}: status {result.returncode}\n{result.stdout}{result.stderr}")
        return result.stdout

    def refused(self, *arguments):
        """What drbdadm says about an act that must be refused."""
        result = self.vm.try_run("drbdadm " + " ".join(arguments))
        assert result.returncode != 0, f"drbdadm {arguments} succeeded"
        return result.stdout + result.stderr

    # -- its log ----------------------------------------------------------------------------------

    def collect_log(self):
        """Takes the kernel's messages over into `log`."""
        self.log += self.vm.run("dmesg --read-clear --decode")
        return self.log

    def forget_log(self):
        self.vm.run("dmesg -C")
        self.log = ""

    def complaints(self, expected=()):
        """Warnings and errors in the log that neither the test expects nor
        e2e/kernel/kernel_log_allowed.txt allows."""
        patterns = [*expected, *allowed_messages()]
        level = re.compile(r"^\S+\s*:(?:emerg|alert|crit|err|warn)\s*: ")
        return [line for line in self.log.splitlines()
                if level.match(line) and not any(pattern.search(line) for pattern in patterns)]

    # -- the resource -----------------------------------------------------------------------------

    @property
    def disk_path(self):
        """Of the data, on this machine."""
        return pathlib.Path(self.vm.disks[self.disk])

    @property
    def metadata_path(self):
        return pathlib.Path(self.vm.disks[METADATA_DISK])

    def configure(self, peer, size, net=None, disk=None, options=None, external=False):
        """Writes the configuration of r0 with one volume on the disk of `size`; `peer` is a Node."""
        self.disk = DISK_SIZES.index(size)
        def section(name, values):
            return f"  {name} {{ {' '.join(f'{key} {value};' for key, value in values.items())} }}\n"
        metadata = device(METADATA_DISK) if external else "internal"
        text = "resource r0 {\n"
        text += section("options", options or {})
        text += section("net", {"protocol": "C", "ping-timeout": 50, "connect-int": 1, "socket-check-timeout": 3, **(net or {})})
        text += section("disk", {"c-plan-ahead": 0, "resync-rate": "400M", **(disk or {})})
        for name, node_id, address in [(self.name, self.node_id, self.address),
                                       (peer.name, peer.node_id, peer.namespace.address)]:
            text += (f"  on {name} {{ node-id {node_id}; address {address}:{PORT}; volume 0 {{ device minor 0; "
                     f"disk {device(self.disk)}; meta-disk {metadata}; }} }}\n")
        text += "}\n"
        self.configuration = text
        self.restore_configuration()

    def restore_configuration(self):
        """A VM that was started again has forgotten it."""
        self.run(f"cat > /etc/drbd.d/r0.res <<'END'\n{self.configuration}END")

    def create_metadata(self, max_peers=1):
        self.drbdadm("--force", "create-md", f"--max-peers={max_peers}", "r0")

    def blank_disks(self):
        self.run("".join(f"blkdiscard -f {device(index)}\n" for index in range(len(DISK_SIZES))))
        self.forget_cache()

    def forget_cache(self):
        """What this machine writes to the disks shall be seen."""
        self.run("for disk in /dev/vd?; do blockdev --flushbufs $disk; done; echo 3 > /proc/sys/vm/drop_caches")

    def status(self):
        found = self.vm.try_run("drbdsetup status --json --verbose --statistics r0")
        return json.loads(found.stdout)[0] if found.returncode == 0 and found.stdout.strip() else None

    def connection(self):
        status = self.status()
        return status["connections"][0] if status and status["connections"] else {}

    def connection_state(self):
        return self.connection().get("connection-state")

    def role(self):
        return self.status()["role"]

    def disk_state(self):
        return self.status()["devices"][0]["disk-state"]

    def peer_device(self):
        return self.connection()["peer_devices"][0]

    def out_of_sync(self):
        return self.peer_device()["out-of-sync"] * 1024

    def size(self):
        return int(self.run("cat /sys/block/drbd0/size")) * 512  # a Secondary cannot be opened

    def in_sync(self):
        status = self.status()
        if not status or not status["connections"]:
            return False
        connection = status["connections"][0]
        peer = connection["peer_devices"][0]
        return (connection["connection-state"] == "Connected" and peer["replication-state"] == "Established"
                and status["devices"][0]["disk-state"] == "UpToDate" and peer["peer-disk-state"] == "UpToDate"
                and peer["out-of-sync"] == 0)

    def wait_state(self, *states, timeout=60):
        return wait_until(lambda: self.connection_state() in states, f"the kernel's connection is {states}",
                          timeout, 0.2)

    def take_away(self):
        """Nothing of the resource is left, whatever state it is in."""
        self.vm.run("drbdsetup status r0 >/dev/null 2>&1 || exit 0\n"
                    "pkill fio; for at in $(awk '$1 ~ /^.dev.drbd/ {print $2}' /proc/mounts); do umount -l $at; done\n"
                    "drbdsetup down r0 || { drbdsetup secondary --force r0; drbdsetup down r0; }")
