"""Fixtures: everything they make is taken away again, also when a test fails."""

import os
import pathlib
import shutil
import tempfile

import pytest
from harness.cluster import Cluster
from harness.network import make_pair, remove_leftovers
from harness.node import UMCTL, UMBLOCKD, Node
from harness.shell import Cleanup


@pytest.fixture(scope="session", autouse=True)
def machine():
    """Root, the release build, nothing left of an earlier run."""
    if os.geteuid() != 0:
        pytest.skip("end-to-end tests need root (namespaces, loop devices, mounts)")
    for program in [UMBLOCKD, UMCTL]:
        assert program.exists(), f"{program} is not there: run make"
    remove_leftovers()


@pytest.fixture
def cleanup():
    undo = Cleanup()
    yield undo
    undo.run()


@pytest.fixture
def workdir(cleanup):
    """A short path: a unix socket's may have 107 bytes."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="umb-", dir=os.environ.get("UMBLOCK_E2E_DIR", "/var/tmp")))
    cleanup.add(shutil.rmtree, directory)
    return directory


@pytest.fixture
def nodes(cleanup, workdir, request):
    """Two nodes that are not started."""
    label = f"{abs(hash(request.node.nodeid)) % 10000:04}"
    made = []
    for index, namespace in enumerate(make_pair(cleanup, label)):
        node = Node("alpha" if index == 0 else "beta", index, namespace, workdir / "ab"[index])
        cleanup.add(node.tear_down)
        made.append(node)
    return made


@pytest.fixture
def cluster(nodes, cleanup, workdir):
    """Two running nodes without resources."""
    made = Cluster(nodes, cleanup, workdir)
    made.start()
    return made


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what the daemons said."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for node in item.funcargs.get("nodes", []):
            if node.log.exists():
                report.sections.append((f"umblockd on {node.name}", node.log_tail()))
