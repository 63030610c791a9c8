"""Attempts to break out of the jail. This file is the program that is run, inside and, where that
harms nothing, outside too, so that an attempt that is held is one that would have worked.

Its input is JSON: names of attempts, and what the outside has set out for them. It prints a line
for each: its name, and `held` where it was refused or `escaped` where it worked. Standard library
alone.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import socket
import struct
import sys
import time

X86 = platform.machine() == "x86_64"
REFUSALS = (OSError, MemoryError, RuntimeError, ValueError, ImportError, AttributeError)

HELD = {}  # name -> function
HARMLESS = set()  # names that are tried outside as well, by whatever user the tests run as
ENDED = {}  # name -> (function, how the jail must end it)


def held(function):
    HELD[function.__name__] = function
    return function


def works_outside(function):
    HARMLESS.add(function.__name__)
    return held(function)


def ended(how):
    def register(function):
        ENDED[function.__name__] = (function, how)
        return function

    return register


def ask_kernel(on_x86, elsewhere, *arguments):
    """A system call by its number; an error is an OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = on_x86 if X86 else elsewhere
    result = libc.syscall(ctypes.c_long(number), *map(as_argument, arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def as_argument(value):
    return ctypes.c_long(value) if isinstance(value, int) else value


# Processes and threads


@works_outside
def fork(told):
    if os.fork() == 0:
        os._exit(0)
    os.wait()


@held
def fork_bomb(told):
    while True:
        os.fork()


@works_outside
def posix_spawn(told):
    os.waitpid(os.posix_spawn(sys.executable, ["python", "-c", ""], {}), 0)


@works_outside
def subprocess_run(told):
    import subprocess

    subprocess.run([sys.executable, "-c", ""], check=True)


@works_outside
def shell(told):
    if os.system("true") != 0:
        raise OSError


@works_outside
def multiprocessing_pool(told):
    import multiprocessing

    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()


@held
def vfork(told):
    ask_kernel(58, 220, 17)


@held
def clone_a_process(told):
    if ask_kernel(56, 220, 17, 0, 0, 0, 0) == 0:
        os._exit(0)


@held
def clone3_a_process(told):
    if ask_kernel(435, 435, struct.pack("<11Q", 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88) == 0:
        os._exit(0)


@held
def clone_into_namespaces(told):
    if ask_kernel(56, 220, 0x10000000 | 0x20000000 | 17, 0, 0, 0, 0) == 0:
        os._exit(0)


@works_outside
def thread(told):
    import threading

    threading.Thread(target=int).start()


@held
def thread_bomb(told):
    import _thread

    while True:
        _thread.start_new_thread(time.sleep, (100,))


@works_outside
def thread_pool(told):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(abs, [1]))


@held
def daemon(told):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)


@held
def new_session(told):
    os.setsid()


@works_outside
def asyncio_subprocess(told):
    import asyncio

    async def start():
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
        await process.wait()

    asyncio.run(start())


# Memory


@held
def memory_in_one_piece(told):
    bytearray(told["memory_bytes"])


@held
def memory_in_pieces(told):
    pieces = []
    while sum(map(len, pieces)) < told["memory_bytes"]:
        pieces.append(b"x" * (1 << 20))


@held
def memory_of_a_text(told):
    "x" * told["memory_bytes"]


@held
def memory_shared(told):
    import mmap

    held_on_to = []
    while len(held_on_to) << 24 < told["memory_bytes"]:
        held_on_to.append(mmap.mmap(-1, 1 << 24))


@works_outside
def memory_as_a_file(told):
    os.truncate(os.memfd_create("x"), 1 << 30)


@held
def memory_secret(told):
    ask_kernel(447, 447, 0)


@works_outside
def memory_of_system_v(told):
    segment = ask_kernel(29, 194, 0, 1 << 20, 0o1600)
    ask_kernel(31, 195, segment, 0, 0)  # IPC_RMID


@held
def memory_of_message_queues(told):
    ask_kernel(68, 186, 0, 0o1600)


@held
def memory_of_posix_queues(told):
    ask_kernel(240, 180, b"lorakit", 0o102, 0o600, None)  # mq_open


@works_outside
def semaphores(told):
    identity = ask_kernel(64, 190, 0, 1, 0o1600)
    ask_kernel(66, 191, identity, 0, 0)  # IPC_RMID


@works_outside
def memory_of_pipes(told):
    os.pipe()


@held
def memory_beyond_its_limit(told):
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    bytearray(told["memory_bytes"])


@held
def memory_locked(told):
    ask_kernel(151, 230, 1)  # mlockall


# What the host has


@works_outside
def environment(told):
    if os.environ.get(told["variable"]) != told["secret"]:
        raise OSError


@works_outside
def environment_of_the_first_process(told):
    open(f"/proc/{os.getpid()}/environ", "rb").close()


@works_outside
def environment_in_memory(told):
    """Every byte that is mapped, from the stack upwards, without /proc."""
    kept = b"".join(ctypes.string_at(ctypes.cast(p, ctypes.c_char_p)) for p in environ_pointers())
    if told["secret"].encode() not in kept:
        raise OSError


def environ_pointers():
    pointers = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    number = 0
    while pointers[number]:
        yield pointers[number]
        number += 1


@works_outside
def password_file(told):
    open("/etc/passwd").close()


@works_outside
def file_of_the_host(told):
    open(told["file"]).close()


@works_outside
def file_by_climbing(told):
    open(f"/{'../' * 40}{told['file'].lstrip('/')}").close()


@works_outside
def file_by_the_root_of_a_process(told):
    open(f"/proc/self/root{told['file']}").close()


@works_outside
def folder_of_processes(told):
    os.listdir("/proc")


@works_outside
def folder_of_the_kernel(told):
    os.listdir("/sys")


@works_outside
def home(told):
    if not os.listdir(told["home"]):
        raise OSError


@held
def installed_packages(told):
    """The folder is there, mounted over by an empty one."""
    folder = os.path.join(os.path.dirname(os.__file__), "site-packages")
    if not os.listdir(folder):
        raise OSError


@works_outside
def shared_memory_folder(told):
    os.listdir("/dev/shm")


@works_outside
def devices(told):
    if not set(os.listdir("/dev")) & {"null", "tty", "mem", "kmsg", "zero"}:
        raise OSError


@held
def kernel_memory(told):
    open("/dev/mem", "rb").close()


@held
def host_name(told):
    if os.uname().nodename == "jail":
        raise OSError


@held
def open_by_handle(told):
    ask_kernel(304, 265, -100, ctypes.create_string_buffer(128), 0)


@held
def file_handle(told):
    ask_kernel(303, 264, -100, b"/", ctypes.create_string_buffer(b"\x40\0\0\0", 128),
               ctypes.byref(ctypes.c_int()), 0)  # fmt: skip


@held
def descriptors(told):
    """What it was started with beyond 0, 1 and 2."""
    for number in range(3, 1024):
        try:
            os.fstat(number)
        except OSError:
            continue
        return
    raise OSError


@held
def other_inputs(told):
    for number in (0, 1, 2):
        if os.isatty(number):
            return
    raise OSError


# Changing files


def places():
    """Folders that could be written to."""
    yield from ("/", "/tmp", "/dev", "/dev/shm", "/var/tmp", os.path.dirname(os.__file__))
    for folder, _, _ in os.walk("/"):
        yield folder


def somewhere(change):
    for place in places():
        try:
            change(os.path.join(place, "x"))
        except OSError:
            continue
        return
    raise OSError


@held
def fill_the_disk(told):
    def fill(path):
        with open(path, "wb") as file:
            while True:
                file.write(bytes(1 << 20))

    somewhere(fill)


@held
def many_files(told):
    def several(path):
        for number in range(1000):
            open(f"{path}{number}", "w").close()

    somewhere(several)


@held
def deep_folders(told):
    def deepen(path):
        for _ in range(1000):
            os.mkdir(path)
            path += "/x"

    somewhere(deepen)


@held
def link_to_the_outside(told):
    somewhere(lambda path: os.symlink("/", path))


@held
def hard_link(told):
    somewhere(lambda path: os.link(os.__file__, path))


@held
def named_pipe(told):
    somewhere(os.mkfifo)


@held
def device_node(told):
    somewhere(lambda path: os.mknod(path, 0o20666, os.makedev(1, 1)))


@held
def unnamed_file(told):
    somewhere(lambda path: os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR))


