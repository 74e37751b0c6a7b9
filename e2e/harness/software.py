"""Real software to build: the source of Lua as Debian 12 ships it, fetched once, checked by its
SHA-256."""

import pathlib
import re
import tarfile
import urllib.request

from .loop import sha256
from .shell import output, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAME = "lua5.4_5.4.4.orig.tar.gz"
DIGEST = "164c7849653b80ae67bec4b7473b884bf5cc8d2dca05653475ec2ed27b9ebf61"
DIRECTORY = "lua-5.4.4"
SCRIPT = "local n = 0 for i = 1, 1000 do n = n + i end print(n, _VERSION)"
ANSWER = "500500\tLua 5.4"


def source_archive():
    """Path of the archive, from the mirror that apt uses."""
    cached = ROOT / "build" / "cache" / NAME
    if not cached.exists() or sha256(cached) != DIGEST:
        uris = output("apt-get", "--print-uris", "download", "lua5.4", check=False)
        match = re.search(r"'(https?://[^']*/pool/main/l/lua5\.4/)", uris)
        pool = match.group(1) if match else "http://deb.debian.org/debian/pool/main/l/lua5.4/"
        cached.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(pool + NAME, timeout=60) as answer:
            cached.write_bytes(answer.read())
    assert sha256(cached) == DIGEST, f"{cached} is not the archive it should be"
    return cached


def unpack(where):
    with tarfile.open(source_archive()) as archive:
        archive.extractall(where)
    return pathlib.Path(where) / DIRECTORY


def build(tree, jobs=2):
    run("make", f"-j{jobs}", "linux", cwd=tree, timeout=600)


def clean(tree):
    run("make", "clean", cwd=tree)


def interpreter(tree):
    return pathlib.Path(tree) / "src" / "lua"


def works(tree):
    """The program that was built there computes what it should."""
    return output(interpreter(tree), "-e", SCRIPT) == ANSWER
