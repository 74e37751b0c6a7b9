#!/usr/bin/python3
"""Runs the stages of CI in order and prints what each took.

    ci/run_stages.py              all stages
    ci/run_stages.py asan e2e     these
    ci/run_stages.py --list       their names

A stage exists only where the parts that it runs exist. A failing stage does not keep the others
from running, except that nothing runs without the build it needs. The last line counts every
GoogleTest case, pytest test, simulator seed, mutant and fuzz target, in each build it ran in.
"""

import argparse
import fnmatch
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from results import FAILED, PASSED, SKIPPED, Results  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
OUT = BUILD / "ci"
JOBS = os.cpu_count() or 2
# Tests that run threads of the runtime and the server.
TSAN_TESTS = ["uring_test", "fuse_test", "server_test", "iscsi_uring_test", "block_remote_test"]
FUZZ_SECONDS = 10
TIDY_FILES = 30
TIME_LIMIT_S = 3600 - 240  # an hour, without the installation of packages
# Tests that count allocations: sanitizers bring their own operator new, and take coroutine frames
# from the heap, so these are not in the asan build.
PLAIN_TESTS = ["frame_pool_test", "uring_alloc_test", "iscsi_alloc_test", "drbd_write_cost_test",
               "memory_lock_test"]
RELEASE_TARGETS = ["umblockd", "umctl", "lossyfs", "iscsi_ramdisk", "umblock_sim_program",
                   "iscsi_load", "backend_load"]
SOURCES = [".cc", ".h"]


class StageFailed(Exception):
    pass


def run(*command, env=None, check=True, **kwargs):
    command = [str(part) for part in command]
    print("+ " + " ".join(command), flush=True)
    result = subprocess.run(command, cwd=ROOT, env={**os.environ, **(env or {})}, **kwargs)
    if check and result.returncode != 0:
        raise StageFailed(f"{command[0]} ended with status {result.returncode}")
    return result


def git(*arguments):
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return result.stdout.splitlines() if result.returncode == 0 else []


def source_files():
    tracked = git("ls-files", "--cached", "--others", "--exclude-standard", "--", *[f"*{s}" for s in SOURCES])
    return sorted(path for path in tracked if (ROOT / path).exists())


def changed_files():
    """Since UMBLOCK_CI_BASE or the branch's start, or, if that is too much, in the last commits; and
    what is not committed."""
    base = os.environ.get("UMBLOCK_CI_BASE")
    if not base:
        for candidate in ["origin/main", "origin/master"]:
            merge_base = git("merge-base", "HEAD", candidate)
            if merge_base and merge_base != git("rev-parse", "HEAD"):
                base = merge_base[0]
                break
    changed = set(git("diff", "--name-only", base)) if base else set()
    if not base or len([path for path in changed if path.endswith(".cc")]) > TIDY_FILES:
        changed = set(git("diff", "--name-only", last_commits()))
    return [path for path in source_files() if path in changed]


def last_commits():
    """The commit before the last ones that touch no more sources than clang-tidy has time for, at
    least one."""
    base = "HEAD~1"
    for commit in git("rev-list", "--first-parent", "--max-count=100", "HEAD~1"):
        touched = [path for path in git("diff", "--name-only", commit) if path.endswith(".cc")]
        if len(touched) > TIDY_FILES:
            break
        base = commit
    return base


