#!/usr/bin/python3
"""Checks docs/traceability.md and docs/traceability.d/*.md against the results of a CI run.

    ci/check_traceability.py build/ci/results.json

Every row of a table names, in backticks, the tests that prove its point, or says `open: ` and the issue
that will (its number, or `the issue …`). A name is
`Suite.Case` or `binary: Suite.Case` (GoogleTest; after one of these in a row, `Case` alone will do),
`e2e/file.py::test` (pytest), `stage:NAME` (a stage of .ci/run), `sim:NAME`, `mutant:NAME`, `fuzz:NAME`
or `fuzz/NAME.cc`; `*` stands for anything. Each must have run and passed.
"""

import fnmatch
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from results import FAILED, PASSED, Results  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
REFERENCE = re.compile(r"""
    (?: (?:stage|sim|mutant|fuzz|iscsi):[\w.*/-]+
    |   e2e/[\w/*-]+\.py(?:::[\w*\[\].-]+)?
    |   [A-Z*][\w*/]*\.[A-Z*][\w*/]* )$""", re.VERBOSE)
BARE_CASE = re.compile(r"[A-Z]\w*[a-z]\w*\*?$")


def rows(path):
    """The rows of the tables in `path`, with line numbers, without heads and rules."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if not line.startswith("|") or set(line) <= set("|-: "):
            continue
        if number < len(lines) and lines[number].startswith("|") and set(lines[number]) <= set("|-: "):
            continue  # a table's head
        yield number, line


def references(row):
    """What a row names, each as a pattern for the names of results."""
    found = []
    for token in re.findall(r"`([^`]+)`", row):
        token = re.sub(r"^\w+_test: ", "", token)
        source = re.fullmatch(r"fuzz/(?:\w+/)*(\w+)\.cc", token)
        if source:
            found.append(f"fuzz:{source.group(1)}")
        elif REFERENCE.match(token):
            found.append(token)
        elif found and "." in found[-1] and BARE_CASE.match(token):
            found.append(f"*.{token}")
    return found


def known_as(name):
    """A result's name and, for a parametrised test, the name without its parameters."""
    names = {name, re.sub(r"\[.*\]$", "", name)}
    if "." in name and not name.startswith("e2e/") and ":" not in name:
        suite, case = name.split(".", 1)
        names.add(f"{suite.split('/')[-1]}.{case.split('/')[0]}")
        names.add(f"{suite.split('/')[0]}.{case.split('/')[0]}")
    if "::" in name:
        names.add(name.split("::")[0])
    return names


def main():
    results = Results.load(sys.argv[1])
    outcomes = {}
    for entry in results.entries:
        for name in known_as(entry["name"]):
            outcomes.setdefault(name, set()).add(entry["outcome"])
    stages = {entry["name"] for entry in results.entries if entry["stage"] == "stage"}
    problems = []
    proved = open_points = 0
    files = [ROOT / "docs" / "traceability.md", *sorted((ROOT / "docs" / "traceability.d").glob("*.md"))]
    for path in files:
        for number, row in rows(path):
            where = f"{path.relative_to(ROOT)}:{number}"
            named = references(row)
            is_open = re.search(r"\bopen\b", row.rstrip("| ").rsplit("|", 1)[-1]) is not None
            if is_open and not re.search(r"\bopen: .*\bissue\b", row):
                problems.append(f"{where}: 'open' without the issue that will prove it: {row[:100]}")
            if not named and not is_open:
                problems.append(f"{where}: neither a test nor 'open': {row[:100]}")
            for name in named:
                if name == "stage:traceability":  # this very run
                    continue
                if name.startswith("stage:") and name not in stages:
                    problems.append(f"{where}: {name} did not run")
                    continue
                found = [outcome for known, outcome in outcomes.items() if fnmatch.fnmatchcase(known, name.replace("[", "[[]"))]
                if not found:
                    problems.append(f"{where}: {name} did not run")
                elif any(FAILED in outcome for outcome in found):
                    problems.append(f"{where}: {name} failed")
                elif not any(PASSED in outcome for outcome in found):
                    problems.append(f"{where}: {name} was skipped")
            open_points += is_open
            proved += bool(named)
    print(f"{proved} points are proved by tests, {open_points} are open")
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
