"""Prometheus' text format, and the tables of docs/metrics.md."""

import re

from .node import ROOT

SAMPLE = re.compile(r'^(\w+)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Scrape:
    """One answer of /metrics. A histogram's series are also found under its own name, without `le`."""

    def __init__(self, text):
        self.types = {}
        self.help = {}
        self.samples = {}  # list of (labels, value) by name
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ", 3)
                self.types[name] = kind
            elif line.startswith("# HELP "):
                _, _, name, help_text = line.split(" ", 3)
                self.help[name] = help_text
            elif line and not line.startswith("#"):
                name, labels, value = SAMPLE.match(line).groups()
                self.samples.setdefault(name, []).append((dict(LABEL.findall(labels or "")), float(value)))
        for name, kind in self.types.items():
            if kind == "histogram":
                self.samples[name] = self.samples[f"{name}_count"]

    def one(self, name, **labels):
        """The value of the only series with these labels."""
        found = [value for has, value in self.samples[name] if labels.items() <= has.items()]
        assert len(found) == 1, f"{name}{labels}: {len(found)} series"
        return found[0]


class Documented:
    def __init__(self, kind, labels):
        self.kind = kind
        self.labels = labels


def documented():
    """Kind and labels of every metric in docs/metrics.md, by name."""
    sections = re.split(r"^## ", (ROOT / "docs" / "metrics.md").read_text(), flags=re.M)[1:]
    found = {}
    for section in sections:
        for name, kind in re.findall(r"^\| `(umblock_\w+)` \| ([^|]+) \|", section, re.M):
            found[name] = Documented(kind.split()[0], section_labels(section, name, "per state" in kind))
        if section.startswith("Runtime"):
            for counter in re.findall(r"`(\w+)`", section.split("`umblock_runtime_NAME_total`", 1)[1]):
                found[f"umblock_runtime_{counter}_total"] = Documented("counter", set())
    return found


def section_labels(section, name, per_state):
    """From the sentence above a table: `Label ...` or `Labels ...` for all of it, `Portals have ...;
    targets ...` by the noun in the metric's name."""
    head = section.split("| name |")[0]
    labels = set()
    if match := re.search(r"^Labels? ([^.;]*)", head, re.M):
        labels = set(re.findall(r"`(\w+)`", match.group(1)))
    elif name == "umblock_build_info":
        labels = {"version", "node"}
    elif match := re.search(rf"\b{name.split('_')[1]}s(?: have)? ([^;.]*)", head, re.I):
        labels = set(re.findall(r"`(\w+)`", match.group(1)))
    return labels | ({"state"} if per_state else set())
