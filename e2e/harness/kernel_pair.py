"""umblock and a kernel's DRBD as the two nodes of one resource, r0 with one volume."""

import base64
import os
import pathlib
import re
import time

from .kernel_node import PORT, SMALL
from .load import KernelLoad, UmblockLoad
from .loop import FileSystem
from .node import MIB, Node
from .shell import run, wait_until

NAME = "r0"
# A VM without hardware support may be slow to answer.
PATIENT = ["--ping-timeout", "5s", "--connect-int", "1s", "--socket-check-timeout", "300ms"]


def overwrite(path, source):
    """In place: a VM has it open."""
    with open(source, "rb") as data, open(path, "r+b") as target:
        while block := data.read(1 << 20):
            target.write(block)


def data_extents(file, size):
    """Where a sparse file has data: begins and ends."""
    at = 0
    while at < size:
        try:
            at = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
        yield at, min(end, size)
        at = end


def differing_blocks(path, other_path, size):
    """Offsets of the blocks of 4 KiB that are not equal. Holes are read only where the other has data."""
    differing = set()
    with open(path, "rb", buffering=0) as one, open(other_path, "rb", buffering=0) as other:
        for begin, end in [*data_extents(one, size), *data_extents(other, size)]:
            for at in range(begin, end, 1 << 20):
                length = min(1 << 20, end - at)
                data, theirs = os.pread(one.fileno(), length, at), os.pread(other.fileno(), length, at)
                if data != theirs:
                    differing |= {at + block for block in range(0, length, 4096)
                                  if data[block:block + 4096] != theirs[block:block + 4096]}
    return sorted(differing)


