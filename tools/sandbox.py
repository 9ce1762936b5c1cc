"""A box for code that nobody trusts: bubblewrap's namespaces, and limits that bubblewrap lacks.

What runs inside sees the system and the Python environment read-only, one folder of input, and an
empty home of its own in memory. It has no network, no other process in sight, no privilege, and
ends with its parent. Nothing it writes comes out, but the bytes of its standard output.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

JOB = Path("/job")  # where the input folder appears inside
HOME = Path("/home/student")
PACKAGE = Path("/package")


@dataclass(frozen=True)
class Limits:
    """What one run may use; beyond, it is ended."""

    seconds: float = 120
    memory: int = 4 << 30  # bytes: of one process's address space, twice this; of all in use, this
    processes: int = 128  # threads included
    output: int = 32 << 20  # bytes of standard output
    disk: int = 256 << 20  # bytes in its home, which is in memory


@dataclass(frozen=True)
class Run:
    """What came of it."""

    output: bytes
    messages: str  # the end of its standard error
    seconds: float
    ended_because: str = ""  # which limit ended it; empty if it ended by itself
    returncode: int = 0


def missing() -> str:
    """What keeps the sandbox from working here; empty if it works."""
    if sys.platform != "linux":
        return f"it needs Linux, and this is {sys.platform}"
    for program in ("bwrap", "setpriv", "prlimit"):
        if not shutil.which(program):
            return f"the program {program} is not installed (Debian: apt install bubblewrap)"
    trial = subprocess.run(
        [*_walls(Path("/usr"), Path("/usr"), Limits()), "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if trial.returncode == 0 else f"bwrap fails: {trial.stderr.strip()}"


def _parents(*paths: Path) -> list[str]:
    """Arguments that make the folders above some paths, readable by anyone."""
    folders = sorted({parent for path in paths for parent in path.parents} - {Path("/")})
    return [word for folder in folders for word in ("--perms", "0755", "--dir", str(folder))]


def _walls(job: Path, package: Path, limits: Limits) -> list[str]:
    """The command line in front of the command that is to run inside."""
    root = os.geteuid() == 0
    spaces = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    if not root:
        spaces += ["--unshare-user", "--disable-userns"]
    python = sorted({Path(sys.prefix), Path(sys.base_prefix)})
    python = [path for path in python if not path.is_relative_to("/usr")]
    system = [Path("/usr"), *(path for path in (Path("/etc/ld.so.cache"),) if path.exists())]
    command = ["bwrap", *spaces, "--unshare-cgroup-try", "--die-with-parent", "--new-session"]
    command += ["--clearenv", "--hostname", "sandbox"]
    command += _parents(*system, JOB, PACKAGE / "x", HOME)
    command += ["--proc", "/proc", "--dev", "/dev"]
    for folder in ("/dev/shm", "/tmp", str(HOME)):  # first: what follows may lie below
        command += ["--perms", "1777", "--size", str(limits.disk), "--tmpfs", folder]
    command += _parents(*python)
    for path in [*python, *system]:
        command += ["--ro-bind", str(path), str(path)]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            command += ["--ro-bind", str(path), str(path)]
    command += ["--ro-bind", str(job.resolve()), str(JOB)]
    command += ["--ro-bind", str(package.resolve()), str(PACKAGE)]
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(HOME)]
    for name, value in environment(HOME, PACKAGE).items():
        command += ["--setenv", name, value]
    command += ["--", *_bounds(limits)]
    if root:  # a process limit does not hold for root, nor is a file closed to it
        # a number that no other run has at this time, for the process limit counts by user
        user = str(1_000_000 + threading.get_native_id())
        command += ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"]
        command += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    return command


def _bounds(limits: Limits) -> list[str]:
    """The command line that sets limits on what follows it."""
    processes = limits.processes
    if os.geteuid() != 0:  # all of this user's count
        processes += sum(
            process.info["num_threads"] or 0
            for process in psutil.process_iter(["uids", "num_threads"])
            if process.info["uids"] and process.info["uids"].real == os.getuid()
        )
    return [
        "prlimit",
        f"--nproc={processes}",
        f"--as={2 * limits.memory}",
        f"--fsize={limits.disk}",
        f"--cpu={4 * int(limits.seconds) + 1}",
        "--core=0",
        "--nofile=512",
    ]


def environment(home: Path, package: Path) -> dict[str, str]:
    """The environment variables inside: none of the caller's."""
    return {
        "HOME": str(home),
        "USER": "student",
        "LOGNAME": "student",
        "LANG": "C.UTF-8",
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(package),
        "PYTHONDONTWRITEBYTECODE": "1",
        "AECORE_DATA": str(home / "no-data"),  # the embedded subset is all there is
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_PLATFORM_DIRS": "1",
        "IPYTHONDIR": str(home / ".ipython"),
        "TMPDIR": str(home),
    }


def run(
    command: list[str], job: Path, package: Path, limits: Limits, *, scratch: Path | None = None
) -> Run:
    """Run a command inside, ending it at the first limit it passes.

    Args:
        command: What to run; in the sandbox, ``job`` is at :data:`JOB`.
        job: The folder it reads.
        package: The folder on its ``PYTHONPATH``.
        limits: What it may use.
        scratch: A folder for it to work in *without any sandbox*, limits only; by default it is
            in the sandbox.
    """
    if scratch is None:
        walled = [*_walls(job, package, limits), *command]
        variables, folder = {"PATH": os.environ.get("PATH", os.defpath)}, Path("/")
    else:
        walled = [*(_bounds(limits) if shutil.which("prlimit") else []), *command]
        variables, folder = environment(scratch, package), scratch
    started = time.monotonic()
    process = subprocess.Popen(
        walled,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=variables,
        cwd=folder,
    )
    output, messages = bytearray(), bytearray()
    readers = [
        threading.Thread(target=_read, args=(process.stdout, output, limits.output), daemon=True),
        threading.Thread(target=_read, args=(process.stderr, messages, 1 << 16), daemon=True),
    ]
    for reader in readers:
        reader.start()
    reason = ""
    try:
        while process.poll() is None and not reason:
            reason = _excess(process.pid, time.monotonic() - started, len(output), limits)
            time.sleep(0.1)
    finally:
        _end(process)
    for reader, stream in zip(readers, (process.stdout, process.stderr), strict=True):
        reader.join(5)
        if not reader.is_alive():  # what left the family may hold its end of the pipe open
            stream.close()
    return Run(
        bytes(output),
        messages[-4000:].decode(errors="replace"),
        time.monotonic() - started,
        reason or _excess(0, 0, len(output), limits),
        process.returncode,
    )


def _read(stream, kept: bytearray, most: int) -> None:
    """Keep the beginning of a stream, one byte more than is allowed at most, and drop the rest."""
    while chunk := stream.read1(1 << 16):
        kept += chunk[: max(0, most + 1 - len(kept))]


def _excess(pid: int, seconds: float, written: int, limits: Limits) -> str:
    """Which limit is passed, in words; empty if none is."""
    if seconds > limits.seconds:
        return f"it ran longer than {limits.seconds:g} s"
    if written > limits.output:
        return f"it wrote more than {limits.output >> 20} MiB"
    if pid and _memory(pid) > limits.memory:
        return f"it used more than {limits.memory / 2**30:g} GiB of memory"
    return ""


def _memory(pid: int) -> int:
    """Bytes of memory in use by a process and all below it."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def _end(process: subprocess.Popen) -> None:
    """Kill a process and all below it; in the sandbox the first takes the others with it."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    for pid in (process.pid, *(member.pid for member in family)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
