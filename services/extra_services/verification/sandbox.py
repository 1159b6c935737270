"""Run an untrusted Python program, limited by the kernel: its own file system, no network, one process.

The program is started by fork and exec from a worker. With `isolated` it is in its own mount, PID, IPC, UTS
and network namespaces: it sees a fresh tmpfs with the files that it was given, and read-only binds of the
interpreter and the system's libraries. It has no /proc and no capabilities, cannot name other processes, and
when it ends the kernel kills everything that it left behind. These namespaces belong to the worker's user
namespace (`enter_user_namespace`), so no privileges of the host are needed.

In every mode a seccomp filter refuses new processes, sockets, mounts, namespaces, tracing and memory that
resource limits do not count; threads are allowed. Limits hold for memory, processor time, threads, open files
and the size of every file, the output included: stdout is a memory file, so that endless output hits the file
size limit and nobody has to read it meanwhile.

Only the standard library is used. util-linux's `unshare` or bubblewrap would be one more program to install
in every image, and neither has the seccomp filter.
"""

import ctypes
import fcntl
import os
import platform
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

#: Where the program's files are, inside the sandbox; its working directory.
BOX = "/box"
#: The interpreter without links, so that its path is the same inside.
_PYTHON = os.path.realpath(sys.executable)
#: Folders that the program sees: system libraries, time zones, and the interpreter with its own library. Not
#: more of /usr or the interpreter's prefix, where hosts may keep files of their own.
_READABLE = tuple(
    dict.fromkeys(
        [
            *("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo"),
            os.path.dirname(_PYTHON),
            os.path.realpath(os.path.join(sys.base_prefix, "lib")),
        ]
    )
)
#: Outside the ids of real users: nobody.
_NOBODY = 65534
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 2, 4, 4096, 16384, 1 << 18, 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_AT_FDCWD, _AT_RECURSIVE, _ATTR_READ_ONLY_NOSUID_NODEV = -100, 0x8000, 1 | 2 | 4
#: The same number on every architecture, as of all newer system calls.
_MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class SandboxLimits:
    """Limits of one program."""

    memory_bytes: int = 2**29
    cpu_seconds: int = 10
    threads: int = 32
    #: Also of each file that it writes.
    output_bytes: int = 2**22
    files_bytes: int = 2**26
    open_files: int = 64


class SandboxUnavailable(Exception):
    """This system does not allow the sandbox."""


def enter_user_namespace(without_network: bool) -> bool:
    """Enter a user namespace, as the same user, and with `without_network` an empty network namespace.

    A process of root also maps nobody, under whose id its programs run; only a process outside may write such
    a map, so a short-lived child does it.

    Returns:
        False where the kernel or the container does not allow it.
    """
    user, group = os.geteuid(), os.getegid()
    entered, enter = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os.close(enter)
            os.read(entered, 1)
            _write_maps(parent, user, group)
        finally:
            os._exit(0)
    os.close(entered)
    allowed: bool = _libc.unshare(_NEWUSER | (_NEWNET if without_network else 0)) == 0
    os.close(enter)
    os.waitpid(child, 0)
    return allowed


def _write_maps(process: int, user: int, group: int) -> None:
    if user == 0:
        lines = f"0 0 1\n{_NOBODY} {_NOBODY} 1\n"
        maps = {"uid_map": lines, "gid_map": lines}
    else:
        maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1\n", "gid_map": f"{group} {group} 1\n"}
    for name, content in maps.items():
        # In one write, as the kernel demands.
        Path(f"/proc/{process}/{name}").write_text(content, encoding="ascii")


