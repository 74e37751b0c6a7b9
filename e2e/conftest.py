"""Fixtures: everything they make is taken away again, also when a test fails."""

import os

import pytest
from harness.cluster import Cluster
from harness.leftovers import DIRECTORY, make_workdir, remove_leftovers
from harness.network import make_pair
from harness.node import UMBLOCKD, UMCTL, Node, tear_down_all
from harness.shell import Cleanup


def pytest_configure(config):
    config.addinivalue_line("markers", "kernel9: needs the modules of a kernel's DRBD 9 (e2e/kernel)")


@pytest.fixture(scope="session", autouse=True)
def machine():
    """Root, the release build, nothing left of an earlier run."""
    if os.geteuid() != 0:
        pytest.skip("end-to-end tests need root (namespaces, loop devices, mounts)")
    for program in [UMBLOCKD, UMCTL]:
        assert program.exists(), f"{program} is not there: run make"
    remove_leftovers(DIRECTORY)


def make_cluster(cleanup, workdir):
    """Two running nodes without resources."""
    spaces = make_pair(cleanup)
    nodes = [Node("alpha", 0, spaces[0], workdir / "a"), Node("beta", 1, spaces[1], workdir / "b")]
    cleanup.add(tear_down_all, nodes)
    cluster = Cluster(nodes, cleanup, workdir)
    cluster.start()
    return cluster


@pytest.fixture
def cleanup():
    undo = Cleanup()
    yield undo
    undo.run()


@pytest.fixture
def workdir(cleanup):
    return make_workdir(cleanup)


@pytest.fixture
def cluster(cleanup, workdir):
    return make_cluster(cleanup, workdir)


@pytest.fixture(scope="module")
def shared_cluster():
    """For tests that leave nothing behind: starting nodes takes a second."""
    undo = Cleanup()
    yield make_cluster(undo, make_workdir(undo))
    undo.run()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what the daemons said."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        cluster = item.funcargs.get("cluster") or item.funcargs.get("shared_cluster")
        for node in cluster.nodes if cluster else []:
            if node.log.exists():
                report.sections.append((f"umblockd on {node.name}", node.log_tail()))
