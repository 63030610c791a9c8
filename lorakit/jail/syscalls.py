"""What a jailed Python may ask of the kernel: everything that is not here is refused with EPERM.

Numbers from Linux's asm/unistd_64.h (x86_64) and asm-generic/unistd.h (aarch64); None: the
architecture has no such call. No fork, clone or thread (so one process's memory limit is that of
the whole), no socket, no pipe, no lock on a file that the host reads too, no change of a file, and
nothing that looks at another process. `execve` is how bubblewrap starts Python.
"""

from __future__ import annotations

MACHINES = ("x86_64", "aarch64")  # the columns below, as platform.machine() names them

ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # what is open, and files to read
    "read": (0, 63),
    "readv": (19, 65),
    "pread64": (17, 67),
    "write": (1, 64),
    "writev": (20, 66),
    "open": (2, None),
    "openat": (257, 56),
    "close": (3, 57),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "lseek": (8, 62),
    "stat": (4, None),
    "lstat": (6, None),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getcwd": (79, 17),
    "getdents64": (217, 61),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    # its own memory, below the limit of its address space
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "brk": (12, 214),
    "madvise": (28, 233),
    # itself
    "execve": (59, 221),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "arch_prctl": (158, None),
    "set_tid_address": (218, 96),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "futex": (202, 98),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "prlimit64": (302, 261),
    "getrusage": (98, 165),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "tgkill": (234, 131),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getitimer": (36, 102),
    "restart_syscall": (219, 128),
    # time, chance, and what machine this is
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrandom": (318, 278),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
}

# Allowed where the second argument is one of these.
ALLOWED_WITH: dict[str, tuple[tuple[int | None, int | None], tuple[int, ...]]] = {
    # Python's `open` asks whether a file is a terminal (TCGETS) and closes it on exec (FIOCLEX).
    "ioctl": ((16, 29), (0x5401, 0x5451)),
    # Copies and flags of descriptors (F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL,
    # F_DUPFD_CLOEXEC); no locks and leases, which other readers of the file would feel.
    "fcntl": ((72, 25), (0, 1, 2, 3, 4, 1030)),
}