class SandboxedProgram:
    """A running program.

    Args:
        files: Name -> content, in its working directory.
        script: The file that Python runs.
        descriptors: Open files, by their number in the program: 0, 1 and 2 at least.
        limits: What it may use.
        isolated: Whether it gets namespaces of its own.

    Raises:
        SandboxUnavailable: It could not be started.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        script: str,
        descriptors: Mapping[int, int],
        limits: SandboxLimits,
        isolated: bool,
    ) -> None:
        self._folder = None if isolated else tempfile.mkdtemp(prefix="extra-rl-code-")
        problems, report = os.pipe2(os.O_CLOEXEC)
        worker = os.getpid()
        self._process = os.fork()
        if self._process == 0:
            os.close(problems)
            _supervise(_Program(files, script, descriptors, limits, self._folder, report, isolated), worker)
        os.close(report)
        with open(problems, "rb") as pipe:
            problem = pipe.read().decode(errors="replace")
        if problem:
            self.kill()
            raise SandboxUnavailable(problem)

    def wait(self, deadline: float) -> int | None:
        """Wait for the program's end.

        Args:
            deadline: As of time.monotonic().

        Returns:
            0 if it exited with 0, another number if not, None if it was killed at the deadline.
        """
        handle = os.pidfd_open(self._process)
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
                self.kill()
                return None
        finally:
            os.close(handle)
        _, status = os.waitpid(self._process, 0)
        self._clean()
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        """Kill the program and all its threads."""
        if self._folder is not None:
            # Without a PID namespace, its group: one process, since it can start no other.
            _kill_group(self._process)
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        self._clean()

    def _clean(self) -> None:
        if self._folder is not None:
            _kill_group(self._process)
            shutil.rmtree(self._folder, ignore_errors=True)


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


# Everything below runs in children of the worker, up to the exec of the program.


@dataclass(frozen=True)
class _Program:
    files: Mapping[str, bytes]
    script: str
    descriptors: Mapping[int, int]
    limits: SandboxLimits
    folder: str | None
    #: Where a problem is reported; closed by the exec.
    report: int
    isolated: bool


def _supervise(program: _Program, worker: int) -> NoReturn:
    """Be the process that the worker waits for."""
    try:
        os.setsid()
        if program.isolated:
            _checked(_libc.unshare(_NEWNS | _NEWPID | _NEWIPC | _NEWUTS | _NEWNET), "namespaces")
        _die_with_parent()
        if os.getppid() != worker:
            os._exit(1)
        child = os.fork()
        if child == 0:
            if program.isolated:
                _be_init(program)
            _execute(program)
        os.close(program.report)
        _close_all_but(())
        os._exit(_exit_code(os.waitpid(child, 0)[1]))
    except BaseException as error:
        _give_up(program, error)


def _be_init(program: _Program) -> NoReturn:
    """Be process 1 of the PID namespace: when it exits, the kernel kills all others."""
    try:
        _die_with_parent()
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        _enter_file_system(program)
        child = os.fork()
        if child == 0:
            _execute(program)
        os.close(program.report)
        _close_all_but(())
        while True:
            ended, status = os.wait()
            if ended == child:
                os._exit(_exit_code(status))
    except BaseException as error:
        _give_up(program, error)


def _execute(program: _Program) -> NoReturn:
    try:
        # Without a namespace for the program, its parent is all that ends it.
        _die_with_parent()
        if program.folder is not None:
            _write_files(Path(program.folder), program.files)
            os.chdir(program.folder)
        _take_descriptors(program)
        if program.isolated and os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            _die_with_parent()  # a change of the user resets it
        _limit(program.limits)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        _filter_system_calls()
        environment = {"HOME": BOX, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
        # Without the user's and the host's packages, and without the script's folder in the path.
        os.execve(_PYTHON, [_PYTHON, "-s", "-S", "-P", "-B", "-X", "utf8", program.script], environment)
    except BaseException as error:
        _give_up(program, error)


def _give_up(program: _Program, error: BaseException) -> NoReturn:
    try:
        os.write(program.report, f"{type(error).__name__}: {error}".encode()[:1000])
    finally:
        os._exit(1)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if 0 <= code < 128 else 128 + abs(code) % 128


def _die_with_parent() -> None:
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")


def _close_all_but(kept: Sequence[int]) -> None:
    start = 0
    for number in (*sorted(kept), os.sysconf("SC_OPEN_MAX")):
        if start < number:  # an empty range would close everything
            os.closerange(start, number)
        start = number + 1


def _take_descriptors(program: _Program) -> None:
    """Give the program its descriptors under their numbers, and nothing else."""
    # Out of the way first, so that no dup2 overwrites one that is still needed.
    copies = {number: os.dup(source) for number, source in program.descriptors.items()}
    highest = max((*copies, *copies.values(), program.report)) + 1
    moved = {number: _duplicate(copy, highest) for number, copy in copies.items()}
    report = _duplicate(program.report, highest)
    for number, copy in moved.items():
        os.dup2(copy, number, inheritable=True)
    spare = max(program.descriptors) + 1
    os.dup2(report, spare, inheritable=False)
    _close_all_but((*program.descriptors, spare))
    object.__setattr__(program, "report", spare)


def _duplicate(descriptor: int, lowest: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)


def _limit(limits: SandboxLimits) -> None:
    for kind, amount in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_DATA, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        # Beside the threads: the worker, the supervisor, the init process and the program itself.
        (resource.RLIMIT_NPROC, limits.threads + 4),
        (resource.RLIMIT_FSIZE, limits.output_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        # 0 would still start the host's handler of core dumps where there is one; 1 does not.
        (resource.RLIMIT_CORE, 1),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        hardest = resource.getrlimit(kind)[1]
        amount = amount if hardest == resource.RLIM_INFINITY else min(amount, hardest)
        resource.setrlimit(kind, (amount, amount))


def _enter_file_system(program: _Program) -> None:
    """Make a root of its own for this mount namespace: a tmpfs, with what Python needs bound read-only."""
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    root = "/tmp"
    options = f"size={program.limits.files_bytes},nr_inodes=4096,mode=755"
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, options)
    for path in _READABLE:
        _bind(root, path)
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        _bind_device(root, device)
    box = Path(root + BOX)
    for folder in (box, Path(root, "tmp")):
        folder.mkdir()
        folder.chmod(0o777)
    _write_files(box, program.files)
    os.chdir(root)
    numbers = _SYSTEM_CALLS[platform.machine()]
    _checked(_libc.syscall(numbers["pivot_root"], b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", _MNT_DETACH), "umount")
    os.chdir(BOX)


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def _bind(root: str, path: str) -> None:
    if os.path.lexists(root + path):
        return
    if os.path.islink(path):
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(os.readlink(path), root + path)
    elif os.path.isdir(path):
        os.makedirs(root + path)
        _mount(path, root + path, "", _MS_BIND | _MS_REC)
        attributes = struct.pack("<QQQQ", _ATTR_READ_ONLY_NOSUID_NODEV, 0, 0, 0)
        target = (root + path).encode()
        changed = _libc.syscall(
            _MOUNT_SETATTR, _AT_FDCWD, target, _AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes))
        )
        _checked(changed, f"a read-only mount of {path}")


def _bind_device(root: str, path: str) -> None:
    target = Path(root + path)
    target.parent.mkdir(exist_ok=True)
    target.touch()
    _mount(path, str(target), "", _MS_BIND)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    done = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _checked(done, f"a mount on {target}")


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"this system does not allow {what}: {os.strerror(number)}")


# seccomp: a program of the classic Berkeley packet filter over the number and arguments of a system call.

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x50000, 0x7FFF0000
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x10000
_CLONE3 = 435
_X32 = 0x40000000

#: Refused on all architectures: io_uring_setup, open_tree, move_mount, fsopen, fspick, pidfd_getfd,
#: process_madvise, mount_setattr, memfd_secret.
_REFUSED = (425, 428, 429, 430, 433, 438, 440, _MOUNT_SETATTR, 447)
#: uname's machine -> system call numbers; "arch" is the kernel's AUDIT_ARCH.
_SYSTEM_CALLS: Mapping[str, Mapping[str, int]] = {
    "x86_64": {
        "arch": 0xC000003E, "clone": 56, "fork": 57, "vfork": 58, "unshare": 272, "setns": 308, "mount": 165,
        "umount2": 166, "pivot_root": 155, "chroot": 161, "ptrace": 101, "keyctl": 250, "add_key": 248,
        "request_key": 249, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "process_vm_readv": 310,
        "process_vm_writev": 311, "socket": 41, "memfd_create": 319, "shmget": 29, "msgget": 68, "semget": 64,
        "mq_open": 240, "personality": 135,
    },
    "aarch64": {
        "arch": 0xC00000B7, "clone": 220, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39,
        "pivot_root": 41, "chroot": 51, "ptrace": 117, "keyctl": 219, "add_key": 217, "request_key": 218,
        "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "process_vm_readv": 270,
        "process_vm_writev": 271, "socket": 198, "memfd_create": 279, "shmget": 194, "msgget": 186,
        "semget": 190, "mq_open": 180, "personality": 92,
    },
}  # fmt: skip


def _filter_system_calls() -> None:
    numbers = _SYSTEM_CALLS.get(platform.machine())
    if numbers is None:
        raise OSError(f"there is no filter of system calls for {platform.machine()}")
    code = b"".join(struct.pack("<HBBI", *line) for line in _filter(numbers))
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    _checked(_libc.prctl(_PR_SET_SECCOMP, 2, header, 0, 0), "a filter of system calls")


def _filter(numbers: Mapping[str, int]) -> list[tuple[int, int, int, int]]:
    """Return the filter, one (code, jump if true, jump if false, value) per instruction."""
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, numbers["arch"]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    lines += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    # The C library falls back to clone, whose flags this filter can read.
    lines += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    for name, number in numbers.items():
        if name not in ("arch", "clone"):
            lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    for number in _REFUSED:
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    lines += [(_EQUAL, 0, 3, numbers["clone"]), (_LOAD, 0, 0, 16)]
    lines += [(_ANY_BIT, 1, 0, _CLONE_THREAD), (_RETURN, 0, 0, _ERRNO | _EPERM), (_RETURN, 0, 0, _ALLOW)]
    return lines