@held
def temporary_file(told):
    import tempfile

    tempfile.TemporaryFile().close()


@held
def change_the_library(told):
    open(os.__file__, "a").close()


@held
def change_the_interpreter(told):
    open(sys.executable, "r+b").close()


@held
def change_the_runner(told):
    open("/inside.py", "a").close()


@held
def change_its_own_file(told):
    open("/solution.py", "a").close()


@held
def change_the_mode(told):
    os.chmod(os.__file__, 0o777)


@held
def change_the_owner(told):
    os.chown(os.__file__, 0, 0)


@held
def change_the_time(told):
    os.utime(os.__file__, (0, 0))


@held
def extended_attribute(told):
    os.setxattr(os.__file__, "user.x", b"x")


@held
def delete_the_library(told):
    os.remove(os.__file__)


@held
def rename_the_library(told):
    os.rename(os.__file__, os.__file__ + "x")


@held
def lock_the_library(told):
    import fcntl

    fcntl.flock(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_SH)


@held
def lock_a_range_of_the_library(told):
    import fcntl

    fcntl.lockf(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_SH)


@held
def lease_on_the_library(told):
    import fcntl

    fcntl.fcntl(os.open(os.__file__, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)


# The network


def connect(family, kind, address):
    with socket.socket(family, kind) as one:
        one.settimeout(2)
        one.connect(address)


@works_outside
def network_tcp(told):
    connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", told["port"]))


@works_outside
def network_udp(told):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", ("127.0.0.1", told["port"]))


@held
def network_ipv6(told):
    connect(socket.AF_INET6, socket.SOCK_STREAM, ("::1", told["port"]))


@works_outside
def network_unix(told):
    connect(socket.AF_UNIX, socket.SOCK_STREAM, told["socket"])


@works_outside
def network_abstract(told):
    connect(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + told["abstract"])


@works_outside
def network_netlink(told):
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()


@held
def network_packet(told):
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3).close()


