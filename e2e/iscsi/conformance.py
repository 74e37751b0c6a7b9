#!/usr/bin/env python3
"""Runs libiscsi's conformance suite (Debian: libiscsi-bin) test by test against a target.

    conformance.py --ramdisk BUILD/engine/iscsi/tools/iscsi_ramdisk [--only REGEX] [--update]
    conformance.py --url iscsi://host:port/iqn/lun [--url2 URL]

With --ramdisk it starts the target itself, once per expected block size. Each test gets its own
process and time limit. The suite itself counts a test that skipped its work as passed; here that
is 'skip', with the reason that was printed. Results are compared with conformance.expected beside
this file; a test that was better there, or that did not run, fails this run; one that is better now
asks for --update. Where the machine gave target or suite too little CPU (a time limit passed, theirs or
ours) the test has a second attempt at the end, with nothing else of this run beside it.

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
BLOCK_SIZES = "512,4096"
# Best first. A change to the right is a regression.
RANK = {"pass": 0, "skip": 1, "fail": 2, "abort": 3, "hang": 4}
# What the suite prints when the time limit of one of its commands or logins has passed.
TIMED_OUT = re.compile(r"time(d)?[ -]?out|SCSI_STATUS_TIMEOUT", re.I)
# More than a few late tests are no accident.
SECOND_ATTEMPTS = 6


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


class Outcome:
    """What came of one test, and whether a time limit had a part in it."""

    def __init__(self, result, reason, late=False):
        self.result = result
        self.reason = reason
        self.late = late

    def worse_than(self, before):
        return RANK[self.result] > RANK[before.result]


def judge(text):
    """The outcome of one test from what the tool printed."""
    late = TIMED_OUT.search(text) is not None
    summary = re.search(r"^\s+tests\s+\d+\s+(\d+)\s+(\d+)\s+(\d+)", text, re.M)
    if not summary:
        last = text.strip().splitlines()[-1:] or ["no output"]
        return Outcome("abort", last[0].strip(), late)
    body = text.partition("Test: ")[2] or text
    if int(summary.group(3)) != 0:
        match = re.search(r"\[FAILED\][^\n]*", body) or re.search(r"^\s*\d+\. \S+:\d+[^\n]*", body, re.M)
        return Outcome("fail", match.group(0).strip() if match else "an assertion failed", late)
    skipped = re.search(r"\[SKIPPED\]\s*([^\n]*)", body)
    if skipped:
        return Outcome("skip", skipped.group(1).strip())
    return Outcome("pass", "")


def run_test(name, urls, timeout):
    command = [TOOL, "-d", "-V", "-t", name, *urls]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout
        )
        return judge(done.stdout.decode(errors="replace"))
    except subprocess.TimeoutExpired:
        return Outcome("hang", "no end within the time limit", late=True)


def load_expected():
    """What is expected, by block size and test."""
    expected = {}
    if EXPECTED.exists():
        for line in EXPECTED.read_text().splitlines():
            if line and not line.startswith("#"):
                size, name, result, *reason = line.split("\t")
                expected[(size, name)] = Outcome(result, reason[0] if reason else "")
    return expected


def save_expected(results):
    lines = ["# block size, test, result, reason; written by conformance.py --update"]
    for (size, name), outcome in results.items():
        lines.append("\t".join([size, name, outcome.result, outcome.reason]).rstrip())
    EXPECTED.write_text("\n".join(lines) + "\n")


class Run:
    """One run over all tests and block sizes."""

    def __init__(self, options):
        self.options = options
        self.results = {}  # Outcome by block size and test
        self.healthy = True
        self.spent = 0.0  # seconds, by the last test
        self.ramdisk = None
        self.urls = [url for url in (options.url, options.url2) if url]

    def all(self, expected):
        tests = [test for test in list_tests() if not self.options.only or re.search(self.options.only, test)]
        sizes = ["any"] if self.options.url else self.options.block_sizes.split(",")
        late = []
        for size in sizes:
            self.start_target(size)
            for name in tests:
                outcome = self.one(size, name)
                before = expected.get((size, name))
                if before and outcome.late and outcome.worse_than(before):
                    late.append((size, name))
                else:
                    self.record(size, name, outcome)
            self.stop_target()
        self.second_attempts(late)

    def second_attempts(self, late):
        """Nothing is known yet about the tests in `late`, but that time was short."""
        if len(late) > SECOND_ATTEMPTS:
            print(f"{len(late)} tests were late; only {SECOND_ATTEMPTS} are tried again", flush=True)
        for number, (size, name) in enumerate(late):
            if number >= SECOND_ATTEMPTS:
                self.record(size, name, Outcome("hang", "late, as many others"))
                continue
            self.start_target(size)
            self.record(size, name, self.one(size, name, again=True))
            self.stop_target()

    def one(self, size, name, again=False):
        begin = time.monotonic()
        outcome = run_test(name, self.urls, self.options.timeout)
        self.spent = time.monotonic() - begin
        if outcome.late and not again:
            print(f"late: {size} {name} {self.spent:.2f}s {outcome.result} {outcome.reason}", flush=True)
        if self.ramdisk and self.ramdisk.process.poll() is not None:
            print(f"the target died during {name}", flush=True)
            self.stop_target()
            self.healthy = False
            self.start_target(size)
        return outcome

    def record(self, size, name, outcome):
        self.results[(size, name)] = outcome
        if self.options.verbose or outcome.result not in ("pass", "skip"):
            print(f"{size:>5} {name:45} {outcome.result:6} {self.spent:6.2f}s {outcome.reason}", flush=True)

    def start_target(self, size):
        if self.options.ramdisk:
            self.ramdisk = Ramdisk(self.options.ramdisk, size)
            self.urls = [self.ramdisk.url, self.ramdisk.url]

    def stop_target(self):
        if self.ramdisk:
            code = self.ramdisk.close()
            self.ramdisk = None
            if code != 0:
                print(f"the target ended with {code}", flush=True)
                self.healthy = False


def compare(results, expected, complete):
    """Prints what changed; returns the number of regressions."""
    regressions = 0
    for key, outcome in results.items():
        before = expected.get(key)
        if before is None:
            if outcome.result not in ("pass", "skip"):
                regressions += 1
                print(f"NEW AND NOT GOOD {key[0]} {key[1]}: {outcome.result} {outcome.reason}")
        elif outcome.worse_than(before):
            regressions += 1
            print(f"REGRESSION {key[0]} {key[1]}: was {before.result}, is {outcome.result}: {outcome.reason}")
        elif before.worse_than(outcome):
            print(f"better {key[0]} {key[1]}: was {before.result}, is {outcome.result}; record with --update")
    for key in expected if complete else []:
        if key not in results:
            regressions += 1
            print(f"NOT RUN {key[0]} {key[1]}: was {expected[key].result}")
    return regressions


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ramdisk", help="iscsi_ramdisk to start")
    parser.add_argument("--block-sizes", default=BLOCK_SIZES, help="with --ramdisk")
    parser.add_argument("--url", help="a target that runs already")
    parser.add_argument("--url2", help="a second path to the same LUN")
    parser.add_argument("--only", help="regular expression on ALL.Suite.Test")
    parser.add_argument("--timeout", type=float, default=60, help="seconds per test")
    parser.add_argument("--update", action="store_true", help="record the results as expected")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    if bool(options.ramdisk) == bool(options.url):
        parser.error("one of --ramdisk and --url")
    expected = {} if options.url else load_expected()
    run = Run(options)
    run.all(expected)
    count = collections.Counter(outcome.result for outcome in run.results.values())
    print("total:", ", ".join(f"{n} {result}" for result, n in sorted(count.items())))
    if options.update:
        merged = load_expected()
        merged.update(run.results)
        save_expected(merged)
        return 0 if run.healthy else 1
    complete = not options.only and options.block_sizes == BLOCK_SIZES and not options.url
    regressions = 0 if options.url else compare(run.results, expected, complete)
    return 0 if run.healthy and regressions == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
