#!/usr/bin/env python3
"""Runs libiscsi's conformance suite (Debian: libiscsi-bin) test by test against a target.

    conformance.py --ramdisk BUILD/engine/iscsi/tools/iscsi_ramdisk [--only REGEX] [--update]
    conformance.py --url iscsi://host:port/iqn/lun [--url2 URL]

With --ramdisk it starts the target itself, once per expected block size. Each test gets its own
process and time limit. The suite itself counts a test that skipped its work as passed; here that
is 'skip', with the reason that was printed. Results are compared with conformance.expected beside
this file; a test that was better there fails this run, one that is better now asks for --update.

Results: pass, skip, fail, hang (time limit), abort (the suite gave up before the test ran).
"""

import argparse
import collections
import pathlib
import re
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
EXPECTED = HERE / "conformance.expected"
TOOL = "iscsi-test-cu"
FAMILY = "ALL"
# Best first. A change to the right is a regression.
RANK = {"pass": 0, "skip": 1, "fail": 2, "abort": 3, "hang": 4}


class Ramdisk:
    """A target of our own with one LUN on a sparse file, so that it can unmap."""

    def __init__(self, program, block_size):
        self.directory = tempfile.TemporaryDirectory(prefix="umblock-conformance-")
        lun = f"file:{self.directory.name}/disk:256:{block_size}"
        self.process = subprocess.Popen(
            [program, "--lun", lun], stdout=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline()
        match = re.match(r"listening on (\S+)", line)
        if not match:
            raise SystemExit(f"{program} did not start: {line!r}")
        self.url = f"iscsi://{match.group(1)}/iqn.2026-01.io.umblock:ramdisk/0"

    def close(self):
        """Ends the target; its exit code says whether it was healthy."""
        self.process.terminate()
        try:
            code = self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = "hang at shutdown"
        self.directory.cleanup()
        return code


def list_tests():
    out = subprocess.run([TOOL, "-l"], capture_output=True, text=True, check=True).stdout
    names = [word for word in out.split() if word.startswith(FAMILY + ".")]
    return [name for name in names if name.count(".") == 2]


def judge(text, timed_out):
    """(result, reason) of one test from what the tool printed."""
    if timed_out:
        return "hang", "no end within the time limit"
    summary = re.search(r"^\s+tests\s+\d+\s+(\d+)\s+(\d+)\s+(\d+)", text, re.M)
    if not summary:
        last = text.strip().splitlines()[-1:] or ["no output"]
        return "abort", last[0].strip()
    body = text.partition("Test: ")[2] or text
    if int(summary.group(3)) != 0:
        match = re.search(r"\[FAILED\][^\n]*", body) or re.search(r"^\s*\d+\. \S+:\d+[^\n]*", body, re.M)
        return "fail", match.group(0).strip() if match else "an assertion failed"
    skipped = re.search(r"\[SKIPPED\]\s*([^\n]*)", body)
    if skipped:
        return "skip", skipped.group(1).strip()
    return "pass", ""


def run_test(name, urls, timeout):
    command = [TOOL, "-d", "-V", "-t", name, *urls]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout
        )
        return judge(done.stdout.decode(errors="replace"), False)
    except subprocess.TimeoutExpired:
        return judge("", True)


def load_expected():
    expected = {}
    if EXPECTED.exists():
        for line in EXPECTED.read_text().splitlines():
            if line and not line.startswith("#"):
                size, name, result, *reason = line.split("\t")
                expected[(size, name)] = (result, reason[0] if reason else "")
    return expected


def save_expected(results):
    lines = ["# block size, test, result, reason; written by conformance.py --update"]
    for (size, name), (result, reason) in results.items():
        lines.append("\t".join([size, name, result, reason]).rstrip())
    EXPECTED.write_text("\n".join(lines) + "\n")


def run_all(options):
    results = collections.OrderedDict()
    tests = [t for t in list_tests() if not options.only or re.search(options.only, t)]
    if options.url:
        targets = [("any", None)]
    else:
        targets = [(size, size) for size in options.block_sizes.split(",")]
    healthy = True
    for label, size in targets:
        ramdisk = Ramdisk(options.ramdisk, size) if size else None
        urls = [ramdisk.url, ramdisk.url] if ramdisk else [u for u in (options.url, options.url2) if u]
        for name in tests:
            begin = time.monotonic()
            result, reason = run_test(name, urls, options.timeout)
            results[(label, name)] = (result, reason)
            if options.verbose or result not in ("pass", "skip"):
                spent = time.monotonic() - begin
                print(f"{label:>5} {name:45} {result:6} {spent:6.2f}s {reason}", flush=True)
            if ramdisk and ramdisk.process.poll() is not None:
                print(f"the target died during {name}", flush=True)
                healthy = False
                ramdisk.close()
                ramdisk = Ramdisk(options.ramdisk, size)
                urls = [ramdisk.url, ramdisk.url]
        if ramdisk:
            code = ramdisk.close()
            if code != 0:
                print(f"the target ended with {code}", flush=True)
                healthy = False
    return results, healthy


def compare(results, expected):
    """Prints what changed; returns the number of regressions."""
    regressions = 0
    for key, (result, reason) in results.items():
        before = expected.get(key)
        if before is None:
            if result not in ("pass", "skip"):
                regressions += 1
                print(f"NEW AND NOT GOOD {key[0]} {key[1]}: {result} {reason}")
        elif RANK[result] > RANK[before[0]]:
            regressions += 1
            print(f"REGRESSION {key[0]} {key[1]}: was {before[0]}, is {result}: {reason}")
        elif RANK[result] < RANK[before[0]]:
            print(f"better {key[0]} {key[1]}: was {before[0]}, is {result}; record with --update")
    return regressions


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ramdisk", help="iscsi_ramdisk to start")
    parser.add_argument("--block-sizes", default="512,4096", help="with --ramdisk")
    parser.add_argument("--url", help="a target that runs already")
    parser.add_argument("--url2", help="a second path to the same LUN")
    parser.add_argument("--only", help="regular expression on ALL.Suite.Test")
    parser.add_argument("--timeout", type=float, default=150, help="seconds per test")
    parser.add_argument("--update", action="store_true", help="record the results as expected")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    if bool(options.ramdisk) == bool(options.url):
        parser.error("one of --ramdisk and --url")
    results, healthy = run_all(options)
    count = collections.Counter(result for result, _ in results.values())
    print("total:", ", ".join(f"{n} {result}" for result, n in sorted(count.items())))
    if options.update:
        merged = load_expected()
        merged.update(results)
        save_expected(merged)
        return 0 if healthy else 1
    regressions = 0 if options.url else compare(results, load_expected())
    return 0 if healthy and regressions == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