@held
def network_vsock(told):
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()


@held
def network_raw(told):
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


@held
def network_of_the_kernels_ciphers(told):
    socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).close()


@works_outside
def network_pair(told):
    socket.socketpair()


@works_outside
def network_listen(told):
    socket.create_server(("127.0.0.1", 0)).close()


@held
def network_names(told):
    socket.getaddrinfo("example.org", 80)


@held
def network_http(told):
    import urllib.request

    urllib.request.urlopen(f"http://127.0.0.1:{told['port']}", timeout=2)


@held
def network_by_a_descriptor(told):
    for number in range(64):
        try:
            socket.socket(fileno=number)
        except OSError:
            continue
        return
    raise OSError


# Other processes


@held
def trace_the_first_process(told):
    ask_kernel(101, 117, 16, 1, 0, 0)


@held
def trace_the_parent(told):
    ask_kernel(101, 117, 16, told["pid"], 0, 0)


@held
def be_traced(told):
    ask_kernel(101, 117, 0, 0, 0, 0)


@works_outside
def memory_of_a_process(told):
    source = ctypes.create_string_buffer(8)
    piece = struct.pack("=QQ", ctypes.addressof(source), 8)
    ask_kernel(310, 270, os.getpid(), piece, 1, piece, 1, 0)


@held
def memory_of_the_parent(told):
    open(f"/proc/{told['pid']}/mem", "rb").close()


@works_outside
def descriptor_of_a_process(told):
    os.close(os.pidfd_open(os.getpid()))


@held
def descriptors_of_the_parent(told):
    ask_kernel(438, 438, ask_kernel(434, 434, told["pid"], 0), 0, 0)


@held
def end_the_parent(told):
    os.kill(told["pid"], 0)


@held
def end_everybody(told):
    """Signal 0 asks whether it might."""
    os.kill(-1, 0)


@held
def signal_with_a_value(told):
    ask_kernel(129, 138, told["pid"], 0, ctypes.create_string_buffer(128))


@works_outside
def processors_of_the_parent(told):
    """The call is allowed, on itself: nobody else has a number here."""
    os.sched_getaffinity(told["pid"])


@works_outside
def limits_of_the_parent(told):
    resource.prlimit(told["pid"], resource.RLIMIT_NOFILE)


