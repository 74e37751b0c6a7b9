"""Two nodes and what the tests do with them, in the words of umctl."""

import pathlib

from .loop import FileSystem
from .node import MIB
from .shell import wait_until

PORT = 7789


class Cluster:
    """Nodes a and b in two namespaces. `resource()` makes one replicated volume on both."""

    def __init__(self, nodes, cleanup, directory):
        self.a, self.b = nodes
        self.nodes = nodes
        self.cleanup = cleanup
        self.directory = pathlib.Path(directory)

    def start(self):
        for node in self.nodes:
            node.start()

    def peer_of(self, node):
        return self.b if node is self.a else self.a

    # -- making things ----------------------------------------------------------------------------

    def make_disk(self, node, name, size, where=None):
        path = (where or node.disks) / f"{name}.img"
        node.umctl("backend", "create", name, "--path", path, "--size", size, "--create")
        return path

    def resource(self, name="r0", size=256 * MIB, connect=True, skip_sync=True, where=None,
                 disk=(), net=()):
        """One volume on both nodes, empty and in sync, exported on both as NAME-0. `where` gives
        the directory of each node's disk, `disk` and `net` are options of umctl."""
        for node in self.nodes:
            peer = self.peer_of(node)
            self.make_disk(node, f"{name}-disk", size, where and where[node])
            node.umctl("resource", "create", name, "--node-id", node.node_id)
            node.umctl("volume", "create", f"{name}/0", *disk)
            node.umctl("metadata", "create", f"{name}/0", "--backend", f"{name}-disk")
            node.umctl("volume", "attach", f"{name}/0", "--backend", f"{name}-disk")
            node.umctl("connection", "create", f"{name}/{peer.node_id}", "--peer-name", peer.name, "--path", f"{node.namespace.address}:{PORT}",
                       f"{peer.namespace.address}:{PORT}", *net)
            node.umctl("export", "create", f"{name}-0", "--volume", f"{name}/0")
        if connect:
            self.connect(name)
            if skip_sync:
                self.a.umctl("volume", "new-current-uuid", f"{name}/0", "--clear-bitmap")
                self.wait_in_sync(name)
        return name

    def connect(self, name="r0"):
        for node in self.nodes:
            node.umctl("connection", "connect", f"{name}/{self.peer_of(node).node_id}")
        self.wait_connected(name)

    def disconnect(self, name="r0"):
        self.a.umctl("connection", "disconnect", f"{name}/{self.b.node_id}")

    # -- looking ----------------------------------------------------------------------------------

    def connection(self, node, name="r0"):
        for connection in node.json("resource", "show", name)["connections"]:
            return connection
        return {}

    def volume(self, node, name="r0"):
        return node.json("resource", "show", name)["volumes"][0]

    def role(self, node, name="r0"):
        return node.json("resource", "show", name)["status"]["role"]

    def out_of_sync(self, node, name="r0"):
        return int(self.connection(node, name)["volumes"][0].get("outOfSyncBytes", 0))

    def received(self, node, name="r0"):
        return int(self.connection(node, name)["volumes"][0].get("receivedBytes", 0))

    def wait_connected(self, name="r0", timeout=60):
        for node in self.nodes:
            wait_until(lambda node=node: self.connection(node, name)["status"].get("state") == "Connected",
                       f"{node.name}: {name} is connected", timeout)

    def wait_in_sync(self, name="r0", timeout=120):
        """Connected, both disks UpToDate on both nodes, nothing out of sync."""
        def in_sync(node):
            connection = self.connection(node, name)
            volumes = connection.get("volumes", [])
            return (connection["status"].get("state") == "Connected" and volumes
                    and self.volume(node, name)["status"].get("disk") == "UpToDate"
                    and volumes[0].get("peerDisk") == "UpToDate"
                    and volumes[0].get("replication") == "Established"
                    and int(volumes[0].get("outOfSyncBytes", 0)) == 0)
        for node in self.nodes:
            wait_until(lambda node=node: in_sync(node), f"{node.name}: {name} is in sync", timeout)

    # -- doing ------------------------------------------------------------------------------------

    def promote(self, node, name="r0", *flags):
        node.umctl("resource", "promote", name, *flags)

    def demote(self, node, name="r0"):
        node.umctl("resource", "demote", name)

    def file_system(self, node, name="r0"):
        """The file system on the exported volume, mounted at one place whichever node it is on."""
        file_system = FileSystem(node.exports / f"{name}-0", self.directory / "mnt")
        self.cleanup.add(file_system.tear_down)
        return file_system

    def disk(self, node, name="r0"):
        return node.disks / f"{name}-disk.img"

    def data_areas(self, name="r0"):
        """What each node's disk holds where the volume's data is (metadata is behind it)."""
        contents = []
        for node in self.nodes:
            size = int(self.volume(node, name)["status"]["sizeBytes"])
            with open(self.disk(node, name), "rb") as disk:
                contents.append(disk.read(size))
        return contents
