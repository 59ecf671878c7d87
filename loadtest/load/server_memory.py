"""Memory of a server on this machine: finds its processes, samples their memory and fits its growth."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

_PROC = Path("/proc")
_LISTENING = "0A"
_MB = 1e6
_RAY_SESSION = re.compile(r"session_[\d-]+_[\d-]+_\d+_\d+")


@dataclass(frozen=True)
class Process:
    """A running process."""

    pid: int
    parent: int
    command: str

    @property
    def name(self) -> str:
        """Name for reports: a Ray worker's title without its current method, or the program."""
        words = self.command.split()
        first = words[0] if words else str(self.pid)
        return first.split(".")[0] if first.startswith("ray::") else first.rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Resident memory over a run, in MB (10^6 bytes), and a straight line through its samples.

    `slope_mb_per_minute` has a 95 % interval `low` to `high` that takes the samples as independent; `r_squared` is the
    share of their variance on the line. All four are None for fewer than three samples.
    """

    samples: int
    first_mb: float
    last_mb: float
    highest_mb: float
    slope_mb_per_minute: float | None
    low: float | None
    high: float | None
    r_squared: float | None


@dataclass(frozen=True)
class ServerMemory:
    """Memory growth of all the server's processes together, and of the processes of each name.

    `second_half` is of all together again: in the first minutes a server fills caches, what leaks goes on.
    """

    total: Growth
    second_half: Growth
    by_name: dict[str, Growth]


def growth(at_s: Sequence[float], resident_mb: Sequence[float]) -> Growth:
    """Fits a line through samples; raises ValueError if there are none."""
    if not resident_mb:
        raise ValueError("no samples of memory")
    slope: float | None = None
    low: float | None = None
    high: float | None = None
    r_squared: float | None = None
    if len(at_s) >= 3:
        from scipy import stats

        fit = stats.linregress(np.asarray(at_s) / 60, resident_mb)
        half = float(stats.t.ppf(0.975, len(at_s) - 2)) * fit.stderr
        slope = float(fit.slope)
        low = float(fit.slope - half)
        high = float(fit.slope + half)
        r_squared = float(fit.rvalue**2)
    return Growth(
        samples=len(at_s),
        first_mb=resident_mb[0],
        last_mb=resident_mb[-1],
        highest_mb=max(resident_mb),
        slope_mb_per_minute=slope,
        low=low,
        high=high,
        r_squared=r_squared,
    )


class MemorySampler:
    """Samples the resident memory of a server's processes, each time of those that run then.

    `pids` are the roots of process trees; left out, they are what listens at the address.
    """

    def __init__(self, url: str, pids: Sequence[int] = ()) -> None:
        self._port = _port(url)
        self._pids = pids
        self._has_listener = listening_pid(self._port) is not None
        self._samples: list[tuple[float, dict[str, float]]] = []

    def sample(self) -> None:
        """Takes a sample now."""
        running = processes()
        if self._pids:
            found = trees(running, self._pids)
        else:
            listener = listening_pid(self._port)
            # Whoever listened may be gone for a moment: a sample of other processes would only mislead.
            found = server_processes(listener, running) if listener or not self._has_listener else []
        by_name: dict[str, float] = {}
        for process in found:
            by_name[process.name] = by_name.get(process.name, 0.0) + resident_mb(process.pid)
        if by_name:
            self.add(time.monotonic(), by_name)

    def add(self, at_s: float, resident_mb: dict[str, float]) -> None:
        """Adds a sample that was taken at a time (`time.monotonic`): the resident memory by process name, in MB."""
        self._samples.append((at_s, resident_mb))

    def memory(self, since_s: float = 0.0) -> ServerMemory | None:
        """Growth over the samples since a time (`time.monotonic`), over all if those are too few; None if none."""
        samples = [sample for sample in self._samples if sample[0] >= since_s]
        samples = samples if len(samples) >= 3 else self._samples
        if not samples:
            return None
        names = sorted({name for _, by_name in samples for name in by_name})
        return ServerMemory(
            _growth_of(samples),
            _growth_of(samples[len(samples) // 2 :]),
            {name: _growth_of(samples, name) for name in names},
        )


def _growth_of(samples: Sequence[tuple[float, dict[str, float]]], name: str | None = None) -> Growth:
    """Growth of the processes of a name, or of all."""
    resident_mb = [by_name.get(name, 0.0) if name else sum(by_name.values()) for _, by_name in samples]
    return growth([at for at, _ in samples], resident_mb)


def is_local(url: str) -> bool:
    """True if a server's address is this machine's, and its processes can be read."""
    if not (_PROC / "self" / "statm").exists():
        return False
    host = urlsplit(url).hostname or ""
    try:
        address = socket.getaddrinfo(host, None)[0]
        with socket.socket(address[0]) as probe:
            # Only an address of this machine can be bound.
            probe.bind((address[4][0], 0))
    except OSError:
        return False
    return True


def processes() -> list[Process]:
    """All processes of this machine."""
    found = []
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            # The name in brackets may itself have spaces and brackets; the state and the parent follow the last.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        found.append(Process(int(folder.name), parent, command))
    return found


def trees(running: Iterable[Process], roots: Iterable[int]) -> list[Process]:
    """The processes with these ids and all their descendants."""
    running, wanted = list(running), set(roots)
    while more := {p.pid for p in running if p.parent in wanted} - wanted:
        wanted |= more
    return [p for p in running if p.pid in wanted]


def server_processes(listener: int | None, running: Sequence[Process]) -> list[Process]:
    """Processes of the server whose process `listener` listens on its port, without this process and its children.

    Its process tree; where Ray started it, all that belongs to the same Ray session on this machine. Every Ray worker
    where it is not known who listens.
    """
    by_pid = {p.pid: p for p in running}
    if listener is None or listener not in by_pid:
        found = [p for p in running if p.command.startswith("ray::")]
    else:
        raylet = next((p for p in _ancestors(by_pid, listener) if p.name == "raylet"), None)
        if raylet is None:
            found = trees(running, [listener])
        else:
            session = _RAY_SESSION.search(raylet.command)
            roots = {p.pid for p in running if session and session.group() in p.command} | {raylet.pid}
            found = trees(running, roots)
    own = {p.pid for p in trees([p for p in running if p not in found], [os.getpid()])} | {os.getpid()}
    return [p for p in found if p.pid not in own]


def resident_mb(pid: int) -> float:
    """A process's resident memory in MB, 0 if it ended."""
    try:
        pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / _MB


def listening_pid(port: int) -> int | None:
    """The process that listens on a TCP port, None if there is none or it belongs to somebody else."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for columns in map(str.split, lines):
            if columns[3] == _LISTENING and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{columns[9]}]")
    for folder in _PROC.iterdir() if inodes else ():
        if folder.name.isdigit() and not inodes.isdisjoint(_open_files(folder / "fd")):
            return int(folder.name)
    return None


def _open_files(folder: Path) -> Iterable[str]:
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            with contextlib.suppress(OSError):
                yield str(file.readlink())


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _ancestors(by_pid: dict[int, Process], pid: int) -> Iterable[Process]:
    while (process := by_pid.get(pid)) is not None:
        yield process
        pid = process.parent
