"""Scenarios with a kernel's DRBD 9 as the peer. They need a directory with the modules drbd.ko and
drbd_transport_tcp.ko, built for a Debian kernel of this machine's release, in UMBLOCK_KERNEL9_MODULES,
and QEMU; without them they are skipped with that reason."""

import os
import pathlib
import shutil

import pytest
from harness.kernel_node import DISK_SIZES, KernelNode
from harness.kernel_pair import KernelPair
from harness.leftovers import make_workdir
from harness.network import make_bridge
from harness.node import ROOT, Node
from harness.shell import Cleanup, output
from harness.vm import QEMU, Vm
from harness.vm_image import image_for

LOGS = ROOT / "build" / "kernel9"
VARIABLE = "UMBLOCK_KERNEL9_MODULES"


def modules():
    """The directory, or why there is none."""
    directory = os.environ.get(VARIABLE)
    if not directory:
        return None, f"{VARIABLE} does not name a directory with a kernel's DRBD 9 modules"
    for name in ["drbd.ko", "drbd_transport_tcp.ko"]:
        if not (pathlib.Path(directory) / name).exists():
            return None, f"no {name} in {VARIABLE} ({directory})"
    if shutil.which(QEMU) is None:
        return None, f"no {QEMU}"
    return pathlib.Path(directory).resolve(), None


def pytest_collection_modifyitems(items):
    _, reason = modules()
    for item in items:
        if item.path.parent == pathlib.Path(__file__).parent:
            item.add_marker(pytest.mark.kernel9)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def kernel_rig(machine):
    """The namespace and the running VM that all scenarios share."""
    undo = Cleanup()
    try:
        directory, _ = modules()
        workdir = make_workdir(undo)
        version = output("modinfo", "-F", "vermagic", directory / "drbd.ko").split()[0]
        image = image_for(version)
        namespace, taps = make_bridge(undo, 1)
        disks = [workdir / f"kernel-{index}.img" for index in range(len(DISK_SIZES))]
        for disk, size in zip(disks, DISK_SIZES):
            with open(disk, "wb") as file:
                file.truncate(size)
        vm = Vm("kernel", namespace, taps[0], "10.78.0.11", image, workdir / "vm", disks, directory)
        undo.add(vm.tear_down)
        node = KernelNode(vm, 1)
        node.start()
        yield namespace, node, workdir
    finally:
        undo.run()


@pytest.fixture
def pair(kernel_rig, cleanup, workdir):
    """umblock `u` and the kernel `k`, both without a resource. What a test leaves in the kernel's log
    must be allowed."""
    namespace, kernel, _ = kernel_rig
    if not kernel.vm.running:
        kernel.start()
    kernel.node_id = 1
    kernel.take_away()
    kernel.blank_disks()
    kernel.forget_log()
    node = Node("umblock", 0, namespace, workdir / "u")
    cleanup.add(node.tear_down)
    pair = KernelPair(node, kernel, cleanup, workdir)
    node.start()
    yield pair
    pair.u_said = pair.u.log_tail(1000)
    namespace.mend()
    if kernel.vm.running:
        kernel.take_away()
        kernel.collect_log()
    if not pair.failed:
        complaints = kernel.complaints([*pair.expected, *pair.allowed])
        assert not complaints, "the kernel complains:\n" + "\n".join(complaints)
        for pattern in pair.expected:
            assert pattern.search(kernel.log), f"the kernel does not say {pattern.pattern}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """What both sides said in a scenario that failed goes to build/kernel9 at once."""
    outcome = yield
    report = outcome.get_result()
    pair = item.funcargs.get("pair")
    if pair is None or not report.failed:
        return
    if report.when == "call":
        pair.failed = True
        try:
            pair.k.collect_log()
        except Exception as problem:  # noqa: BLE001: the VM may be what failed
            pair.k.log += f"no answer: {problem}\n"
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{item.name}.{report.when}.log"
    log.write_text(f"{report.longreprtext}\n--- umblockd\n{pair.u_said or pair.u.log_tail(1000)}\n--- kernel\n{pair.k.log}")
    report.sections.append(("both sides", f"{log}"))
