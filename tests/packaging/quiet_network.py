"""Runs commands in a network of their own that has no way out, and records every attempt to leave it.

    unshare --net python tests/packaging/quiet_network.py PLAN.json RESULTS.json isolated

In that network every address is one of this machine, so an attempt fails at once, by refusal, and its packets can be
read: of Python, of native libraries and of child processes alike, names that are looked up too.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from pathlib import Path

_ROUTES = (
    "link set lo up",
    "route add local default dev lo src 127.0.0.1",
    "-6 route add local default dev lo src ::1",
)
_ETHERNET_BYTES = 14
_ALL_PROTOCOLS, _IPV4, _IPV6 = 0x0003, 0x0800, 0x86DD
_TCP, _UDP = 6, 17
_SO_ATTACH_FILTER = 26
# Classic BPF, (code, jump if true, jump if false, value): everything but packets to 127.0.0.0/8 and ::1.
_FILTER = (
    (0x28, 0, 0, 12),  # the protocol
    (0x15, 0, 2, _IPV4),
    (0x30, 0, 0, 30),  # the first byte of the destination
    (0x15, 9, 10, 127),
    (0x15, 0, 8, _IPV6),
    (0x20, 0, 0, 38),  # the destination, four bytes at a time
    (0x15, 0, 7, 0),
    (0x20, 0, 0, 42),
    (0x15, 0, 5, 0),
    (0x20, 0, 0, 46),
    (0x15, 0, 3, 0),
    (0x20, 0, 0, 50),
    (0x15, 0, 1, 1),
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFF),  # keep
)


@dataclass(frozen=True)
class Step:
    """A command. With `until` it is stopped by Ctrl-C once it has printed that text, and `then` has been run."""

    name: str
    command: list[str]
    until: str | None = None
    then: list[list[str]] = field(default_factory=list)


@dataclass
class Outcome:
    """How a step ended, all that it printed, and whom it tried to reach: `udp 10.0.0.2:53 example.com`."""

    returncode: int
    output: str
    reached: list[str]


class Recorder:
    """Reads the packets that are sent to other addresses than those of loopback."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        program = b"".join(struct.pack("HBBI", *instruction) for instruction in _FILTER)
        buffer = (len(_FILTER), _address_of(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", *buffer))
        self._lock = threading.Lock()
        self._reached: dict[str, None] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def take(self) -> list[str]:
        """Whom anybody tried to reach since the last call, each once."""
        # A packet of our own, so that all that were sent before have been read.
        mark = "192.0.2.213:9"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            while True:
                with self._lock:
                    if any(mark in line for line in self._reached):
                        taken, self._reached = list(self._reached), {}
                        return [line for line in taken if mark not in line]
                probe.sendto(b"", ("192.0.2.213", 9))
                time.sleep(0.05)

    def _read(self) -> None:
        while True:
            line = _describe(self._socket.recv(65535)[_ETHERNET_BYTES:])
            with self._lock:
                self._reached[line] = None


_kept: list[object] = []


def _address_of(program: bytes) -> int:
    import ctypes

    buffer = ctypes.create_string_buffer(program)
    _kept.append(buffer)
    return ctypes.addressof(buffer)


def _describe(packet: bytes) -> str:
    version = packet[0] >> 4
    header_bytes = 4 * (packet[0] & 15) if version == 4 else 40
    protocol, to = (packet[9], packet[16:20]) if version == 4 else (packet[6], packet[24:40])
    body = packet[header_bytes:]
    kind = {_TCP: "tcp", _UDP: "udp"}.get(protocol)
    if kind is None:
        return f"protocol {protocol} {ip_address(to)}"
    port = int.from_bytes(body[2:4], "big")
    name = f" {_asked_name(body[8:])}" if kind == "udp" and port == 53 else ""
    return f"{kind} {ip_address(to)}:{port}{name}"


def _asked_name(query: bytes) -> str:
    """The name that a DNS query asks for."""
    labels, at = [], 12
    while at < len(query) and query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode(errors="replace"))
        at += 1 + query[at]
    return ".".join(labels)


def run(step: Step, recorder: Recorder | None) -> Outcome:
    """Runs a step to its end."""
    with _started(step) as (process, lines):
        if step.until is not None:
            seen = any(step.until in line for line in lines)
            for command in step.then if seen else ():
                done = subprocess.run(
                    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
                )
                lines.output.append(f"{command[1:]} ended with {done.returncode}\n{done.stdout}")
            process.send_signal(signal.SIGINT)
        for _ in lines:
            pass
        returncode = process.wait()
    return Outcome(returncode, "".join(lines.output), recorder.take() if recorder else [])


class _Lines:
    """Lines of a process as they come; `output` keeps them all."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.output: list[str] = []

    def __iter__(self) -> Iterator[str]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output.append(line)
            yield line


@contextmanager
def _started(step: Step) -> Iterator[tuple[subprocess.Popen[str], _Lines]]:
    with subprocess.Popen(
        step.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process, _Lines(process)
        finally:
            if process.poll() is None:
                process.kill()


def main(plan: Path, results: Path, isolated: bool) -> None:
    """Runs the steps of a plan; without isolation nothing is recorded."""
    if isolated:
        for route in _ROUTES:
            subprocess.run(["ip", *route.split()], check=True)
    recorder = Recorder() if isolated else None
    outcomes = {
        step["name"]: asdict(run(Step(**step), recorder))
        for step in json.loads(plan.read_text(encoding="utf-8"))
    }
    results.write_text(json.dumps(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), isolated=sys.argv[3] == "isolated")
