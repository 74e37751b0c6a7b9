"""Test results of one CI run: read from the XML of GoogleTest and pytest, counted, written as JSON.

A result is named as docs/traceability.md names it: `Suite.Name` for GoogleTest (parameters after a
slash), `e2e/file.py::test` for pytest, `stage:NAME` for a stage of .ci/run, and what a tool of the
project's own reports (`sim:seed-17`, `mutant:NAME`, `fuzz:TARGET`).
"""

import json
import pathlib
import xml.etree.ElementTree as ElementTree

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Results:
    def __init__(self):
        self.entries = []  # dicts: stage, name, outcome, message

    def add(self, stage, name, outcome, message=""):
        self.entries.append(
            {"stage": stage, "name": name, "outcome": outcome, "message": message.strip()})

    def count(self, outcome):
        return sum(entry["outcome"] == outcome for entry in self.entries)

    def of(self, outcome):
        return [entry for entry in self.entries if entry["outcome"] == outcome]

    def read_gtest(self, stage, directory):
        """Adds every case of the XML files in `directory`; returns how many there were."""
        before = len(self.entries)
        for path in sorted(pathlib.Path(directory).glob("*.xml")):
            for case in ElementTree.parse(path).getroot().iter("testcase"):
                name = f'{case.get("classname")}.{case.get("name")}'
                failures = case.findall("failure")
                if failures:
                    self.add(stage, name, FAILED, failures[0].get("message", ""))
                elif case.get("result") == "skipped" or case.find("skipped") is not None:
                    skipped = case.find("skipped")
                    self.add(stage, name, SKIPPED,
                             skipped.get("message", "") if skipped is not None else "")
                elif case.get("status") != "notrun":
                    self.add(stage, name, PASSED)
        return len(self.entries) - before

    def read_pytest(self, stage, path):
        before = len(self.entries)
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            name = f'{case.get("classname", "").replace(".", "/")}.py::{case.get("name")}'
            bad = case.find("failure") if case.find("failure") is not None else case.find("error")
            skipped = case.find("skipped")
            if bad is not None:
                self.add(stage, name, FAILED, bad.get("message", ""))
            elif skipped is not None:
                self.add(stage, name, SKIPPED, skipped.get("message", ""))
            else:
                self.add(stage, name, PASSED)
        return len(self.entries) - before

    def save(self, path):
        pathlib.Path(path).write_text(json.dumps(self.entries, indent=1))

    @classmethod
    def load(cls, path):
        results = cls()
        results.entries = json.loads(pathlib.Path(path).read_text())
        return results