@works_outside
def signal_a_thread_of_the_parent(told):
    ask_kernel(234, 131, told["pid"], told["pid"], 0)  # tgkill; 0 asks whether it might


@works_outside
def outlive_the_parent(told):
    """The end of bwrap is told by a signal that prctl could switch off (PR_SET_PDEATHSIG)."""
    ask_kernel(157, 167, 1, 0, 0, 0, 0)


@works_outside
def group_of_its_own(told):
    os.setpgid(0, 0)


@works_outside
def share_processors_with_the_parent(told):
    os.sched_setaffinity(0, os.sched_getaffinity(0))


@works_outside
def priority(told):
    os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0))


@held
def priority_of_real_time(told):
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


@held
def terminal_input(told):
    import fcntl

    fcntl.ioctl(0, 0x5412, b"x")  # TIOCSTI


@held
def terminal_selection(told):
    import fcntl

    fcntl.ioctl(0, 0x541C, b"\x03")  # TIOCLINUX


@held
def terminal_of_the_session(told):
    open("/dev/tty").close()


# Namespaces, mounts, capabilities


@held
def new_user_namespace(told):
    ask_kernel(272, 97, 0x10000000)


@held
def new_network_namespace(told):
    ask_kernel(272, 97, 0x40000000)


@held
def enter_a_namespace(told):
    ask_kernel(308, 268, 0, 0)


@held
def mount(told):
    ask_kernel(165, 40, b"none", b"/", b"tmpfs", 0, None)


@held
def mount_proc(told):
    ask_kernel(165, 40, b"proc", b"/", b"proc", 0, None)


@held
def mount_in_the_new_way(told):
    ask_kernel(430, 430, b"tmpfs", 0)


@held
def open_a_tree_of_mounts(told):
    ask_kernel(428, 428, -100, b"/", 1)


@held
def unmount(told):
    ask_kernel(166, 39, os.path.dirname(os.__file__).encode(), 2)


@held
def pivot_root(told):
    ask_kernel(155, 41, b"/", b"/")


@held
def change_root(told):
    os.chroot("/")


@held
def become_root(told):
    if os.getuid() == 0:
        return
    os.setuid(0)


@held
def capabilities(told):
    everything = struct.pack("<6I", *[0xFFFFFFFF] * 6)
    ask_kernel(126, 91, struct.pack("<II", 0x20080522, 0), everything)


