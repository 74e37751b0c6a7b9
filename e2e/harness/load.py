"""Writes, flushes and discards on a volume, on either node, until told to stop."""

import subprocess
import sys

# Random writes that overlap each other, with some flushes and holes, from four threads, until there is
# something on standard input. An error ends it with status 3.
WRITER = r"""
import ctypes, ctypes.util, os, random, sys, threading
path, size = sys.argv[1], int(sys.argv[2])
libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
stopped = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(1), stopped.set()), daemon=True).start()
failed = []
def work(seed):
    dice = random.Random(seed)
    fd = os.open(path, os.O_RDWR)
    try:
        while not stopped.is_set() and not failed:
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

STOP = "/run/stop-load"
FIO = ("rm -f {stop}\n"
       "while [ ! -e {stop} ]; do fio --output-format=terse --filename=/dev/drbd0 --direct=1 --ioengine=libaio "
       "--time_based --runtime=3 --size={size} --randrepeat=0 "
       "--name=writes --rw=randwrite --bsrange=4k-128k --iodepth=16 --fsync=32 "
       "--name=discards --rw=randtrim --bsrange=4k-256k --iodepth=2 --rate_iops=40 > /run/fio 2>&1 || {{ cat /run/fio; exit 3; }}\n"
       "done")


class UmblockLoad:
    """On an exported volume of umblock's."""

    def __init__(self, export, size):
        self.process = subprocess.Popen([sys.executable, "-c", WRITER, export, str(size)], stdin=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)

    def running(self):
        return self.process.poll() is None

    def wait(self, timeout=120):
        self.process.wait(timeout)
        return self.process.returncode

    def stop(self, timeout=120):
        """All its requests succeed."""
        assert self.running(), self.process.stderr.read()
        self.process.stdin.write("stop")
        self.process.stdin.flush()
        assert self.wait(timeout) == 0, self.process.stderr.read()


class KernelLoad:
    """On a kernel's volume."""

    def __init__(self, vm, size):
        self.vm = vm
        self.work = vm.background(FIO.format(stop=STOP, size=size))

    def stop(self, timeout=120):
        assert self.work.running(), self.work.wait().stdout
        self.vm.run(f"touch {STOP}")
        self.work.succeed(timeout)
