"""Writes, flushes and discards on a volume, on either node, until told to stop or out of time."""

import subprocess
import sys

# Random writes that overlap each other, with some flushes and holes, from four threads. An error ends
# it with status 3.
WRITER = r"""
import ctypes, ctypes.util, os, random, sys, threading, time
path, size, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
end = time.monotonic() + seconds
failed = []
def work(seed):
    dice = random.Random(seed)
    fd = os.open(path, os.O_RDWR)
    try:
        while time.monotonic() < end and not failed:
            length = dice.choice([1, 1, 1, 2, 4, 8, 32]) * 4096
            offset = dice.randrange(0, (size - length) // 4096) * 4096
            kind = dice.randrange(20)
            if kind == 0:
                os.fsync(fd)
            elif kind == 1 and libc.fallocate(fd, 3, offset, length) != 0:
                raise OSError(ctypes.get_errno(), "fallocate")
            else:
                os.pwrite(fd, dice.randbytes(64) * (length // 64), offset)
        os.fsync(fd)
    except OSError as error:
        failed.append(error)
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
if failed:
    print(failed[0], file=sys.stderr)
sys.exit(3 if failed else 0)
"""

FIO = ("fio --output-format=terse --filename=/dev/drbd0 --direct=1 --ioengine=libaio --time_based --runtime={seconds} "
       "--size={size} --group_reporting --randrepeat=0 "
       "--name=writes --rw=randwrite --bsrange=4k-128k --iodepth=16 --fsync=32 "
       "--name=discards --rw=randtrim --bsrange=4k-256k --iodepth=2 --rate_iops=40")


class UmblockLoad:
    """On an exported volume of umblock's."""

    def __init__(self, export, size, seconds):
        self.process = subprocess.Popen([sys.executable, "-c", WRITER, export, str(size), str(seconds)],
                                        stderr=subprocess.PIPE, text=True)

    def running(self):
        return self.process.poll() is None

    def wait(self, timeout=600):
        self.process.wait(timeout)
        return self.process.returncode

    def succeed(self, timeout=600):
        status = self.wait(timeout)
        assert status == 0, self.process.stderr.read()


def kernel_load(vm, size, seconds):
    return vm.background(FIO.format(seconds=seconds, size=size))