class Ci:
    def __init__(self):
        self.results = Results()

    # -- build and GoogleTest -------------------------------------------------------------------

    def build(self, preset, targets=()):
        run("cmake", "--preset", preset)
        run("cmake", "--build", BUILD / preset, "--", *(targets or ["all"]))

    def tests_of(self, preset):
        listing = subprocess.run(["ctest", "--test-dir", str(BUILD / preset), "--show-only=json-v1"],
                                 capture_output=True, text=True, check=True)
        return [test["name"] for test in json.loads(listing.stdout)["tests"]]

    def ctest(self, stage, preset, tests):
        directory = OUT / "gtest" / stage
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        expression = "^(" + "|".join(re.escape(test) for test in tests) + ")$"
        junit = OUT / f"ctest-{stage}.xml"
        ended = run("ctest", "--test-dir", BUILD / preset, "-j", JOBS, "--output-on-failure",
                    "--output-junit", junit, "-R", expression,
                    env={"GTEST_OUTPUT": f"xml:{directory}/",
                         "ASAN_OPTIONS": "detect_stack_use_after_return=0",
                         "TSAN_OPTIONS": "second_deadlock_stack=1"}, check=False)
        self.results.read_gtest(stage, directory)
        # One that crashed leaves no XML, one that is no GoogleTest writes none.
        written = {path.stem for path in directory.glob("*.xml")}
        for case in ElementTree.parse(junit).getroot().iter("testcase"):
            if case.get("name") not in written:
                passed = case.get("status") == "run"
                name = re.sub(r"^fuzz\.", "fuzz:", case.get("name"))
                self.results.add(stage, name, PASSED if passed else FAILED,
                                 "" if passed else "ended without a result (crash or timeout)")
        if not tests:
            raise StageFailed("no test ran")
        if ended.returncode != 0:
            raise StageFailed("tests failed")

    def pytest(self, stage, *arguments):
        junit = OUT / f"pytest-{stage}.xml"
        junit.unlink(missing_ok=True)
        ended = run(sys.executable, "-m", "pytest", "-q", "-rfEs", f"--junitxml={junit}", *arguments,
                    check=False)
        if not junit.exists() or self.results.read_pytest(stage, junit) == 0:
            raise StageFailed("no test ran")
        if ended.returncode != 0:
            raise StageFailed("tests failed")

    # -- stages ---------------------------------------------------------------------------------

    def format(self):
        files = source_files()
        run("clang-format-19", "--dry-run", "-Werror", *files)
        print(f"{len(files)} files are formatted")

    def asan(self):
        run("cmake", "--preset", "asan", f"-DUMBLOCK_FUZZ_SECONDS={FUZZ_SECONDS}")
        self.build("asan")
        self.ctest("asan", "asan", [test for test in self.tests_of("asan") if not test.startswith("fuzz.")])

    def tidy(self):
        """After asan: clang-tidy reads generated headers and the compilation database."""
        database = json.loads((BUILD / "asan" / "compile_commands.json").read_text())
        known = {str(pathlib.Path(entry["file"])) for entry in database}
        files = [path for path in changed_files() if path.endswith(".cc") and str(ROOT / path) in known]
        print(f"{len(files)} changed files")
        if not files:
            return
        command = ["xargs", "-P", str(JOBS), "-n", "1", "clang-tidy-19", "-p", str(BUILD / "asan"), "--quiet"]
        ended = subprocess.run(command, cwd=ROOT, input="\n".join(files), text=True)
        if ended.returncode != 0:
            raise StageFailed("clang-tidy has complaints")

    def release(self):
        """What runs end to end, and the tests that asan cannot run."""
        run("cmake", "--preset", "release")
        listing = subprocess.run(["ninja", "-C", str(BUILD / "release"), "-t", "targets", "all"],
                                 capture_output=True, text=True, check=True).stdout
        known = {line.split(":")[0] for line in listing.splitlines()}
        targets = [target for target in RELEASE_TARGETS if target in known] + PLAIN_TESTS
        run("cmake", "--build", BUILD / "release", "--", *targets)
        self.ctest("release", "release", PLAIN_TESTS)

    def e2e(self):
        self.pytest("e2e", "e2e", "--ignore=e2e/containers", "--ignore=e2e/kernel")

    def kernel9(self):
        """Skipped, with permission, unless UMBLOCK_KERNEL9_MODULES is set."""
        self.pytest("kernel9", "e2e/kernel")

    def iscsi(self):
        """libiscsi's suite. What is known not to pass (conformance.expected) counts as skipped."""
        program = BUILD / "release" / "engine" / "iscsi" / "tools" / "iscsi_ramdisk"
        ended = run(sys.executable, ROOT / "e2e" / "iscsi" / "conformance.py", "--verbose", "--ramdisk",
                    program, check=False, stdout=subprocess.PIPE, text=True)
        print(ended.stdout, flush=True)
        regressions = set(re.findall(r"^(?:REGRESSION|NEW AND NOT GOOD) (\S+ [^\s:]+)", ended.stdout, re.M))
        line = re.compile(r"^ *(\S+) (ALL\.\S+) +(pass|skip|fail|abort|hang) +\S+s ?(.*)$", re.M)
        for size, name, result, reason in line.findall(ended.stdout):
            outcome = {"pass": PASSED}.get(result, SKIPPED)
            if f"{size} {name}" in regressions:
                outcome = FAILED
            self.results.add("iscsi", f"iscsi:{name}/{size}", outcome, f"{result} {reason}")
        if ended.returncode != 0:
            raise StageFailed("see above")

    def tsan(self):
        run("cmake", "--preset", "tsan")
        tests = [test for test in self.tests_of("tsan") if test in TSAN_TESTS]
        self.build("tsan", tests)
        self.ctest("tsan", "tsan", tests)

    def fuzz(self):
        self.ctest("fuzz", "asan", [test for test in self.tests_of("asan") if test.startswith("fuzz.")])

    def tool(self, stage, command):
        """Runs a tool of the project that writes its results, a JSON list of name, outcome and
        message, to the file named by its last argument."""
        report = OUT / f"{stage}.json"
        report.unlink(missing_ok=True)
        ended = run(*command, report, check=False)
        entries = json.loads(report.read_text()) if report.exists() else []
        for entry in entries:
            self.results.add(stage, entry["name"], entry["outcome"], entry.get("message", ""))
        if not entries:
            raise StageFailed("no result")
        if ended.returncode != 0 or any(entry["outcome"] == FAILED for entry in entries):
            raise StageFailed("see above")

    def simulator(self):
        self.tool("simulator", [ROOT / "ci" / "simulator", BUILD / "release"])

    def mutants(self):
        self.tool("mutants", [ROOT / "ci" / "mutants" / "run"])

    def containers(self):
        """With both implementations of compose."""
        run(ROOT / "ci" / "fetch_compose_v2.sh", BUILD / "compose-v2")
        os.environ["DOCKER_CONFIG"] = str(BUILD / "compose-v2")
        self.pytest("containers", "e2e/containers")

    def traceability(self):
        self.results.save(OUT / "results.json")
        run(sys.executable, ROOT / "ci" / "check_traceability.py", OUT / "results.json")



