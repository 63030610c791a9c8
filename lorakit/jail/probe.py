"""Run in the jail before anybody else's code: the names of the walls that do not stand, one a line.

Its input is `filtered`, with the whole jail, or `unfiltered`, without the filter of system calls:
what that filter refuses must not hide that a wall behind it is missing.
"""

import ctypes
import os
import resource
import socket
import struct
import sys

SETTING = {"PYTHONHASHSEED", "PYTHONUTF8", "PWD", "LC_CTYPE"}  # the last two by bwrap and Python
HOST_PATHS = ("/etc/passwd", "/proc/self", "/proc/1", "/sys/kernel", "/dev/shm")
HOST_FOLDERS = ("/home", "/var", "/root", "/opt", "/srv")  # Python itself may lie in them
NEW_USER_NAMESPACE, NO_NEW_PRIVILEGES, CAPABILITY_VERSION = 0x10000000, 39, 0x20080522


def filtered():
    yield "processes", fork
    yield "threads", start_thread
    yield "sockets", open_socket
    yield "memory", take_all_memory
    yield "processor time", unlimited_time


def unfiltered():
    libc = ctypes.CDLL(None)
    yield "user namespaces", lambda: libc.unshare(NEW_USER_NAMESPACE) == 0 or refuse()
    yield "capabilities", lambda: has_capabilities(libc) or refuse()
    yield "privileges", lambda: libc.prctl(NO_NEW_PRIVILEGES, 0, 0, 0, 0) == 1 and refuse()
    yield "network", lambda: {name for _, name in socket.if_nameindex()} <= {"lo"} and refuse()
    yield "process numbers", lambda: os.getpid() == 1 and refuse()
    yield "environment", lambda: set(os.environ) <= SETTING and refuse()
    yield "files to read", lambda: reads_the_host() or refuse()
    yield "descriptors", lambda: any(map(is_open, range(3, 256))) or refuse()
    yield "files to write", write_somewhere


def reads_the_host():
    own = [path.split("/") for path in (sys.base_prefix, sys.executable, *sys.path)]
    for folder in filter(os.path.isdir, HOST_FOLDERS):
        ways = {path[2] for path in own if path[1:2] == [folder[1:]] and len(path) > 2}
        if not set(os.listdir(folder)) <= ways:
            return True
    return any(map(os.path.exists, HOST_PATHS))


def has_capabilities(libc):
    header, sets = struct.pack("=Ii", CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    return libc.capget(header, sets) != 0 or any(sets)


def refuse():
    raise OSError


def fork():
    if os.fork() == 0:
        os._exit(0)


def start_thread():
    import _thread

    _thread.start_new_thread(int, ())


def open_socket():
    socket.socket(socket.AF_UNIX)


def take_all_memory():
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    return limit == resource.RLIM_INFINITY or bytearray(limit)


def unlimited_time():
    return resource.getrlimit(resource.RLIMIT_CPU)[1] == resource.RLIM_INFINITY or refuse()


def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def write_somewhere():
    for folder in ["/", *(folder for folder, _, _ in os.walk("/"))]:
        try:
            os.close(os.open(os.path.join(folder, "probe"), os.O_CREAT | os.O_WRONLY))
        except OSError:
            continue
        return
    refuse()


def main():
    for name, attempt in {"filtered": filtered, "unfiltered": unfiltered}[sys.stdin.read()]():
        try:
            attempt()
        except (OSError, MemoryError, RuntimeError):
            continue
        print(name)
    print("done")


if __name__ == "__main__":
    main()