@held
def privileges_again(told):
    ask_kernel(157, 167, 38, 0, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS


@held
def other_name_of_the_host(told):
    ask_kernel(170, 161, b"x", 1)


# The rest of the kernel


@held
def keys_of_the_kernel(told):
    ask_kernel(250, 219, 0, -3, 1, 0, 0)


@held
def add_a_key(told):
    ask_kernel(248, 217, b"user", b"x", b"x", 1, -3)


@held
def bpf(told):
    ask_kernel(321, 280, 0, ctypes.create_string_buffer(128), 128)


@held
def performance_events(told):
    ask_kernel(298, 241, ctypes.create_string_buffer(b"\0\0\0\0\x70", 112), 0, -1, -1, 0)


@held
def io_uring(told):
    ask_kernel(425, 425, 1, ctypes.create_string_buffer(120))


@held
def user_faults(told):
    ask_kernel(323, 282, 1)


@works_outside
def watch_files(told):
    ask_kernel(294, 26, 0)


@held
def watch_all_files(told):
    ask_kernel(300, 262, 0, 0)


@held
def kernel_module(told):
    ask_kernel(175, 105, b"", 0, b"")


@held
def another_kernel(told):
    ask_kernel(246, 104, 0, 0, None, 0)


@held
def kernel_log(told):
    ask_kernel(103, 116, 10, None, 0)


@held
def set_the_clock(told):
    time.clock_settime(time.CLOCK_REALTIME, time.time())


@held
def swap(told):
    ask_kernel(168, 225, b"/")


@held
def accounting(told):
    ask_kernel(163, 89, b"/x")


@works_outside
def personality(told):
    ask_kernel(135, 92, 0xFFFFFFFF)


@works_outside
def barriers(told):
    ask_kernel(324, 283, 0, 0, 0)


@held
def compare_processes(told):
    ask_kernel(312, 272, told["pid"], told["pid"], 0, 0, 0)


@works_outside
def asynchronous_reads(told):
    context = ctypes.c_ulong()
    ask_kernel(206, 0, 1, ctypes.byref(context))


@works_outside
def close_a_range(told):
    ask_kernel(436, 436, 1000, 1001, 0)


@held
def ports_of_the_machine(told):
    ask_kernel(173 if X86 else 9999, 9999, 0x80, 1, 1)  # ioperm


@held
def segments_of_the_processor(told):
    ask_kernel(154 if X86 else 9999, 9999, 0, ctypes.create_string_buffer(16), 16)  # modify_ldt


@held
def start_by_a_descriptor(told):
    ask_kernel(322, 281, -100, sys.executable.encode(), None, None, 0)  # execveat


@works_outside
def open_in_the_new_way(told):
    how = struct.pack("<3Q", 0, 0, 0)
    os.close(ask_kernel(437, 437, -100, b"/", how, 24))


@held
def own_filter(told):
    ask_kernel(317, 277, 0, 0, None)


@held
def own_walls(told):
    ask_kernel(444, 444, None, 0, 1)


@works_outside
def event_loop(told):
    import select

    select.epoll().close()


@works_outside
def timers(told):
    identity = ctypes.c_int()
    ask_kernel(222, 107, 0, None, ctypes.byref(identity))


@held
def unknown_to_anybody(told):
    ask_kernel(999, 999)


# What has to be ended


@ended("took more than .* s|processor time")
def busy(told):
    while True:
        pass


@ended("took more than .* s|processor time")
def huge_number(told):
    9 ** (9 ** (9**9))


@ended("took more than .* s|processor time")
def hopeless_pattern(told):
    import re

    re.match("(a|a)*b", "a" * 60)


@ended("took more than .* s")
def sleep(told):
    time.sleep(600)


@ended("took more than .* s")
def sleep_without_signals(told):
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    while True:
        time.sleep(600)


@ended("took more than .* s")
def sleep_after_closing_everything(told):
    os.closerange(0, 1024)
    time.sleep(600)


@ended("took more than .* s")
def at_its_exit(told):
    import atexit

    @atexit.register
    def stay():
        while True:
            time.sleep(600)


@ended("took more than .* s")
def in_its_destructor(told):
    class Stays:
        def __del__(self):
            while True:
                time.sleep(600)

    Stays()


@ended("wrote more than .* bytes")
def flood(told):
    while True:
        os.write(1, bytes(1 << 16))


@ended("wrote more than .* bytes")
def flood_of_errors(told):
    while True:
        os.write(2, bytes(1 << 16))


@ended("wrote more than .* bytes")
def flood_of_both(told):
    while True:
        os.write(1, bytes(1 << 10))
        os.write(2, bytes(1 << 10))


@ended("ended by signal")
def crash(told):
    ctypes.string_at(0)


@ended("ended by signal")
def core_dump(told):
    signal.signal(signal.SIGABRT, lambda *_: None)
    os.abort()


@ended("ended by signal|killed")
def stack_without_end(told):
    sys.setrecursionlimit(1 << 30)

    class Endless:
        def __getattr__(self, name):
            return getattr(self, name + "x")

    print(Endless().x)


@ended("ended by signal")
def calls_of_another_architecture(told):
    """x86_64 has a second set of numbers, x32, which a filter must not forget."""
    if X86:
        ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 | 39))
    else:  # other machines have no such calls
        ctypes.string_at(0)


@ended("ended by signal")
def calls_of_32_bits(told):
    """Machine code may enter the kernel by int 0x80, which has a third set of numbers."""
    if X86:
        run_machine_code(b"\xb8\x14\0\0\0\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
    else:
        ctypes.string_at(0)


def run_machine_code(code):
    import mmap

    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    ctypes.CFUNCTYPE(ctypes.c_long)(address)()


@held
def stop_itself(told):
    """It is the first process of its namespace, which no signal of its own stops."""
    signal.raise_signal(signal.SIGSTOP)
    raise OSError


def main():
    told = json.loads(sys.stdin.read())
    for name in told["names"]:
        function = HELD[name] if name in HELD else ENDED[name][0]
        try:
            function(told)
        except REFUSALS as error:
            print(name, "held", type(error).__name__, flush=True)
        else:
            print(name, "escaped", flush=True)


if __name__ == "__main__":
    main()