class KernelPair:
    def __init__(self, node, kernel, cleanup, directory):
        self.u = node
        self.k = kernel
        self.cleanup = cleanup
        self.directory = pathlib.Path(directory)
        self.failed = False
        self.u_said = ""  # umblockd's log, when the test is over
        self.allowed = []
        self.expected = []  # patterns of complaints that the kernel has to make

    def other(self, who):
        return "k" if who == "u" else "u"

    def expect_complaint(self, pattern):
        self.expected.append(re.compile(pattern))

    def may_complain(self, *patterns):
        """Of what this test does to it: depending on when, it says so or not."""
        self.allowed += [re.compile(pattern) for pattern in patterns]

    # -- making -----------------------------------------------------------------------------------

    def resource(self, protocol="C", size=SMALL, secret=None, sync=None, connect=True, external=False,
                 kernel_net=None, kernel_disk=None, net=(), disk=(), max_peers=1, umblock_size=None,
                 rate=400000, kernel_options=None):
        """The resource on both nodes, fresh. `sync`: the node ("u" or "k") that skips the first sync, or
        None. `size` is SMALL or LARGE, that of both disks."""
        kernel_net = {"protocol": protocol, **(kernel_net or {})}
        net = ["--protocol", protocol, *PATIENT, "--c-plan-ahead", "0",
               "--resync-rate", rate, *net]
        if secret:
            kernel_net |= {"cram-hmac-alg": "sha256", "shared-secret": f'"{secret}"'}
            path = self.directory / "secret"
            path.write_text(secret + "\n")
            net += ["--shared-secret-file", path]
        self.parameters = (size, kernel_net, external)
        self.k.configure(self.u, size, kernel_net, kernel_disk, kernel_options, external)
        self.k.create_metadata(max_peers)
        self.k.drbdadm("up", NAME)
        self.configure_umblock(umblock_size or size, net, disk, external, max_peers=max_peers)
        if connect:
            self.connect_umblock()
            self.wait_connected()
            if sync:
                self.skip_sync(sync)

    def configure_umblock(self, size, net=(), disk=(), external=False, create=True,
                          max_peers=1):
        metadata = []
        self.make_backend("data", size)
        if external:
            self.make_backend("metadata", 16 * MIB)
            metadata = ["--metadata-backend", "metadata"]
        self.u.umctl("resource", "create", NAME, "--node-id", self.u.node_id)
        self.u.umctl("volume", "create", f"{NAME}/0", *disk)
        if create:
            self.u.umctl("metadata", "create", f"{NAME}/0", "--backend", "data", "--max-peers", max_peers,
                         *metadata)
        self.u.umctl("volume", "attach", f"{NAME}/0", "--backend", "data", *metadata)
        self.u.umctl("connection", "create", f"{NAME}/{self.k.node_id}", "--peer-name", self.k.name, "--path",
                     f"{self.u.namespace.address}:{PORT}", f"{self.k.address}:{PORT}", *net)
        self.u.umctl("export", "create", f"{NAME}-0", "--volume", f"{NAME}/0")

    def make_backend(self, name, size):
        self.u.umctl("backend", "create", name, "--path", self.u.disks / f"{name}.img", "--size", size, "--create")

    def skip_sync(self, who):
        if who == "u":
            self.u.umctl("volume", "new-current-uuid", f"{NAME}/0", "--clear-bitmap")
        else:
            self.k.drbdadm("--clear-bitmap", "new-current-uuid", f"{NAME}/0")
        self.wait_in_sync()

    # -- connecting -------------------------------------------------------------------------------

    def connect_umblock(self):
        self.u.umctl("connection", "connect", f"{NAME}/{self.k.node_id}")

    def disconnect_umblock(self):
        self.u.umctl("connection", "disconnect", f"{NAME}/{self.k.node_id}")

    # -- looking ----------------------------------------------------------------------------------

    def shown(self):
        return self.u.json("resource", "show", NAME)

    def connection(self):
        return self.shown()["connections"][0]

    def connection_state(self):
        return self.connection()["status"].get("state")

    def volume(self):
        return self.shown()["volumes"][0]["status"]

    def peer_volume(self):
        return self.connection()["volumes"][0]

    def role(self):
        return self.shown()["status"]["role"]

    def received(self):
        return int(self.peer_volume().get("receivedBytes", 0))

    def out_of_sync(self):
        return int(self.peer_volume().get("outOfSyncBytes", 0))

    def size(self):
        return int(self.volume()["sizeBytes"])

    def wait_connected(self, timeout=90):
        wait_until(lambda: self.connection_state() == "Connected", "umblock is connected", timeout, 0.2)
        self.k.wait_state("Connected", timeout=timeout)

    def in_sync(self):
        connection = self.connection()
        volumes = connection.get("volumes", [])
        return (connection["status"].get("state") == "Connected" and volumes
                and self.volume().get("disk") == "UpToDate" and volumes[0].get("peerDisk") == "UpToDate"
                and volumes[0].get("replication") == "Established"
                and int(volumes[0].get("outOfSyncBytes", 0)) == 0)

    def wait_in_sync(self, timeout=180):
        wait_until(self.in_sync, "umblock is in sync", timeout, 0.2)
        wait_until(self.k.in_sync, "the kernel is in sync", timeout, 0.2)

    # -- doing ------------------------------------------------------------------------------------

    def promote(self, who, force=False):
        if who == "u":
            self.u.umctl("resource", "promote", NAME, *(["--force", "--yes"] if force else []))
        else:
            self.k.drbdadm("primary", *(["--force"] if force else []), NAME)

    def demote(self, who):
        if who == "u":
            self.u.umctl("resource", "demote", NAME)
        else:
            self.k.drbdadm("secondary", NAME)

    @property
    def export(self):
        return self.u.exports / f"{NAME}-0"

    def write(self, who, offset, data):
        """Written and flushed."""
        if who == "u":
            with open(self.export, "r+b", buffering=0) as disk:
                disk.seek(offset)
                assert disk.write(data) == len(data)
                os.fsync(disk.fileno())
        else:
            self.k.run(f"base64 -d > /tmp/data <<'END'\n{base64.encodebytes(data).decode()}END\n"
                       f"dd if=/tmp/data of=/dev/drbd0 bs=4k seek={offset} oflag=seek_bytes conv=fsync,notrunc status=none")

    def read(self, who, offset, length):
        if who == "u":
            with open(self.export, "rb", buffering=0) as disk:
                disk.seek(offset)
                return disk.read(length)
        text = self.k.run(f"dd if=/dev/drbd0 bs=4k skip={offset} count={length} iflag=skip_bytes,count_bytes "
                          "status=none | base64")
        return base64.b64decode(text)

    def load(self, who):
        """Writes, flushes and discards in the background, until its `stop()`."""
        if who == "k":
            return KernelLoad(self.k.vm, self.k.size())
        load = UmblockLoad(self.export, self.size())
        self.cleanup.add(load.process.kill)
        return load

    def load_for(self, who, seconds):
        load = self.load(who)
        time.sleep(seconds)
        load.stop()

    def connect(self):
        """From StandAlone on both sides."""
        self.connect_umblock()
        if self.k.connection_state() == "StandAlone":
            self.k.drbdadm("connect", NAME)

    def disconnect(self, who):
        if who == "u":
            self.disconnect_umblock()
        else:
            # Whoever is told of a disconnect closes at once; it says so when it had more to send.
            self.may_complain("meta connection shut down by peer", "dtt_send_page: .* sent=-32")
            self.k.drbdadm("disconnect", NAME)
        wait_until(lambda: self.connection_state() != "Connected", "umblock is disconnected", 30)

    def exchange_disks(self):
        """Both are down. Each goes on with the other's disk, as the node that the other was."""
        before, old = self.u, self.k.node_id
        self.u = Node(before.name, old, before.namespace, self.directory / "exchanged")
        self.cleanup.add(lambda node=self.u: node.tear_down())
        self.k.node_id = before.node_id
        for name, theirs in [("data", self.k.disk_path), ("metadata", self.k.metadata_path)]:
            ours = before.disks / f"{name}.img"
            if ours.exists():
                run("cp", "--sparse=always", theirs, self.u.disks / f"{name}.img")
                overwrite(theirs, ours)
        self.k.forget_cache()
        self.u.start()
        self.k.configure(self.u, *self.parameters[:2], external=self.parameters[2])
        self.k.drbdadm("up", NAME)
        self.configure_umblock(self.parameters[0], external=self.parameters[2], create=False,
                               net=PATIENT)
        self.connect_umblock()

    def file_system(self):
        file_system = FileSystem(self.export, self.directory / "mnt")
        self.cleanup.add(file_system.tear_down)
        return file_system

    def finish(self):
        """Takes both down and compares all that the disks hold; returns it, if it is much its beginning."""
        self.wait_in_sync()
        size = self.size()
        assert self.k.size() == size
        self.disconnect("u")
        self.k.take_away()
        assert self.u.stop() == 0
        ours = self.u.disks / "data.img"
        self.k.run("sync")
        differing = differing_blocks(ours, self.k.disk_path, size)
        assert not differing, f"{len(differing)} blocks differ, the first at {differing[:10]}"
        with open(ours, "rb") as disk:
            return disk.read(min(size, SMALL))
