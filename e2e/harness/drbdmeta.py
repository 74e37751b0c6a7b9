"""Debian's drbdmeta, which knows nothing of umblock, on copies of its disks."""

import re

from .shell import run

BYTES_PER_BIT = 4096


def copy_of(disk, where):
    run("cp", "--sparse=always", disk, where)
    return where


def drbdmeta(image, *command):
    # Minor "-": no lock file and no question to a kernel module.
    return run("drbdmeta", "--force", "-", "v09", image, "internal", *command,
               env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}).stdout


def apply_activity_log(image):
    drbdmeta(image, "apply-al")


def out_of_sync_bytes(image):
    """What the bitmap of the only peer marks, within the device."""
    dump = drbdmeta(image, "dump-md")
    sectors = int(re.search(r"^la-size-sect (\d+);", dump, re.M).group(1))
    bitmap = re.search(r"^bitmap\[0\] \{(.*?)^\}", dump, re.M | re.S).group(1)
    words = []
    for line in bitmap.splitlines():
        times, word = re.match(r"\s*(?:(\d+) times )?((?:0x[0-9a-fA-F]+;?\s*)*)", line).groups()
        for value in re.findall(r"0x([0-9a-fA-F]+)", word):
            words += [int(value, 16)] * int(times or 1)
    bits = sum(word << (64 * index) for index, word in enumerate(words) if word)
    inside = (1 << (sectors * 512 // BYTES_PER_BIT)) - 1
    return (bits & inside).bit_count() * BYTES_PER_BIT
