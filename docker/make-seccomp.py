#!/usr/bin/python3
"""Writes docker/seccomp.json: the system calls that umblockd, umctl and their start-up may make.

    docker/make-seccomp.py            rewrites the profile
    docker/make-seccomp.py --check    fails if it is not what this script writes

Everything else fails with EPERM. The lists are by purpose, so that a reader can judge them; they
were found with `strace -fc` on the daemon under the tests, plus what glibc, the container runtime
and the other architecture use instead. In contrast to Docker's default profile the io_uring calls are
in, and a few hundred calls that a storage daemon has no use for are out.
"""

import json
import pathlib
import sys

ALLOWED = {
    "io_uring, the engine's way to disks and sockets":
        "io_uring_enter io_uring_register io_uring_setup",
    "processes and threads": """
        arch_prctl clone clone3 execve execveat exit exit_group futex futex_waitv getpid getppid gettid
        kill membarrier prctl rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
        rt_sigreturn rt_sigsuspend rt_sigtimedwait sched_getaffinity sched_getparam
        sched_getscheduler sched_get_priority_max sched_get_priority_min sched_setaffinity
        sched_setscheduler sched_yield set_robust_list get_robust_list set_tid_address sigaltstack
        tgkill tkill vfork fork wait4 waitid setpgid getpgid getpgrp getsid setsid pause
        restart_syscall""",
    "identity, as the container runtime sets it up": """
        capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid
        setgid setgroups setresgid setresuid setuid setregid setreuid umask seccomp""",
    "memory": """
        brk madvise mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock munlockall
        munmap memfd_create""",
    "files": """
        access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat
        faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchown fchownat fcntl fdatasync fgetxattr
        flock fstat fstatfs fsync ftruncate getcwd getdents getdents64 getxattr ioctl lchown lgetxattr
        link linkat lseek lstat mkdir mkdirat newfstatat open openat openat2 pread64 preadv preadv2
        pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv rename renameat renameat2
        rmdir stat statfs statx symlink symlinkat sync sync_file_range syncfs truncate unlink unlinkat
        utimensat write writev""",
    "waiting": """
        epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2
        pipe pipe2 poll ppoll pselect6 select signalfd4 timerfd_create timerfd_gettime
        timerfd_settime""",
    "sockets": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
        recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socket socketpair""",
    "time and chance": """
        clock_getres clock_gettime clock_nanosleep getitimer getrandom gettimeofday nanosleep
        setitimer time times""",
    "limits and facts": """
        getcpu getpriority getrlimit getrusage prlimit64 setpriority setrlimit sysinfo uname""",
    "the FUSE front, which needs CAP_SYS_ADMIN besides": "mount umount2",
}


def profile():
    return json.dumps({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
        ],
        "syscalls": [{"names": sorted(set(names.split())), "action": "SCMP_ACT_ALLOW", "comment": purpose}
                     for purpose, names in ALLOWED.items()],
    }, indent=2) + "\n"


def main():
    path = pathlib.Path(__file__).with_name("seccomp.json")
    if "--check" in sys.argv[1:]:
        if path.read_text() != profile():
            sys.exit(f"{path} is not what {__file__} writes; run it")
        return
    path.write_text(profile())


if __name__ == "__main__":
    main()
