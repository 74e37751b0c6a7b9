"""Network namespaces: one per node with a veth pair between them, or one with a bridge for VMs."""

import itertools
import os
import re

from .leftovers import PREFIX
from .shell import output, run

pairs = itertools.count()


class Namespace:
    def __init__(self, name, address, interface):
        self.name = name
        self.address = address      # of this node on the link
        self.interface = interface  # the link's end in this namespace

    def command(self, *command):
        """The command line that runs `command` in here. nsenter, unlike `ip netns exec`, leaves the
        mount namespace alone: FUSE mounts are to be seen outside."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *[str(part) for part in command]]

    def cut(self):
        run("ip", "-n", self.name, "link", "set", self.interface, "down")

    def mend(self):
        run("ip", "-n", self.name, "link", "set", self.interface, "up")

    def received_bytes_on_port(self, port):
        """Payload that arrived on TCP connections of `port` which are open now."""
        text = output(*self.command("ss", "-tinOH", f"( sport = :{port} or dport = :{port} )"))
        return sum(int(number) for number in re.findall(r"bytes_received:(\d+)", text))


def make_pair(cleanup):
    """Two namespaces that reach each other: 10.77.0.1 and 10.77.0.2."""
    pair = next(pairs)
    names = [f"{PREFIX}{os.getpid()}-{pair}-{side}" for side in "ab"]
    spaces = []
    for index, name in enumerate(names):
        run("ip", "netns", "add", name)
        cleanup.add(run, "ip", "netns", "del", name)
        spaces.append(Namespace(name, f"10.77.0.{index + 1}", "link0"))
    run("ip", "link", "add", "link0", "netns", names[0], "type", "veth",
        "peer", "name", "link0", "netns", names[1])
    for space in spaces:
        run("ip", "-n", space.name, "link", "set", "lo", "up")
        run("ip", "-n", space.name, "addr", "add", f"{space.address}/24", "dev", "link0")
        run("ip", "-n", space.name, "link", "set", "link0", "up")
    return spaces


def make_bridge(cleanup, count):
    """A namespace with the address 10.78.0.1 and `count` taps for VMs; cutting
    it takes the first VM's cable away. Returns it and the taps' names."""
    name = f"{PREFIX}{os.getpid()}-{next(pairs)}-vm"
    taps = [f"tap{index}" for index in range(count)]
    run("ip", "netns", "add", name)
    cleanup.add(run, "ip", "netns", "del", name)
    run("ip", "-n", name, "link", "set", "lo", "up")
    run("ip", "-n", name, "link", "add", "vms", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
    run("ip", "-n", name, "addr", "add", "10.78.0.1/24", "dev", "vms")
    run("ip", "-n", name, "link", "set", "vms", "up")
    for tap in taps:
        run("ip", "-n", name, "tuntap", "add", tap, "mode", "tap")
        run("ip", "-n", name, "link", "set", tap, "master", "vms", "up")
    return Namespace(name, "10.78.0.1", taps[0]), taps