# Name, minutes it should take on two cores with a cold ccache, what must be there, what it needs.
STAGES = [
    ("format", 1, None, None),
    ("asan", 16, None, None),
    ("tidy", 3, None, "asan"),
    ("release", 7, None, None),
    ("e2e", 8, "e2e/conftest.py", "release"),
    ("kernel9", 20, "e2e/kernel/conftest.py", "release"),
    ("iscsi", 3, "e2e/iscsi/conformance.py", "release"),
    ("tsan", 4, None, None),
    ("fuzz", 2, "fuzz/*.cc", "asan"),
    ("simulator", 5, "ci/simulator", "release"),
    ("mutants", 5, "ci/mutants/run", "release"),
    ("containers", 8, "docker/Dockerfile", "release"),
    ("traceability", 1, "docs/traceability.md", None),
]


def pending_stages():
    """Stages that are written but cannot pass yet, with the reason; what they prove is open."""
    path = ROOT / "ci" / "pending_stages.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    pending = dict(line.split(": ", 1) for line in lines if line.strip() and not line.startswith("#"))
    for name, reason in pending.items():
        print(f"pending: {name}: {reason}", file=sys.stderr)
    return pending


def judge_skips(results):
    allowed = []
    for line in (ROOT / "ci" / "allowed_skips.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            allowed.append(line.rsplit(": ", 1)[0].strip())
    bad = [entry for entry in results.of(SKIPPED)
           if not any(fnmatch.fnmatchcase(entry["name"], pattern) for pattern in allowed)]
    for entry in bad:
        print(f'skipped without permission (ci/allowed_skips.txt): {entry["stage"]}: {entry["name"]}'
              f': {entry["message"]}')
    return not bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    pending = pending_stages()
    present = [stage for stage in STAGES
               if stage[0] not in pending and (stage[2] is None or any(ROOT.glob(stage[2])))]
    names = [stage[0] for stage in present]
    if arguments.list:
        print("\n".join(names))
        return 0
    unknown = set(arguments.stages) - set(names)
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    selected = [stage for stage in present if not arguments.stages or stage[0] in arguments.stages]
    OUT.mkdir(parents=True, exist_ok=True)
    # Clones of the project in different places share what they compiled.
    os.environ.setdefault("CCACHE_BASEDIR", str(ROOT))
    os.environ.setdefault("CCACHE_NOHASHDIR", "1")

    ci = Ci()
    failed = []
    times = []
    begun = time.monotonic()
    for name, minutes, _, needs in selected:
        if needs in failed:
            print(f"=== {name}: not run, {needs} failed", flush=True)
            failed.append(name)
            continue
        print(f"=== {name}", flush=True)
        start = time.monotonic()
        if name == "traceability" and not arguments.stages:
            in_time = start - begun < TIME_LIMIT_S
            ci.results.add("stage", "stage:within-an-hour", PASSED if in_time else FAILED)
            if not in_time:
                failed.append("within-an-hour")
        try:
            if name == "traceability" and arguments.stages:
                ci.results = Results.load(OUT / "results.json")
            getattr(ci, name)()
            outcome = "ok"
        except (StageFailed, subprocess.CalledProcessError, OSError) as error:
            outcome = f"FAILED ({error})"
            failed.append(name)
        took = time.monotonic() - start
        times.append(f"{name:<13} {took:6.0f} s of {minutes * 60:4} s  {outcome}")
        if not (name == "traceability" and arguments.stages):
            ci.results.add("stage", f"stage:{name}", PASSED if outcome == "ok" else FAILED)
        print(f"=== {times[-1]}", flush=True)
    for entry in ci.results.of(FAILED):
        print(f'failed: {entry["stage"]}: {entry["name"]}: {entry["message"].splitlines()[:1]}')
    skips_allowed = judge_skips(ci.results)
    print("\n".join(times))
    print(f"total         {time.monotonic() - begun:6.0f} s")
    # Stages are not tests: they are not counted.
    counted = Results()
    counted.entries = [entry for entry in ci.results.entries if entry["stage"] != "stage"]
    print(f"{counted.count(PASSED)} passed, {counted.count(FAILED)} failed, "
          f"{counted.count(SKIPPED)} skipped", flush=True)
    return 0 if not failed and skips_allowed and counted.count(FAILED) == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
